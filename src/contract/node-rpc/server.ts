/** The node's side of the node RPC: a NodeApi behind a unix socket that only control may open. */

import { createServer, type Server, type Socket } from 'node:net';
import { create, fromBinary, type MessageInitShape, toBinary } from '@bufbuild/protobuf';
import type { ServiceImpl } from '@connectrpc/connect';
import { CoppiceError } from '../errors.ts';
import type { NodeService } from '../gen/node_pb.js';
import type { NodeApi } from '../node-api.ts';
import type { VolumeAndToken } from '../volume-api.ts';
import {
  eventsQueryFromMessage,
  eventToMessage,
  logEntryToMessage,
  logsQueryFromMessage,
  metricToMessage,
} from './activity-mapping.ts';
import { buildToMessage, logQueryFromMessage, ticketToMessage, wishFromMessage } from './build-mapping.ts';
import { encodeFailure } from './failure.ts';
import {
  networkFromMessage,
  positionToMessage,
  queryFromMessage,
  receiptToMessage,
  requestFromMessage,
  resumeResultToMessage,
  resumeWishFromMessage,
  sandboxToMessage,
  templateToMessage,
} from './mapping.ts';
import {
  forkResultToMessage,
  snapshotPositionToMessage,
  snapshotQueryFromMessage,
  snapshotToMessage,
} from './snapshot-mapping.ts';
import { encodeFrame, type Frame, FrameReader, KIND, METHODS } from './wire.ts';

/** Bytes of one request, and of one answer (a page of 100 sandboxes with large metadata). */
export const MAX_REQUEST_BYTES = 4 * 1024 * 1024;
export const MAX_ANSWER_BYTES = 64 * 1024 * 1024;

export interface NodeRpcOptions {
  /** Told of every failure before it is sent, as the node threw it. */
  readonly onError?: (method: string, error: unknown) => void;
}

export interface NodeRpcServer {
  /** Not listening yet: the owner gives it its unix socket. */
  readonly server: Server;
  /** Cuts every connection; the calls under way are told by their signal. */
  closeAllConnections(): void;
}

type Call = (payload: Uint8Array, signal: AbortSignal) => Promise<Uint8Array>;

export function createNodeRpcServer(api: NodeApi, options: NodeRpcOptions = {}): NodeRpcServer {
  const calls = METHODS.map((method): Call => {
    const act = implement(api)[method.localName as keyof ReturnType<typeof implement>] as (
      request: unknown,
      context: { readonly signal: AbortSignal },
    ) => Promise<MessageInitShape<typeof method.output>>;
    return async (payload, signal) => {
      try {
        const answer = await act(fromBinary(method.input, payload), { signal });
        return toBinary(method.output, create(method.output, answer));
      } catch (error) {
        options.onError?.(method.localName, error);
        throw error;
      }
    };
  });
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    sockets.add(socket);
    socket.once('close', () => sockets.delete(socket));
    serve(socket, calls);
  });
  return {
    server,
    closeAllConnections: () => {
      for (const socket of sockets) socket.destroy();
    },
  };
}

/** Serves one connection. What is no frame of ours, or too long, ends it. */
function serve(socket: Socket, calls: readonly Call[]): void {
  const reader = new FrameReader(MAX_REQUEST_BYTES);
  const running = new Map<number, AbortController>();

  const run = async ({ call, method, payload }: Frame): Promise<void> => {
    const controller = new AbortController();
    running.set(call, controller);
    let answer: Buffer;
    try {
      const act = calls[method];
      if (!act) throw new CoppiceError('not_implemented', 'the node does not know this call');
      // A copy: the bytes are the reader's.
      const bytes = await act(payload.slice(), controller.signal);
      if (bytes.length > MAX_ANSWER_BYTES) throw new CoppiceError('payload_too_large', 'the answer is too large');
      answer = encodeFrame(call, KIND.ANSWER, 0, bytes);
    } catch (error) {
      answer = encodeFrame(call, KIND.FAILURE, 0, encodeFailure(error));
    }
    running.delete(call);
    if (!socket.destroyed) socket.write(answer);
  };

  socket.on('data', (chunk: Buffer) => {
    try {
      for (const frame of reader.push(chunk)) {
        if (frame.kind === KIND.REQUEST && !running.has(frame.call)) void run(frame);
        else if (frame.kind === KIND.CANCEL) running.get(frame.call)?.abort();
        else if (frame.kind !== KIND.REQUEST) throw new RangeError(`frame of kind ${frame.kind}`);
      }
    } catch {
      socket.destroy();
    }
  });
  socket.on('error', () => {});
  socket.once('close', () => {
    for (const controller of running.values()) controller.abort();
  });
}

function volumeToMessage({ volumeID, name, token }: VolumeAndToken) {
  return { volumeId: volumeID, name, token };
}

function implement(api: NodeApi) {
  return {
    createSandbox: async (request, { signal }) => {
      const result = await api.createSandbox(requestFromMessage(request), signal);
      return { sandbox: sandboxToMessage(result.sandbox), receipt: receiptToMessage(result.receipt) };
    },
    getSandbox: async (request) => ({
      sandbox: sandboxToMessage(await api.getSandbox(request.teamId, request.sandboxId)),
    }),
    listSandboxes: async (request) => {
      const result = await api.listSandboxes(queryFromMessage(request));
      return {
        sandboxes: result.sandboxes.map(sandboxToMessage),
        totalRunning: result.totalRunning,
        ...(result.next === undefined ? {} : { next: positionToMessage(result.next) }),
      };
    },
    connectSandbox: async (request) =>
      resumeResultToMessage(
        await api.connectSandbox(request.teamId, request.sandboxId, resumeWishFromMessage(request)),
      ),
    resumeSandbox: async (request) =>
      resumeResultToMessage(await api.resumeSandbox(request.teamId, request.sandboxId, resumeWishFromMessage(request))),
    pauseSandbox: async ({ teamId, sandboxId, memory }) => ({
      receipt: receiptToMessage(await api.pauseSandbox(teamId, sandboxId, { memory })),
    }),
    forkSandbox: async ({ teamId, sandboxId, count, timeoutSeconds }, { signal }) =>
      forkResultToMessage(await api.forkSandbox(teamId, sandboxId, { count, timeoutSeconds }, signal)),
    rollbackSandbox: async ({ teamId, sandboxId, snapshot }) =>
      resumeResultToMessage(await api.rollbackSandbox(teamId, sandboxId, snapshot)),
    refreshSandbox: async (request) => {
      await api.refreshSandbox(request.teamId, request.sandboxId, request.timeoutSeconds);
      return {};
    },
    setSandboxTimeout: async (request) => {
      await api.setSandboxTimeout(request.teamId, request.sandboxId, request.timeoutSeconds);
      return {};
    },
    updateNetwork: async ({ teamId, sandboxId, network }) => {
      await api.updateNetwork(teamId, sandboxId, networkFromMessage(network));
      return {};
    },
    cancelBuilds: async ({ teamId }) => ({ cancelled: await api.cancelBuilds(teamId) }),
    killSandbox: async (request) => {
      await api.killSandbox(request.teamId, request.sandboxId);
      return {};
    },
    createSnapshot: async (request, { signal }) => {
      const { teamId, sandboxId, name } = request;
      const options = { signal, ...(name === undefined ? {} : { name }) };
      const { snapshot, receipt } = await api.createSnapshot(teamId, sandboxId, options);
      return { snapshot: snapshotToMessage(snapshot), receipt: receiptToMessage(receipt) };
    },
    listSnapshots: async (request) => {
      const { snapshots, next } = await api.listSnapshots(snapshotQueryFromMessage(request));
      return {
        snapshots: snapshots.map(snapshotToMessage),
        ...(next === undefined ? {} : { next: snapshotPositionToMessage(next) }),
      };
    },
    deleteSnapshot: async (request) => {
      await api.deleteSnapshot(request.teamId, request.snapshot);
      return {};
    },
    sandboxMetrics: async ({ teamId, sandboxId, startMs, endMs }) => {
      const span = { ...(startMs === undefined ? {} : { startMs }), ...(endMs === undefined ? {} : { endMs }) };
      return { metrics: (await api.sandboxMetrics(teamId, sandboxId, span)).map(metricToMessage) };
    },
    latestMetrics: async ({ teamId, sandboxIds }) => {
      const latest = await api.latestMetrics(teamId, sandboxIds);
      return { latest: [...latest].map(([sandboxId, metric]) => ({ sandboxId, metric: metricToMessage(metric) })) };
    },
    listLogs: async (request) => ({
      entries: (await api.listLogs(logsQueryFromMessage(request))).map(logEntryToMessage),
    }),
    listEvents: async (request, { signal }) => {
      const { events, head } = await api.listEvents(eventsQueryFromMessage(request), signal);
      return { events: events.map(eventToMessage), head };
    },
    requestBuild: async (request) => ticketToMessage(await api.requestBuild(wishFromMessage(request))),
    startBuild: async ({ teamId, templateId, buildId, request }) => {
      await api.startBuild({ teamID: teamId, templateID: templateId, buildID: buildId }, request);
      return {};
    },
    getBuild: async (request) => buildToMessage(await api.getBuild(logQueryFromMessage(request))),
    buildFile: async ({ teamId, templateId, hash }) => api.buildFile(teamId, templateId, hash),
    tagTemplate: async ({ teamId, template, tags }) => {
      const tagged = await api.tagTemplate(teamId, template, tags);
      return { buildId: tagged.buildID, tags: [...tagged.tags] };
    },
    untagTemplate: async ({ teamId, template, tags }) => {
      await api.untagTemplate(teamId, template, tags);
      return {};
    },
    listTags: async ({ teamId, template }) => ({
      tags: (await api.listTags(teamId, template)).map(({ buildID, ...rest }) => ({ ...rest, buildId: buildID })),
    }),
    createVolume: async ({ teamId, name }) => volumeToMessage(await api.createVolume(teamId, name)),
    listVolumes: async ({ teamId }) => ({
      volumes: (await api.listVolumes(teamId)).map(({ volumeID, name }) => ({ volumeId: volumeID, name })),
    }),
    getVolume: async ({ teamId, volumeId }) => volumeToMessage(await api.getVolume(teamId, volumeId)),
    deleteVolume: async ({ teamId, volumeId }) => {
      await api.deleteVolume(teamId, volumeId);
      return {};
    },
    publishTemplate: async (request) => ({
      names: [...(await api.publishTemplate(request.teamId, request.template, request.public))],
    }),
    listTemplates: async () => ({ templates: (await api.listTemplates()).map(templateToMessage) }),
    status: async () => {
      const status = await api.status();
      return { ...status, backends: status.backends.map((one) => ({ ...one })), notices: [...status.notices] };
    },
    leaks: async () => {
      const leaks = await api.leaks();
      return { ...leaks, details: [...leaks.details] };
    },
  } satisfies ServiceImpl<typeof NodeService>;
}
