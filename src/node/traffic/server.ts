/**
 * The node's traffic server: plain HTTP/1.1 from the edge on a unix socket, each request marked with the sandbox and port
 * it is for (TRAFFIC_* headers). envd and the interpreter answer in process; any other port is dialled by the agent.
 */
import { createHash, timingSafeEqual } from 'node:crypto';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { Duplex } from 'node:stream';
import { type AgentClient, AgentError } from '../../channel/agent.ts';
import { TRAFFIC_UPLOAD_HEADER } from '../../contract/build-api.ts';
import {
  ENVD_PORT,
  INTERPRETER_PORT,
  MASK_PORT,
  TRAFFIC_PORT_HEADER,
  TRAFFIC_SANDBOX_HEADER,
  TRAFFIC_SIGNED_HEADER,
} from '../../contract/node-api.ts';
import {
  portNotOpen,
  type Refusal,
  rawRefusal,
  refuse,
  refuseSocket,
  sandboxNotFound,
} from '../../contract/traffic/answers.ts';
import { forward } from '../../contract/traffic/forward.ts';
import { codingSupported, IDEMPOTENT, OWN_PREFIX, requestHeaders } from '../../contract/traffic/headers.ts';
import { spliceUpgrade, UpgradeBodyError, upgradeWanted } from '../../contract/traffic/splice.ts';
import { TRAFFIC_VOLUME_HEADER } from '../../contract/volume-api.ts';
import type { Log } from '../../telemetry/log.ts';
import { dialerOf, PortClosedError, SandboxGoneError } from './dialer.ts';

/** Serves one exchange. It may answer later; a rejection is answered with 500. */
export interface ExchangeHandler {
  handle(req: IncomingMessage, res: ServerResponse): void | Promise<void>;
}

/** One running sandbox as traffic sees it. Valid for one generation. */
export interface TrafficTarget {
  readonly sandboxID: string;
  readonly envd: ExchangeHandler;
  readonly interpreter: ExchangeHandler;
  /** The live channel, begun first where there is none. Throws or rejects if there can be none; the answer is then 503. */
  agent(): AgentClient | Promise<AgentClient>;
  /**
   * Registers what ends one exchange; the owner calls it when the sandbox is killed, paused or restored (at once, if that
   * has already happened). The returned function takes it off the list.
   */
  track(close: () => void): () => void;
  /** When set, every port but envd's demands it in `e2b-traffic-access-token` (`allowPublicTraffic: false`). */
  readonly trafficAccessToken?: string;
  /** See NetworkWish. */
  readonly maskRequestHost?: string;
}

/** What a request for a sandbox that does not run has to show. */
export interface Knock {
  readonly port: number;
  /** Of X-Access-Token, envd's. */
  readonly accessToken?: string;
  /** Of E2B-Traffic-Access-Token, other ports'. */
  readonly trafficToken?: string;
}

export interface TrafficServerOptions {
  readonly lookup: (sandboxID: string) => TrafficTarget | undefined;
  /** Begins to resume a sandbox that does not run, for this very request; undefined at once where there is nothing to wait for. */
  readonly wake?: (sandboxID: string, knock: Knock) => Promise<TrafficTarget | undefined> | undefined;
  /**
   * The sandbox one of whose tokens made the signature in this URL (path and query of /files), for reading or writing,
   * expired or not; envd then judges it. Also asked for CORS preflights.
   */
  readonly findBySignature: (url: string) => TrafficTarget | undefined;
  /** Takes an archive for a build, `what` as of TRAFFIC_UPLOAD_HEADER, and answers. Never rejects. */
  readonly receive?: (what: string, req: IncomingMessage, res: ServerResponse) => Promise<void>;
  /** Serves the files of volumes, `what` as of TRAFFIC_VOLUME_HEADER, and answers. Never rejects. */
  readonly volume?: (what: string, req: IncomingMessage, res: ServerResponse) => Promise<void>;
  readonly log: Log;
}

export interface TrafficServer {
  /** Not listening yet: the owner gives it its unix socket. */
  readonly server: Server;
  /** Stops listening and cuts everything that is open. */
  close(): Promise<void>;
}

/** Exchanges and upgraded sockets open at once per sandbox; the channel allows 1024 streams, and envd needs some. */
const MAX_ACTIVE = 512;
/** Paths of envd that belong to whoever runs the sandbox, never to its users. */
const RESERVED = new Set(['/init', '/freeze', '/unfreeze', '/collapse', '/fsfreeze', '/fsthaw']);
const TOKEN_HEADER = 'e2b-traffic-access-token';

/** The sandbox is known, but its channel is down at this moment. */
class NoChannelError extends Error {
  override readonly name = 'NoChannelError';
}

interface Destination {
  readonly target: TrafficTarget;
  readonly port: number;
}

export function createTrafficServer(options: TrafficServerOptions): TrafficServer {
  const log = options.log.child({ room: 'traffic' });
  const active = new Map<string, number>();
  const upgraded = new Set<Duplex>();

  const admit = (target: TrafficTarget, port: number): Destination | Refusal => {
    const { sandboxID } = target;
    return (active.get(sandboxID) ?? 0) < MAX_ACTIVE
      ? { target, port }
      : { status: 429, message: 'Too many connections to the sandbox', sandboxID, port };
  };

  const resolve = (req: IncomingMessage): Destination | Refusal | Promise<Destination | Refusal> => {
    if (req.headers[TRAFFIC_SIGNED_HEADER] !== undefined) {
      const target = options.findBySignature(req.url ?? '');
      return target ? admit(target, ENVD_PORT) : { status: 401, message: 'invalid signature' };
    }
    const sandboxID = req.headers[TRAFFIC_SANDBOX_HEADER];
    const port = Number(req.headers[TRAFFIC_PORT_HEADER]);
    if (typeof sandboxID !== 'string' || !/^[a-z0-9]{1,40}$/.test(sandboxID))
      return { status: 400, message: 'The sandbox id is missing or malformed' };
    if (!Number.isInteger(port) || port < 1 || port > 65_535)
      return { status: 400, message: 'The port is missing or out of range', sandboxID };
    const settle = (target: TrafficTarget | undefined): Destination | Refusal =>
      target ? (checkToken(req, target, port) ?? admit(target, port)) : sandboxNotFound(sandboxID);
    const target = options.lookup(sandboxID);
    if (target) return settle(target);
    const { 'x-access-token': accessToken, [TOKEN_HEADER]: trafficToken } = req.headers;
    const waking = options.wake?.(sandboxID, {
      port,
      ...(typeof accessToken === 'string' ? { accessToken } : {}),
      ...(typeof trafficToken === 'string' ? { trafficToken } : {}),
    });
    if (!waking) return settle(undefined);
    return waking.then(settle).catch((error: unknown) => {
      log.warn({ sandboxID, error }, 'a sandbox could not be resumed for a request');
      return { status: 503, message: 'The sandbox could not be resumed; try again', sandboxID, port };
    });
  };

  /** Counts the exchange and has it cut with the sandbox; the result undoes both, once. */
  const enter = (target: TrafficTarget, cut: () => void): (() => void) => {
    const { sandboxID } = target;
    active.set(sandboxID, (active.get(sandboxID) ?? 0) + 1);
    const untrack = target.track(cut);
    let left = false;
    return () => {
      if (left) return;
      left = true;
      untrack();
      const rest = (active.get(sandboxID) ?? 1) - 1;
      if (rest > 0) active.set(sandboxID, rest);
      else active.delete(sandboxID);
    };
  };

  const serve = (req: IncomingMessage, res: ServerResponse, expectsContinue: boolean): void => {
    if (!codingSupported(req)) {
      refuse(res, { status: 501, message: 'Only the chunked transfer coding is supported' });
      return;
    }
    for (const [header, take] of [
      [TRAFFIC_UPLOAD_HEADER, options.receive],
      [TRAFFIC_VOLUME_HEADER, options.volume],
    ] as const) {
      const what = req.headers[header];
      if (typeof what !== 'string' || !take) continue;
      if (expectsContinue) res.writeContinue();
      void take(what, req, res);
      return;
    }
    const found = resolve(req);
    if (found instanceof Promise) {
      void found.then((later) => {
        if (!res.destroyed) answer(req, res, expectsContinue, later);
      });
    } else answer(req, res, expectsContinue, found);
  };

  const answer = (
    req: IncomingMessage,
    res: ServerResponse,
    expectsContinue: boolean,
    found: Destination | Refusal,
  ): void => {
    if ('status' in found) {
      refuse(res, found);
      return;
    }
    const { target, port } = found;
    const aborted = new AbortController();
    let cutEarly = false;
    const leave = enter(target, () => {
      cutEarly = true;
      aborted.abort();
      cutExchange(req, res, target.sandboxID);
    });
    res.once('close', () => {
      aborted.abort();
      leave();
    });
    if (cutEarly) return;
    if (port === ENVD_PORT || port === INTERPRETER_PORT) {
      const path = (req.url ?? '').split('?', 1)[0] ?? '';
      if (port === ENVD_PORT && RESERVED.has(path)) {
        refuse(res, {
          status: 404,
          message: `${path} is reserved for the E2B control plane`,
          sandboxID: target.sandboxID,
        });
        return;
      }
      if (expectsContinue) res.writeContinue();
      void serveInProcess(port === ENVD_PORT ? target.envd : target.interpreter, req, res, log);
      return;
    }
    const fail = (error: Error): void => {
      log.debug({ sandboxID: target.sandboxID, port, error }, 'port not reached');
      refuse(res, refusalOf(error, target.sandboxID, port));
    };
    withChannel(target, fail, (client) => {
      const dialer = dialerOf(client);
      forward(req, res, {
        connection: (fresh) => dialer.connection(port, fresh, aborted.signal),
        path: req.url ?? '/',
        headers: headersFor(req, target, port),
        settle: !IDEMPOTENT.has(req.method ?? ''),
        fail,
      });
    });
  };

  const serveUpgrade = (req: IncomingMessage, socket: Duplex, head: Buffer): void => {
    socket.on('error', () => socket.destroy());
    upgraded.add(socket);
    socket.once('close', () => upgraded.delete(socket));
    const found = resolve(req);
    if (found instanceof Promise) {
      void found.then((later) => {
        if (!socket.destroyed) splice(req, socket, head, later);
      });
    } else splice(req, socket, head, found);
  };

  const splice = (req: IncomingMessage, socket: Duplex, head: Buffer, found: Destination | Refusal): void => {
    if ('status' in found) {
      refuseSocket(socket, req.headers, found);
      return;
    }
    const { target, port } = found;
    const aborted = new AbortController();
    const leave = enter(target, () => {
      aborted.abort();
      socket.destroy();
    });
    socket.once('close', () => {
      aborted.abort();
      leave();
    });
    if (socket.destroyed) return;
    if (port === ENVD_PORT || port === INTERPRETER_PORT) {
      refuseSocket(socket, req.headers, {
        status: 400,
        message: 'This port does not speak the protocol asked for',
        sandboxID: target.sandboxID,
        port,
      });
      return;
    }
    const fail = (error: Error): void => {
      log.debug({ sandboxID: target.sandboxID, port, error }, 'port not reached for an upgrade');
      refuseSocket(socket, req.headers, refusalOf(error, target.sandboxID, port));
    };
    withChannel(target, fail, (client) => {
      if (socket.destroyed) return;
      spliceUpgrade(req, socket, head, {
        connection: dialerOf(client).upgrade(port, aborted.signal),
        path: req.url ?? '/',
        headers: headersFor(req, target, port),
        fail,
      });
    });
  };

  // Only the edge connects here and it decides how long a connection lives, so an idle one is never closed under it.
  const server = createServer({
    keepAliveTimeout: 0,
    requestTimeout: 0,
    noDelay: true,
    shouldUpgradeCallback: (req) => upgradeWanted(req.headers),
  });
  server.on('request', (req, res) => serve(req, res, false));
  server.on('checkContinue', (req, res) => serve(req, res, true));
  server.on('upgrade', serveUpgrade);
  server.on('clientError', (_error, socket) => socket.destroy());
  return {
    server,
    close: () =>
      new Promise((done) => {
        server.close(() => done());
        server.closeAllConnections();
        for (const socket of upgraded) socket.destroy();
      }),
  };
}

/** At once where the channel is there: a hop less for every request. */
function withChannel(target: TrafficTarget, fail: (error: Error) => void, use: (client: AgentClient) => void): void {
  const lost = (cause: unknown): void => fail(new NoChannelError('no channel', { cause }));
  let found: AgentClient | Promise<AgentClient>;
  try {
    found = target.agent();
  } catch (error) {
    lost(error);
    return;
  }
  if (found instanceof Promise) found.then(use, lost);
  else use(found);
}

/** What is for the edge and for us stays here, the traffic token too. */
const isOwn = (name: string): boolean => name.startsWith(OWN_PREFIX) || name === TOKEN_HEADER;

function headersFor(req: IncomingMessage, { maskRequestHost }: TrafficTarget, port: number): string[] {
  const headers = requestHeaders(req, isOwn);
  if (maskRequestHost === undefined) return headers;
  const host = maskRequestHost.replace(MASK_PORT, String(port));
  return headers.map((text, index) => (index % 2 === 1 && headers[index - 1]!.toLowerCase() === 'host' ? host : text));
}

async function serveInProcess(
  handler: ExchangeHandler,
  req: IncomingMessage,
  res: ServerResponse,
  log: Log,
): Promise<void> {
  try {
    await handler.handle(req, res);
  } catch (error) {
    log.error({ error }, 'a handler of the sandbox failed');
    refuse(res, { status: 500, message: 'internal error' });
  }
}

/**
 * Ends an exchange because its sandbox has ended. One that has not been answered gets the 502 as raw bytes, past the
 * handler that owns the response object; one that has begun is cut.
 */
function cutExchange(req: IncomingMessage, res: ServerResponse, sandboxID: string): void {
  const { socket } = req;
  if (!res.headersSent && socket.writable && !res.writableEnded) {
    socket.end(rawRefusal(req.headers, sandboxNotFound(sandboxID)), 'latin1', () => socket.destroy());
    return;
  }
  socket.destroy();
}

function checkToken(req: IncomingMessage, target: TrafficTarget, port: number): Refusal | undefined {
  const expected = target.trafficAccessToken;
  if (expected === undefined || port === ENVD_PORT) return undefined;
  const { sandboxID } = target;
  const given = req.headers[TOKEN_HEADER];
  if (typeof given !== 'string')
    return {
      status: 403,
      message: `Sandbox is secured with traffic access token. Token header '${TOKEN_HEADER}' is missing`,
      sandboxID,
    };
  const digest = (text: string): Buffer => createHash('sha256').update(text).digest();
  if (timingSafeEqual(digest(given), digest(expected))) return undefined;
  return {
    status: 403,
    message: `Sandbox is secured with traffic access token. Provided token in header '${TOKEN_HEADER}' is invalid`,
    sandboxID,
  };
}

function refusalOf(error: Error, sandboxID: string, port: number): Refusal {
  if (error instanceof PortClosedError) return portNotOpen(sandboxID, port);
  if (error instanceof SandboxGoneError) return sandboxNotFound(sandboxID);
  if (error instanceof NoChannelError)
    return { status: 503, message: 'The sandbox cannot be reached at this moment; try again', sandboxID, port };
  if (error instanceof AgentError && error.code === 'resource_exhausted')
    return { status: 429, message: 'Too many connections to the sandbox', sandboxID, port };
  if (error instanceof UpgradeBodyError) return { status: 400, message: error.message, sandboxID, port };
  return {
    status: 502,
    message: 'The server on the port broke off before it answered',
    sandboxID,
    port,
  };
}
