/**
 * The Connect side of envd: both services, JSON and binary, behind one table of paths that is built once for the process.
 * Which sandbox an RPC is for travels in its context, so a new envd costs nothing here.
 */
import type { IncomingMessage, ServerResponse } from 'node:http';
import { Code, ConnectError, createConnectRouter, createContextValues, type Interceptor } from '@connectrpc/connect';
import type { UniversalHandler } from '@connectrpc/connect/protocol';
import {
  compressionGzip,
  universalRequestFromNodeRequest,
  universalResponseToNodeResponse,
} from '@connectrpc/connect-node';
import { Filesystem } from '../contract/gen/filesystem_pb.ts';
import { Process } from '../contract/gen/process_pb.ts';
import type { Log } from '../telemetry/log.ts';
import { toConnectError } from './failures.ts';
import { filesystemService } from './filesystem-service.ts';
import { processService } from './process-service.ts';
import { type EnvdParts, PARTS } from './rpc-context.ts';

/** Bytes of one message: ample for SDKs' stdin (64 KiB) and for the longest command line of Linux (2 MiB). */
const MAX_MESSAGE = 4 * 1024 * 1024;
/** Smaller messages are not worth the time, for callers that accept gzip at all. */
const MIN_COMPRESSED = 16 * 1024;
/** The longest that a timer of Node can wait; a longer deadline lies beyond any sandbox's life. */
const MAX_TIMER_MS = 2_147_483_647;

/** Puts the words of what failed below into Connect's, for unary answers and in the midst of streams. */
const nameFailures: Interceptor = (next) => async (request) => {
  try {
    const response = await next(request);
    if (!response.stream) return response;
    return { ...response, message: named(response.message) };
  } catch (error) {
    throw toConnectError(error);
  }
};

async function* named<T>(messages: AsyncIterable<T>): AsyncGenerator<T> {
  try {
    yield* messages;
  } catch (error) {
    throw toConnectError(error);
  }
}

const handlers: ReadonlyMap<string, UniversalHandler> = (() => {
  const router = createConnectRouter({
    grpc: false,
    grpcWeb: false,
    readMaxBytes: MAX_MESSAGE,
    compressMinBytes: MIN_COMPRESSED,
    acceptCompression: [compressionGzip],
    interceptors: [nameFailures],
  });
  router.service(Process, processService).service(Filesystem, filesystemService);
  return new Map(router.handlers.map((handler) => [handler.requestPath, handler]));
})();

/** The handler of `path`, if it is an RPC's. */
export function rpcHandler(path: string): UniversalHandler | undefined {
  return handlers.get(path);
}

/** Serves one RPC. Never rejects; `parts` is what the methods see. */
export async function serveRPC(
  handler: UniversalHandler,
  req: IncomingMessage,
  res: ServerResponse,
  parts: EnvdParts,
  log: Log,
): Promise<void> {
  try {
    req.headers.host ??= 'sandbox';
    const timeout = req.headers['connect-timeout-ms'];
    if (typeof timeout === 'string' && /^\d{10}$/.test(timeout) && Number(timeout) > MAX_TIMER_MS) {
      req.headers['connect-timeout-ms'] = String(MAX_TIMER_MS);
    }
    // An absent limit and a limit of 0 mean the same to E2B's clients.
    if (timeout === '0') delete req.headers['connect-timeout-ms'];
    const request = universalRequestFromNodeRequest(req, res, undefined, createContextValues().set(PARTS, parts));
    // The rest of a body that was not read to its end is the server's to drain; the connection must outlive the answer.
    const body: AsyncIterable<Buffer> = req.iterator({ destroyOnReturn: false });
    await universalResponseToNodeResponse(await handler({ ...request, body }), res);
  } catch (error) {
    // The answer itself carries every failure of a method; what is left are callers that went away.
    if (!res.destroyed && !res.writableEnded) {
      const code = ConnectError.from(error).code;
      if (code !== Code.Aborted && code !== Code.Canceled) log.warn({ path: handler.requestPath, error }, 'RPC failed');
      res.destroy();
    }
  }
}
