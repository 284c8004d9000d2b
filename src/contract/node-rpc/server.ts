/** The node's side of the node RPC: a NodeApi as a node:http handler. */
import { createServer, type RequestListener, type Server } from 'node:http';
import type { ServiceImpl } from '@connectrpc/connect';
import { connectNodeAdapter } from '@connectrpc/connect-node';
import { NodeService } from '../gen/node_pb.js';
import type { NodeApi } from '../node-api.ts';
import { toConnectError } from './failure.ts';
import {
  positionToMessage,
  queryFromMessage,
  receiptToMessage,
  requestFromMessage,
  sandboxToMessage,
  templateToMessage,
} from './mapping.ts';

/** Bytes of one request, and of one answer (a page of 100 sandboxes with large metadata). */
export const MAX_REQUEST_BYTES = 4 * 1024 * 1024;
export const MAX_ANSWER_BYTES = 64 * 1024 * 1024;

export interface NodeRpcOptions {
  /** Told of every failure before it is sent, as the node threw it. */
  readonly onError?: (method: string, error: unknown) => void;
}

/** Serves HTTP/1.1 on any path below `/`. The caller's disconnect aborts the signal given to the node. */
export function createNodeRpcHandler(api: NodeApi, options: NodeRpcOptions = {}): RequestListener {
  const guard =
    <A extends unknown[], R>(method: string, act: (...args: A) => Promise<R>) =>
    async (...args: A): Promise<R> => {
      try {
        return await act(...args);
      } catch (error) {
        options.onError?.(method, error);
        throw toConnectError(error);
      }
    };
  const service: ServiceImpl<typeof NodeService> = {
    createSandbox: guard('createSandbox', async (request, context) => {
      const result = await api.createSandbox(requestFromMessage(request), context.signal);
      return { sandbox: sandboxToMessage(result.sandbox), receipt: receiptToMessage(result.receipt) };
    }),
    getSandbox: guard('getSandbox', async (request) => ({
      sandbox: sandboxToMessage(await api.getSandbox(request.teamId, request.sandboxId)),
    })),
    listSandboxes: guard('listSandboxes', async (request) => {
      const result = await api.listSandboxes(queryFromMessage(request));
      return {
        sandboxes: result.sandboxes.map(sandboxToMessage),
        totalRunning: result.totalRunning,
        ...(result.next === undefined ? {} : { next: positionToMessage(result.next) }),
      };
    }),
    connectSandbox: guard('connectSandbox', async (request) => {
      const result = await api.connectSandbox(request.teamId, request.sandboxId, request.timeoutSeconds);
      return { sandbox: sandboxToMessage(result.sandbox), resumed: result.resumed };
    }),
    setSandboxTimeout: guard('setSandboxTimeout', async (request) => {
      await api.setSandboxTimeout(request.teamId, request.sandboxId, request.timeoutSeconds);
      return {};
    }),
    killSandbox: guard('killSandbox', async (request) => {
      await api.killSandbox(request.teamId, request.sandboxId);
      return {};
    }),
    listTemplates: guard('listTemplates', async () => ({
      templates: (await api.listTemplates()).map(templateToMessage),
    })),
    status: guard('status', async () => {
      const status = await api.status();
      return { ...status, notices: [...status.notices] };
    }),
    leaks: guard('leaks', async () => {
      const leaks = await api.leaks();
      return { ...leaks, details: [...leaks.details] };
    }),
  };
  return connectNodeAdapter({
    routes: (router) => {
      router.service(NodeService, service);
    },
    grpc: false,
    grpcWeb: false,
    acceptCompression: [],
    readMaxBytes: MAX_REQUEST_BYTES,
    writeMaxBytes: MAX_ANSWER_BYTES,
  });
}

/**
 * A server around the handler, for a unix socket that only control may open. It never closes an idle connection, so the
 * client cannot send a call into one that is closing.
 */
export function createNodeRpcServer(api: NodeApi, options: NodeRpcOptions = {}): Server {
  return createServer({ keepAliveTimeout: 0, noDelay: true }, createNodeRpcHandler(api, options));
}
