/** HTTP connections to the ports of one sandbox, each a stream that its agent dials. */
import { Agent, type RequestOptions } from 'node:http';
import type { Duplex } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { type AgentClient, AgentError, type AgentSocket } from '../../channel/agent.ts';
import { SocketDuplex } from './socket-duplex.ts';

/** Milliseconds for which a closed port is tried again: a server that was started just now needs them to bind. */
const OPEN_BUDGET_MS = 1_000;
const FIRST_WAIT_MS = 20;
const LONGEST_WAIT_MS = 200;
/** Milliseconds for one dial: a guest that answers neither yes nor no. */
const DIAL_TIMEOUT_MS = 10_000;
/** Idle connections kept per port, and for how long (ms). Shorter than the keep-alive of common servers (2 s and more). */
const MAX_IDLE = 4;
const IDLE_MS = 1_000;
/** Streams that HTTP may hold in one sandbox; the channel allows 1024 in all. */
const MAX_CONNECTIONS = 640;

/** Nothing listens on the port, and nothing came up within OPEN_BUDGET_MS. */
export class PortClosedError extends Error {
  override readonly name = 'PortClosedError';
}

/** The channel to the sandbox has ended. */
export class SandboxGoneError extends Error {
  override readonly name = 'SandboxGoneError';
}

/** What `connect` gives to node:http, with the caller's way to stop a dial that has not ended. */
export interface DialOptions extends RequestOptions {
  readonly dialSignal: AbortSignal;
}

export interface Dialer {
  /** Pooled (`fresh` false) or on a connection of its own. */
  connection(port: number, fresh: boolean, signal: AbortSignal): DialOptions;
  /** For upgrades: half-close passes through. */
  upgrade(port: number, signal: AbortSignal): DialOptions;
}

class PortAgent extends Agent {
  readonly #open: (options: DialOptions, halfOpen: boolean) => Promise<Duplex>;

  constructor(open: (options: DialOptions, halfOpen: boolean) => Promise<Duplex>) {
    super({
      keepAlive: true,
      maxFreeSockets: MAX_IDLE,
      maxTotalSockets: MAX_CONNECTIONS,
      timeout: IDLE_MS,
      scheduling: 'lifo',
    });
    this.#open = open;
  }

  override createConnection(options: RequestOptions, callback?: (error: Error | null, stream: Duplex) => void): null {
    handOver(this.#open(options as DialOptions, false), callback);
    return null;
  }
}

const dialers = new WeakMap<AgentClient, Dialer>();

/** The dialer of this session. A new session (restore, resume) has a new client and so begins with an empty pool. */
export function dialerOf(client: AgentClient): Dialer {
  let dialer = dialers.get(client);
  if (!dialer) {
    dialer = createDialer(client);
    dialers.set(client, dialer);
  }
  return dialer;
}

function createDialer(client: AgentClient): Dialer {
  let gone: Error | undefined;
  const open = async (options: DialOptions, halfOpen: boolean): Promise<Duplex> => {
    const socket = await openPort(client, Number(options.port), options.dialSignal, () => gone);
    return new SocketDuplex(socket, { allowHalfOpen: halfOpen });
  };
  const pool = new PortAgent(open);
  void client.closed.then((reason) => {
    gone = reason;
    pool.destroy();
  });
  const own = (port: number, signal: AbortSignal, halfOpen: boolean): DialOptions => ({
    host: 'sandbox',
    port,
    dialSignal: signal,
    createConnection: (options, callback) => {
      handOver(open(options as DialOptions, halfOpen), callback);
      return null;
    },
  });
  return {
    connection: (port, fresh, signal) =>
      fresh ? own(port, signal, false) : { host: 'sandbox', port, dialSignal: signal, agent: pool },
    upgrade: (port, signal) => own(port, signal, true),
  };
}

async function openPort(
  client: AgentClient,
  port: number,
  signal: AbortSignal,
  gone: () => Error | undefined,
): Promise<AgentSocket> {
  const deadline = performance.now() + OPEN_BUDGET_MS;
  for (let wait = FIRST_WAIT_MS; ; wait = Math.min(wait * 2, LONGEST_WAIT_MS)) {
    signal.throwIfAborted();
    const reason = gone();
    if (reason) throw new SandboxGoneError('the channel to the sandbox has ended', { cause: reason });
    try {
      return await dialOnce(client, port, signal);
    } catch (error) {
      signal.throwIfAborted();
      const after = gone();
      if (after) throw new SandboxGoneError('the channel to the sandbox has ended', { cause: after });
      if (!(error instanceof AgentError) || error.code !== 'unavailable') throw error;
      if (performance.now() + wait > deadline)
        throw new PortClosedError(`nothing listens on port ${port}`, { cause: error });
    }
    await sleep(wait, undefined, { signal });
  }
}

/** The signal given to the agent can only abort the dial: the connection outlives the request that opened it. */
async function dialOnce(client: AgentClient, port: number, signal: AbortSignal): Promise<AgentSocket> {
  const dialling = new AbortController();
  const stop = (): void => dialling.abort(signal.reason);
  signal.addEventListener('abort', stop, { once: true });
  const timer = setTimeout(() => dialling.abort(new Error('the dial took too long')), DIAL_TIMEOUT_MS);
  try {
    return await client.dial(port, dialling.signal);
  } finally {
    clearTimeout(timer);
    signal.removeEventListener('abort', stop);
  }
}

function handOver(opening: Promise<Duplex>, callback?: (error: Error | null, stream: Duplex) => void): void {
  opening.then(
    (stream) => callback?.(null, stream),
    (error: Error) => callback?.(error, undefined as never),
  );
}
