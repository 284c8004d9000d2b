/**
 * The edge: what faces clients. It routes each request by route.ts, hands API requests to the API, and streams sandbox
 * traffic to the node's traffic server over its unix socket. It holds no privilege and no state beyond open exchanges.
 */
import { Agent, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { connect } from 'node:net';
import type { Duplex } from 'node:stream';
import { TRAFFIC_PORT_HEADER, TRAFFIC_SANDBOX_HEADER, TRAFFIC_SIGNED_HEADER } from '../contract/node-api.ts';
import { type Refusal, refuse, refuseSocket } from '../contract/traffic/answers.ts';
import { forward } from '../contract/traffic/forward.ts';
import { codingSupported, OWN_PREFIX, requestHeaders } from '../contract/traffic/headers.ts';
import { spliceUpgrade, UpgradeBodyError, upgradeWanted } from '../contract/traffic/splice.ts';
import type { Log } from '../telemetry/log.ts';
import { createRouter, type Route } from './route.ts';

export interface EdgeOptions {
  readonly api: { handle(req: IncomingMessage, res: ServerResponse): void };
  /** Path of the node's traffic socket. */
  readonly trafficSocket: string;
  readonly domains: readonly string[];
  readonly log: Log;
  /** Sandbox exchanges and upgraded sockets open at once; more are answered 429. Default 8192. */
  readonly maxActive?: number;
}

export interface Edge {
  handleRequest(req: IncomingMessage, res: ServerResponse): void;
  handleUpgrade(req: IncomingMessage, socket: Duplex, head: Buffer): void;
  /** Wires a server: `request`, `checkContinue`, `upgrade`, and the time limits that long streams need. */
  attach(server: Server): void;
  /** Cuts every sandbox exchange and lets go of the node. */
  close(): void;
}

const DEFAULT_MAX_ACTIVE = 8_192;
/** Idle connections to the node that are kept, and for how long (ms). The node itself never closes an idle one. */
const MAX_IDLE = 64;
const IDLE_MS = 30_000;
/** Milliseconds in which a request must have arrived whole: uploads of many gigabytes fit. */
const REQUEST_MS = 6 * 3_600_000;
/** Milliseconds an idle client connection is kept: longer than the SDKs keep theirs, so that they close first. */
const CLIENT_IDLE_MS = 75_000;
const MAX_CLIENTS = 16_384;

type SandboxRoute = Extract<Route, { kind: 'sandbox' | 'signed' }>;

export function createEdge(options: EdgeOptions): Edge {
  const { api, trafficSocket } = options;
  const log = options.log.child({ room: 'edge' });
  const route = createRouter(options.domains);
  const maxActive = options.maxActive ?? DEFAULT_MAX_ACTIVE;
  const agent = new Agent({ keepAlive: true, maxFreeSockets: MAX_IDLE, timeout: IDLE_MS, scheduling: 'lifo' });
  const active = new Set<{ destroy(): unknown }>();

  const nodeFailed = (to: SandboxRoute, error: NodeJS.ErrnoException): Refusal => {
    const sandboxID = to.kind === 'sandbox' ? { sandboxID: to.sandboxID } : {};
    if (error instanceof UpgradeBodyError) return { status: 400, message: error.message, ...sandboxID };
    const down = error.syscall === 'connect';
    log.warn({ ...sandboxID, port: to.port, error: error.message, errorCode: error.code }, 'the node did not answer');
    return {
      status: 502,
      message: down ? 'The node is not available' : 'The connection to the sandbox was lost before it answered',
      ...sandboxID,
    };
  };

  /** True if the exchange may go on; it is then counted until `closes` closes. */
  const enter = (closes: ServerResponse | Duplex): boolean => {
    if (active.size >= maxActive) return false;
    active.add(closes);
    closes.once('close', () => active.delete(closes));
    return true;
  };

  const handleRequest = (req: IncomingMessage, res: ServerResponse, expectsContinue = false): void => {
    const to = route({ url: req.url ?? '/', rawHeaders: req.rawHeaders });
    if (to.kind === 'api') {
      if (expectsContinue) res.writeContinue();
      api.handle(req, res);
      return;
    }
    if (to.kind === 'refused') {
      refuse(res, to);
      return;
    }
    if (!codingSupported(req)) {
      refuse(res, { status: 501, message: 'Only the chunked transfer coding is supported' });
      return;
    }
    if (!enter(res)) {
      refuse(res, { status: 429, message: 'Too many connections' });
      return;
    }
    forward(req, res, {
      connection: (fresh) =>
        fresh ? { createConnection: () => connect(trafficSocket) } : { socketPath: trafficSocket, agent },
      path: to.kind === 'sandbox' ? to.path : (req.url ?? '/'),
      headers: nodeHeaders(req, to),
      fail: (error) => refuse(res, nodeFailed(to, error)),
    });
  };

  const handleUpgrade = (req: IncomingMessage, socket: Duplex, head: Buffer): void => {
    socket.on('error', () => socket.destroy());
    const to = route({ url: req.url ?? '/', rawHeaders: req.rawHeaders });
    if (to.kind === 'api' || to.kind === 'refused') {
      refuseSocket(
        socket,
        req.headers,
        to.kind === 'api' ? { status: 404, message: 'The API has no such upgrade' } : to,
      );
      return;
    }
    if (!enter(socket)) {
      refuseSocket(socket, req.headers, { status: 429, message: 'Too many connections' });
      return;
    }
    spliceUpgrade(req, socket, head, {
      connection: { createConnection: () => connect({ path: trafficSocket, allowHalfOpen: true }) },
      path: to.kind === 'sandbox' ? to.path : (req.url ?? '/'),
      headers: nodeHeaders(req, to),
      fail: (error) => refuseSocket(socket, req.headers, nodeFailed(to, error)),
    });
  };

  return {
    handleRequest,
    handleUpgrade,
    attach(server) {
      server.on('request', (req, res) => handleRequest(req, res));
      server.on('checkContinue', (req, res) => handleRequest(req, res, true));
      server.on('upgrade', handleUpgrade);
      server.requestTimeout = REQUEST_MS;
      server.keepAliveTimeout = CLIENT_IDLE_MS;
      server.maxConnections ??= MAX_CLIENTS;
      (server as Server & UpgradeChoice).shouldUpgradeCallback = (req) => upgradeWanted(req.headers);
    },
    close() {
      for (const exchange of active) exchange.destroy();
      agent.destroy();
    },
  };
}

/** The option of the same name, which node:http keeps on the server. */
interface UpgradeChoice {
  shouldUpgradeCallback: (req: IncomingMessage) => boolean;
}

const REPLACED = new Set(['x-forwarded-for', 'x-forwarded-proto', 'x-forwarded-host', 'forwarded']);

/**
 * The client's fields without those that only the edge may set, then the edge's own. X-Forwarded-* of a peer on loopback
 * are believed: that is where a TLS terminator of the same machine stands.
 */
function nodeHeaders(req: IncomingMessage, to: SandboxRoute): string[] {
  const peer = (req.socket.remoteAddress ?? '').replace(/^::ffff:/, '');
  const trusted = peer.startsWith('127.') || peer === '::1';
  const headers = requestHeaders(
    req,
    (name) => name.startsWith(OWN_PREFIX) || (REPLACED.has(name) && !(trusted && name === 'forwarded')),
  );
  const before = (name: string): string | undefined => {
    const value = trusted ? req.headers[name] : undefined;
    return Array.isArray(value) ? value.join(', ') : value;
  };
  const chain = [before('x-forwarded-for'), peer].filter(Boolean).join(', ');
  if (chain !== '') headers.push('X-Forwarded-For', chain);
  headers.push('X-Forwarded-Proto', before('x-forwarded-proto') ?? ('encrypted' in req.socket ? 'https' : 'http'));
  const host = before('x-forwarded-host') ?? req.headers.host;
  if (host !== undefined) headers.push('X-Forwarded-Host', host);
  if (to.kind === 'sandbox') headers.push(TRAFFIC_SANDBOX_HEADER, to.sandboxID, TRAFFIC_PORT_HEADER, String(to.port));
  else headers.push(TRAFFIC_SIGNED_HEADER, '1');
  return headers;
}
