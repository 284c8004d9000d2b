/**
 * The Connect side of envd: both services, JSON and binary, behind one table of paths that is built once for the process.
 * Which sandbox an RPC is for travels in its context, so a new envd costs nothing here.
 */
import type { IncomingMessage, ServerResponse } from 'node:http';
import {
  Code,
  ConnectError,
  createConnectRouter,
  createContextKey,
  createContextValues,
  type Interceptor,
} from '@connectrpc/connect';
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
import { replyJSON } from './reply.ts';
import { type EnvdParts, PARTS } from './rpc-context.ts';

/** Bytes of one message: ample for SDKs' stdin (64 KiB) and for the longest command line of Linux (2 MiB). */
const MAX_MESSAGE = 4 * 1024 * 1024;
/** Smaller messages are not worth the time, for callers that accept gzip at all. */
const MIN_COMPRESSED = 16 * 1024;
/** The longest that a timer of Node can wait; a longer deadline lies beyond any sandbox's life. */
const MAX_TIMER_MS = 2_147_483_647;

/** Set by the interceptor: the message of a unary call was read and its method was reached. */
const REACHED = createContextKey<{ reached: boolean }>({ reached: false });

/**
 * Puts the words of what failed below into Connect's, for unary answers and in the midst of streams. A message that cannot
 * be read is the caller's fault, which the library would call internal.
 */
const nameFailures: Interceptor = (next) => async (request) => {
  try {
    request.contextValues.get(REACHED).reached = true;
    const response = request.stream
      ? await next({ ...request, message: readable(request.message) })
      : await next(request);
    return response.stream ? { ...response, message: named(response.message) } : response;
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

async function* readable<T>(messages: AsyncIterable<T>): AsyncGenerator<T> {
  try {
    yield* messages;
  } catch (error) {
    const { code, rawMessage } = ConnectError.from(error);
    throw code === Code.Internal
      ? new ConnectError(rawMessage, Code.InvalidArgument, undefined, undefined, error)
      : error;
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
    const progress = { reached: false };
    const values = createContextValues().set(PARTS, parts).set(REACHED, progress);
    const request = universalRequestFromNodeRequest(req, res, undefined, values);
    // The rest of a body that was not read to its end is the server's to drain; the connection must outlive the answer.
    const body: AsyncIterable<Buffer> = req.iterator({ destroyOnReturn: false });
    const response = await handler({ ...request, body });
    if (response.status === 500 && !progress.reached) {
      replyJSON(res, 400, { code: 'invalid_argument', message: 'the request message cannot be read' });
      return;
    }
    await universalResponseToNodeResponse(response, res);
  } catch (error) {
    // The answer itself carries every failure of a method; what is left are callers that went away.
    if (!res.destroyed && !res.writableEnded) {
      const code = ConnectError.from(error).code;
      if (code !== Code.Aborted && code !== Code.Canceled) log.warn({ path: handler.requestPath, error }, 'RPC failed');
      res.destroy();
    }
  }
}
