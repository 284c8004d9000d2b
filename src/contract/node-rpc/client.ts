/** Control's side of the node RPC: a NodeApi over a unix socket. */
import { connect, type Socket } from 'node:net';
import {
  create,
  type DescMethodUnary,
  fromBinary,
  type MessageInitShape,
  type MessageShape,
  toBinary,
} from '@bufbuild/protobuf';
import { CoppiceError } from '../errors.ts';
import { NodeService, type Volume } from '../gen/node_pb.js';
import type { NodeApi } from '../node-api.ts';
import type { VolumeAndToken } from '../volume-api.ts';
import {
  eventFromMessage,
  eventsQueryToMessage,
  logEntryFromMessage,
  logsQueryToMessage,
  metricFromMessage,
} from './activity-mapping.ts';
import {
  buildFromMessage,
  logQueryToMessage,
  tagFromMessage,
  ticketFromMessage,
  wishToMessage,
} from './build-mapping.ts';
import { decodeFailure } from './failure.ts';
import {
  demandWellFormed,
  networkToMessage,
  positionFromMessage,
  queryToMessage,
  receiptFromMessage,
  requestToMessage,
  resumeResultFromMessage,
  resumeWishToMessage,
  sandboxFromMessage,
  statusFromMessage,
  templateFromMessage,
} from './mapping.ts';
import { MAX_ANSWER_BYTES, MAX_REQUEST_BYTES } from './server.ts';
import {
  forkResultFromMessage,
  snapshotFromMessage,
  snapshotPositionFromMessage,
  snapshotQueryToMessage,
} from './snapshot-mapping.ts';
import { encodeFrame, FrameReader, KIND, METHODS } from './wire.ts';

export interface NodeRpcClientOptions {
  /** Milliseconds for a call; default 60 000. */
  readonly timeoutMs?: number;
  /** Milliseconds for calls that may start, stop or copy a machine; default 180 000. */
  readonly startTimeoutMs?: number;
}

/**
 * @param socketPath the node's unix socket; connected at the first call, and again after the node was away
 * @returns the node's API. Every failure is a CoppiceError: the node's own, `unavailable` when it does not answer,
 *   `aborted` when the signal or the time limit ended the call. Calls are never repeated.
 */
export function connectNodeApi(socketPath: string, options: NodeRpcClientOptions = {}): NodeApi & { close(): void } {
  const connection = new Connection(socketPath);
  const call = <M extends DescMethodUnary>(
    method: M,
    request: MessageInitShape<M['input']>,
    timeoutMs: number,
    signal?: AbortSignal,
  ): Promise<MessageShape<M['output']>> => connection.call(method, request, timeoutMs, signal);
  const { method } = NodeService;
  const usual = options.timeoutMs ?? 60_000;
  const start = options.startTimeoutMs ?? 180_000;

  return {
    async createSandbox(request, signal) {
      demandWellFormed(request);
      const answer = await call(method.createSandbox, requestToMessage(request), start, signal);
      return { sandbox: sandboxFromMessage(answer.sandbox), receipt: receiptFromMessage(answer.receipt) };
    },
    async getSandbox(teamID, sandboxID) {
      const ids = { teamId: teamID, sandboxId: sandboxID };
      demandWellFormed(ids);
      return sandboxFromMessage((await call(method.getSandbox, ids, usual)).sandbox);
    },
    async listSandboxes(query) {
      demandWellFormed(query);
      const answer = await call(method.listSandboxes, queryToMessage(query), usual);
      return {
        sandboxes: answer.sandboxes.map(sandboxFromMessage),
        ...(answer.next === undefined ? {} : { next: positionFromMessage(answer.next) }),
        totalRunning: answer.totalRunning,
      };
    },
    async connectSandbox(teamID, sandboxID, wish) {
      const request = resumeWishToMessage(teamID, sandboxID, wish);
      demandWellFormed(request);
      return resumeResultFromMessage(await call(method.connectSandbox, request, start));
    },
    async resumeSandbox(teamID, sandboxID, wish) {
      const request = resumeWishToMessage(teamID, sandboxID, wish);
      demandWellFormed(request);
      return resumeResultFromMessage(await call(method.resumeSandbox, request, start));
    },
    async pauseSandbox(teamID, sandboxID, { memory }) {
      const request = { teamId: teamID, sandboxId: sandboxID, memory };
      demandWellFormed(request);
      return receiptFromMessage((await call(method.pauseSandbox, request, start)).receipt);
    },
    async forkSandbox(teamID, sandboxID, { count, timeoutSeconds }, signal) {
      const request = { teamId: teamID, sandboxId: sandboxID, count, timeoutSeconds };
      demandWellFormed(request);
      return forkResultFromMessage(await call(method.forkSandbox, request, start, signal));
    },
    async rollbackSandbox(teamID, sandboxID, snapshot) {
      const request = { teamId: teamID, sandboxId: sandboxID, snapshot };
      demandWellFormed(request);
      return resumeResultFromMessage(await call(method.rollbackSandbox, request, start));
    },
    async refreshSandbox(teamID, sandboxID, timeoutSeconds) {
      const request = { teamId: teamID, sandboxId: sandboxID, timeoutSeconds };
      demandWellFormed(request);
      await call(method.refreshSandbox, request, usual);
    },
    async setSandboxTimeout(teamID, sandboxID, timeoutSeconds) {
      const request = { teamId: teamID, sandboxId: sandboxID, timeoutSeconds };
      demandWellFormed(request);
      await call(method.setSandboxTimeout, request, usual);
    },
    async updateNetwork(teamID, sandboxID, network) {
      const request = { teamId: teamID, sandboxId: sandboxID, network: networkToMessage(network) };
      demandWellFormed(request);
      await call(method.updateNetwork, request, usual);
    },
    async createVolume(teamID, name) {
      const request = { teamId: teamID, name };
      demandWellFormed(request);
      return volumeFromMessage(await call(method.createVolume, request, usual));
    },
    async listVolumes(teamID) {
      const request = { teamId: teamID };
      demandWellFormed(request);
      const { volumes } = await call(method.listVolumes, request, usual);
      return volumes.map(({ volumeId, name }) => ({ volumeID: volumeId, name }));
    },
    async getVolume(teamID, volumeID) {
      const request = { teamId: teamID, volumeId: volumeID };
      demandWellFormed(request);
      return volumeFromMessage(await call(method.getVolume, request, usual));
    },
    async deleteVolume(teamID, volumeID) {
      const request = { teamId: teamID, volumeId: volumeID };
      demandWellFormed(request);
      await call(method.deleteVolume, request, usual);
    },
    async cancelBuilds(teamID) {
      const request = { teamId: teamID };
      demandWellFormed(request);
      return (await call(method.cancelBuilds, request, usual)).cancelled;
    },
    async killSandbox(teamID, sandboxID) {
      const ids = { teamId: teamID, sandboxId: sandboxID };
      demandWellFormed(ids);
      await call(method.killSandbox, ids, usual);
    },
    async createSnapshot(teamID, sandboxID, { name, signal }) {
      const request = { teamId: teamID, sandboxId: sandboxID, ...(name === undefined ? {} : { name }) };
      demandWellFormed(request);
      const answer = await call(method.createSnapshot, request, start, signal);
      return { snapshot: snapshotFromMessage(answer.snapshot), receipt: receiptFromMessage(answer.receipt) };
    },
    async listSnapshots(query) {
      demandWellFormed(query);
      const answer = await call(method.listSnapshots, snapshotQueryToMessage(query), usual);
      return {
        snapshots: answer.snapshots.map(snapshotFromMessage),
        ...(answer.next === undefined ? {} : { next: snapshotPositionFromMessage(answer.next) }),
      };
    },
    async deleteSnapshot(teamID, snapshot) {
      const request = { teamId: teamID, snapshot };
      demandWellFormed(request);
      await call(method.deleteSnapshot, request, usual);
    },
    async sandboxMetrics(teamID, sandboxID, span) {
      const request = { teamId: teamID, sandboxId: sandboxID, ...span };
      demandWellFormed(request);
      return (await call(method.sandboxMetrics, request, usual)).metrics.map(metricFromMessage);
    },
    async latestMetrics(teamID, sandboxIDs) {
      const request = { teamId: teamID, sandboxIds: [...sandboxIDs] };
      demandWellFormed(request);
      const { latest } = await call(method.latestMetrics, request, usual);
      return new Map(latest.map(({ sandboxId, metric }) => [sandboxId, metricFromMessage(metric)]));
    },
    async listLogs(query) {
      demandWellFormed(query);
      return (await call(method.listLogs, logsQueryToMessage(query), usual)).entries.map(logEntryFromMessage);
    },
    async listEvents(query, signal) {
      demandWellFormed(query);
      const { waitMs = 0 } = query;
      const { events, head } = await call(method.listEvents, eventsQueryToMessage(query), usual + waitMs, signal);
      return { events: events.map(eventFromMessage), head };
    },
    async requestBuild(wish) {
      demandWellFormed(wish);
      return ticketFromMessage(await call(method.requestBuild, wishToMessage(wish), usual));
    },
    async startBuild({ teamID, templateID, buildID }, request) {
      const message = { teamId: teamID, templateId: templateID, buildId: buildID, request };
      demandWellFormed(message);
      await call(method.startBuild, message, usual);
    },
    async getBuild(query) {
      demandWellFormed(query);
      return buildFromMessage(await call(method.getBuild, logQueryToMessage(query), usual));
    },
    async buildFile(teamID, templateID, hash) {
      const request = { teamId: teamID, templateId: templateID, hash };
      demandWellFormed(request);
      const { present, ticket } = await call(method.buildFile, request, usual);
      return { present, ticket };
    },
    async tagTemplate(teamID, target, tags) {
      const request = { teamId: teamID, template: target, tags: [...tags] };
      demandWellFormed(request);
      const tagged = await call(method.tagTemplate, request, usual);
      return { buildID: tagged.buildId, tags: tagged.tags };
    },
    async untagTemplate(teamID, template, tags) {
      const request = { teamId: teamID, template, tags: [...tags] };
      demandWellFormed(request);
      await call(method.untagTemplate, request, usual);
    },
    async listTags(teamID, template) {
      const request = { teamId: teamID, template };
      demandWellFormed(request);
      return (await call(method.listTags, request, usual)).tags.map(tagFromMessage);
    },
    async publishTemplate(teamID, template, isPublic) {
      const request = { teamId: teamID, template, public: isPublic };
      demandWellFormed(request);
      return (await call(method.publishTemplate, request, usual)).names;
    },
    async listTemplates() {
      return (await call(method.listTemplates, {}, usual)).templates.map(templateFromMessage);
    },
    async status() {
      return statusFromMessage(await call(method.status, {}, usual));
    },
    async leaks() {
      const { $typeName: _, $unknown: __, ...leaks } = await call(method.leaks, {}, usual);
      return leaks;
    },
    close: () => connection.close(),
  };
}

interface Pending {
  readonly resolve: (payload: Uint8Array) => void;
  readonly reject: (error: CoppiceError) => void;
}

const MAX_CALL_ID = 2 ** 32 - 1;

function volumeFromMessage({ volumeId, name, token }: Volume): VolumeAndToken {
  return { volumeID: volumeId, name, token };
}

/** One stream for all calls. When it breaks, the calls under way fail and the next call connects anew. */
class Connection {
  readonly #path: string;
  readonly #pending = new Map<number, Pending>();
  #socket: Socket | undefined;
  #nextID = 1;
  #closed = false;

  constructor(path: string) {
    this.#path = path;
  }

  async call<M extends DescMethodUnary>(
    method: M,
    request: MessageInitShape<M['input']>,
    timeoutMs: number,
    signal?: AbortSignal,
  ): Promise<MessageShape<M['output']>> {
    if (this.#closed) throw new CoppiceError('unavailable', 'the connection to the node is closed');
    if (signal?.aborted) throw new CoppiceError('aborted', 'the call was cancelled');
    const input = toBinary<M['input']>(method.input, create<M['input']>(method.input, request));
    if (input.length > MAX_REQUEST_BYTES) {
      throw new CoppiceError('payload_too_large', 'the message is too large for the node RPC');
    }
    const socket = this.#open();
    const id = this.#nextID;
    this.#nextID = id === MAX_CALL_ID ? 1 : id + 1;
    const { promise, resolve, reject } = Promise.withResolvers<Uint8Array>();
    const give = (message: string) => (): void => {
      socket.write(encodeFrame(id, KIND.CANCEL, 0, new Uint8Array(0)));
      reject(new CoppiceError('aborted', message));
    };
    const cancel = give('the call was cancelled');
    const timer = setTimeout(give('the node did not answer in time'), timeoutMs);
    signal?.addEventListener('abort', cancel, { once: true });
    this.#pending.set(id, { resolve, reject });
    socket.write(encodeFrame(id, KIND.REQUEST, METHODS.indexOf(method), input));
    try {
      return fromBinary<M['output']>(method.output, await promise);
    } finally {
      this.#pending.delete(id);
      clearTimeout(timer);
      signal?.removeEventListener('abort', cancel);
    }
  }

  close(): void {
    this.#closed = true;
    this.#socket?.destroy();
  }

  #open(): Socket {
    if (this.#socket) return this.#socket;
    const socket = connect(this.#path);
    const reader = new FrameReader(MAX_ANSWER_BYTES);
    this.#socket = socket;
    socket.on('data', (chunk: Buffer) => {
      try {
        for (const { call, kind, payload } of reader.push(chunk)) {
          const pending = this.#pending.get(call);
          // An answer to a call that was given up.
          if (!pending) continue;
          if (kind === KIND.ANSWER) pending.resolve(payload.slice());
          else pending.reject(decodeFailure(payload));
        }
      } catch {
        socket.destroy();
      }
    });
    socket.on('error', () => {});
    socket.once('close', () => {
      if (this.#socket === socket) this.#socket = undefined;
      for (const pending of this.#pending.values()) {
        pending.reject(new CoppiceError('unavailable', 'the node does not answer'));
      }
    });
    return socket;
  }
}
