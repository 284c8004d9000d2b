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
import { NodeService } from '../gen/node_pb.js';
import type { NodeApi } from '../node-api.ts';
import { decodeFailure } from './failure.ts';
import {
  demandWellFormed,
  positionFromMessage,
  queryToMessage,
  receiptFromMessage,
  requestToMessage,
  sandboxFromMessage,
  snapshotFromMessage,
  snapshotPositionFromMessage,
  snapshotQueryToMessage,
  statusFromMessage,
  templateFromMessage,
} from './mapping.ts';
import { MAX_ANSWER_BYTES, MAX_REQUEST_BYTES } from './server.ts';
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
    async connectSandbox(teamID, sandboxID, timeoutSeconds) {
      const request = { teamId: teamID, sandboxId: sandboxID, timeoutSeconds };
      demandWellFormed(request);
      const answer = await call(method.connectSandbox, request, start);
      return { sandbox: sandboxFromMessage(answer.sandbox), resumed: answer.resumed };
    },
    async resumeSandbox(teamID, sandboxID, timeoutSeconds) {
      const request = { teamId: teamID, sandboxId: sandboxID, timeoutSeconds };
      demandWellFormed(request);
      return sandboxFromMessage((await call(method.resumeSandbox, request, start)).sandbox);
    },
    async pauseSandbox(teamID, sandboxID) {
      const ids = { teamId: teamID, sandboxId: sandboxID };
      demandWellFormed(ids);
      await call(method.pauseSandbox, ids, start);
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
    async killSandbox(teamID, sandboxID) {
      const ids = { teamId: teamID, sandboxId: sandboxID };
      demandWellFormed(ids);
      await call(method.killSandbox, ids, usual);
    },
    async createSnapshot(teamID, sandboxID, { name, signal }) {
      const request = { teamId: teamID, sandboxId: sandboxID, ...(name === undefined ? {} : { name }) };
      demandWellFormed(request);
      return snapshotFromMessage((await call(method.createSnapshot, request, start, signal)).snapshot);
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
