/** A whole traffic path on loopback: client, edge, the node's traffic server, and an agent whose dial opens a TCP port. */
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import {
  Agent,
  createServer,
  type IncomingHttpHeaders,
  type IncomingMessage,
  type RequestOptions,
  request,
  type Server,
  type ServerResponse,
} from 'node:http';
import { type AddressInfo, connect, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { type AgentClient, AgentError, type AgentSocket } from '../../src/channel/agent.ts';
import { createEdge } from '../../src/edge/proxy.ts';
import { createTrafficServer, type TrafficServer, type TrafficTarget } from '../../src/node/traffic/server.ts';
import { silentLog } from '../../src/telemetry/log.ts';

export const ID = 'i0123456789abcdefghij';

function agentSocket(socket: Socket): AgentSocket {
  socket.on('error', () => {});
  return {
    input: socket,
    write: (bytes) =>
      new Promise((resolve, reject) => socket.write(bytes, (error) => (error ? reject(error) : resolve()))),
    end: () => socket.end(),
    destroy: () => socket.destroy(),
  };
}

/** Only `dial` and `closed` are there: the traffic server uses nothing else. */
export function fakeAgent(): { client: AgentClient; dials: number[]; sockets: Set<Socket>; die(): void } {
  const dials: number[] = [];
  const sockets = new Set<Socket>();
  const closed = Promise.withResolvers<Error>();
  let dead = false;
  const dial = async (port: number, signal?: AbortSignal): Promise<AgentSocket> => {
    if (dead) throw new AgentError('unavailable', 'channel gone');
    dials.push(port);
    const socket = connect({ port, host: '127.0.0.1', allowHalfOpen: true, noDelay: true, signal });
    try {
      await once(socket, 'connect');
    } catch (error) {
      throw new AgentError('unavailable', `connect: ${(error as Error).message}`);
    }
    sockets.add(socket);
    socket.once('close', () => sockets.delete(socket));
    return agentSocket(socket);
  };
  return {
    client: { dial, closed: closed.promise } as unknown as AgentClient,
    dials,
    sockets,
    die() {
      dead = true;
      closed.resolve(new Error('killed'));
      for (const socket of sockets) socket.destroy();
    },
  };
}

export type Handle = (req: IncomingMessage, res: ServerResponse) => void | Promise<void>;

export interface Rig {
  readonly port: number;
  readonly trafficSocket: string;
  readonly traffic: TrafficServer;
  readonly agent: ReturnType<typeof fakeAgent>;
  readonly dials: number[];
  readonly tracked: Set<() => void>;
  /** What a kill does: the id is unknown from now on, everything open is cut. */
  kill(): void;
  /** The channel goes or comes back, the sandbox stays. */
  setChannel(up: boolean): void;
  stopNode(): Promise<void>;
  startNode(): Promise<void>;
}

export async function startRig(
  t: TestContext,
  options: { envd?: Handle; interpreter?: Handle; token?: string; maxActive?: number; client?: AgentClient } = {},
): Promise<Rig> {
  const folder = await mkdtemp(join(tmpdir(), 'traffic-'));
  const trafficSocket = join(folder, 'traffic.sock');
  const agent = fakeAgent();
  const tracked = new Set<() => void>();
  const say =
    (name: string): Handle =>
    (req, res) => {
      res.end(JSON.stringify({ name, url: req.url, headers: req.headers }));
    };
  const target: TrafficTarget = {
    sandboxID: ID,
    envd: { handle: options.envd ?? say('envd') },
    interpreter: { handle: options.interpreter ?? say('interpreter') },
    agent: () => {
      if (!channel) throw new AgentError('unavailable', 'no session');
      return options.client ?? agent.client;
    },
    track(close) {
      tracked.add(close);
      return () => tracked.delete(close);
    },
    ...(options.token === undefined ? {} : { trafficAccessToken: options.token }),
  };
  let alive = true;
  let channel = true;
  let traffic!: TrafficServer;
  const startNode = async (): Promise<void> => {
    traffic = createTrafficServer({
      lookup: (id) => (alive && id === ID ? target : undefined),
      findBySignature: (url) => (alive && url.includes('signature=v1_good') ? target : undefined),
      log: silentLog,
    });
    traffic.server.listen(trafficSocket);
    await once(traffic.server, 'listening');
  };
  await startNode();
  const edge = createEdge({
    api: {
      handle: (req, res) => {
        res.end(JSON.stringify({ name: 'api', url: req.url }));
      },
    },
    trafficSocket,
    domains: ['coppice.test'],
    log: silentLog,
    ...(options.maxActive === undefined ? {} : { maxActive: options.maxActive }),
  });
  const server = createServer();
  edge.attach(server);
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.after(async () => {
    edge.close();
    server.closeAllConnections();
    server.close();
    await traffic.close();
    agent.die();
    await rm(folder, { recursive: true, force: true });
  });
  return {
    port: (server.address() as AddressInfo).port,
    trafficSocket,
    get traffic() {
      return traffic;
    },
    agent,
    dials: agent.dials,
    tracked,
    kill() {
      alive = false;
      for (const close of [...tracked]) close();
      agent.die();
    },
    setChannel(up) {
      channel = up;
    },
    stopNode: () => traffic.close(),
    startNode,
  };
}

/** A server "in the sandbox": a real one on loopback, which the fake agent dials by number. */
export async function guest(t: TestContext, server: Server | import('node:net').Server): Promise<number> {
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.after(() => {
    if ('closeAllConnections' in server) server.closeAllConnections();
    server.close();
  });
  return (server.address() as AddressInfo).port;
}

export interface Answer {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  readonly trailers: NodeJS.Dict<string>;
  readonly body: string;
}

/** Headers that reach a port of the sandbox through a localhost URL. */
export const to = (port: number, id = ID): Record<string, string> => ({
  'E2b-Sandbox-Id': id,
  'E2b-Sandbox-Port': String(port),
});

const clientAgent = new Agent({ keepAlive: true });

export function send(
  rig: { readonly port: number },
  options: RequestOptions,
  body?: string | Buffer | ((req: import('node:http').ClientRequest) => void),
): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const req = request({ agent: clientAgent, host: '127.0.0.1', port: rig.port, ...options }, (res) => {
      const chunks: Buffer[] = [];
      res.on('data', (chunk: Buffer) => chunks.push(chunk));
      res.on('error', reject);
      res.on('end', () =>
        resolve({
          status: res.statusCode ?? 0,
          headers: res.headers,
          trailers: res.trailers,
          body: Buffer.concat(chunks).toString('latin1'),
        }),
      );
    });
    req.on('error', reject);
    if (typeof body === 'function') body(req);
    else req.end(body);
  });
}

/** Sends raw bytes and gives all bytes until the far side closes. */
export async function sendRaw(port: number, bytes: string): Promise<string> {
  const socket = connect(port, '127.0.0.1');
  socket.write(bytes, 'latin1');
  const chunks: Buffer[] = [];
  for await (const chunk of socket) chunks.push(chunk as Buffer);
  return Buffer.concat(chunks).toString('latin1');
}

/** Polls until the condition holds; fails after `ms`. */
export async function until(condition: () => boolean, what: string, ms = 5_000): Promise<void> {
  const deadline = performance.now() + ms;
  while (!condition()) {
    if (performance.now() > deadline) throw new Error(`timed out: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}
