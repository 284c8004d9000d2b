/**
 * The processes of one sandbox, as this envd holds them: for each process that somebody follows or writes to, one agent
 * stream, given to all who follow. Nothing here is the truth: the agent knows what runs. A process that is not held (envd
 * is new, or nobody had need of it) is attached to when it is asked for, so a restart of the host loses nothing.
 *
 * A held process is let go LINGER_MS after its last use; the agent then drops its output by itself. A process with a
 * deadline is held until the deadline, so that the pid that is killed is still the one that was started.
 */
import { Code, ConnectError } from '@connectrpc/connect';
import { type AgentClient, AgentError, type AgentProcess, type ProcessOutput } from '../channel/agent.ts';
import type { ProcessInfo, SpawnRequest } from '../channel/protocol.ts';
import type { Log } from '../telemetry/log.ts';
import { createFanOut, type Subscription } from './fan-out.ts';

const LINGER_MS = 2_000;

export type Spawn = Omit<SpawnRequest, 'op'>;

export type ProcessSelector = { readonly pid: number } | { readonly tag: string };

/** One process, while it is held. */
export interface HeldProcess {
  readonly pid: number;
  readonly pty: boolean;
  subscribe(): Subscription<ProcessOutput>;
  /** In order of calls; resolves when the agent has taken the bytes. Rejects `internal` when there is no such input. */
  write(input: 'stdin' | 'pty', bytes: Uint8Array, signal: AbortSignal): Promise<void>;
  closeStdin(): Promise<void>;
}

export interface ProcessHub {
  /** Starts a process. At `deadlineMs` (epoch) it is killed, whoever follows it then. */
  spawn(request: Spawn, deadlineMs?: number): Promise<{ process: HeldProcess; output: Subscription<ProcessOutput> }>;
  /** A process that runs, or ended so lately that the agent still knows how. Rejects not_found. */
  find(selector: ProcessSelector): Promise<HeldProcess>;
  /** A process that runs. Rejects not_found. */
  findRunning(selector: ProcessSelector): Promise<HeldProcess>;
  /** The pid of a running process. Rejects not_found. */
  pidOf(selector: ProcessSelector): Promise<number>;
  close(reason: Error): void;
}

interface Held extends HeldProcess {
  readonly agent: AgentClient;
  readonly tag: string | undefined;
  readonly over: boolean;
  end(reason: Error): void;
}

export function createProcessHub(options: {
  readonly agent: () => Promise<AgentClient> | AgentClient;
  readonly log: Log;
  /** Whoever wants to know of what a process does while it is held; `request` when it is started here. */
  readonly overhear?: (pid: number, request: Spawn | undefined) => ((item: ProcessOutput) => void) | undefined;
  readonly lingerMs?: number;
}): ProcessHub {
  const held = new Map<number, Held>();
  const attaching = new Map<string, Promise<Held>>();
  const lingerMs = options.lingerMs ?? LINGER_MS;
  let closed: Error | undefined;

  function hold(
    agent: AgentClient,
    process: AgentProcess,
    facts: Facts,
    start?: { readonly request: Spawn; readonly deadlineMs: number | undefined },
  ): Held {
    if (closed) {
      process.detach();
      throw closed;
    }
    const entry = createHeld({
      agent,
      process,
      facts,
      deadlineMs: start?.deadlineMs,
      overhear: options.overhear?.(process.pid, start?.request),
      lingerMs,
      log: options.log,
      onGone: () => {
        if (held.get(entry.pid) === entry) held.delete(entry.pid);
      },
    });
    held.set(entry.pid, entry);
    return entry;
  }

  function lookUp(agent: AgentClient, selector: ProcessSelector): Held | undefined {
    if ('pid' in selector) {
      const entry = held.get(selector.pid);
      return entry && entry.agent === agent && !entry.over ? entry : undefined;
    }
    // The agent, too, takes the latest of several with one tag.
    return [...held.values()].findLast((entry) => entry.tag === selector.tag && entry.agent === agent && !entry.over);
  }

  async function attach(agent: AgentClient, selector: ProcessSelector): Promise<Held> {
    const process = await agent.attach(selector);
    const already = held.get(process.pid);
    if (already && already.agent === agent && !already.over) {
      process.detach();
      return already;
    }
    const info = process.info ?? (await agent.processes({ services: true })).find(({ pid }) => pid === process.pid);
    return hold(agent, process, factsOf(info, 'tag' in selector ? selector.tag : undefined));
  }

  async function find(selector: ProcessSelector): Promise<Held> {
    if (closed) throw closed;
    const agent = await options.agent();
    const entry = lookUp(agent, selector);
    if (entry) return entry;
    // Two who ask at once must share one stream: the second stream of a process would split its output between them.
    const key = 'pid' in selector ? `pid ${selector.pid}` : `tag ${selector.tag}`;
    const pending = attaching.get(key) ?? attach(agent, selector).finally(() => attaching.delete(key));
    attaching.set(key, pending);
    return pending;
  }

  async function pidOf(selector: ProcessSelector): Promise<number> {
    const agent = await options.agent();
    const entry = lookUp(agent, selector);
    if (entry) return entry.pid;
    const matches = ({ pid, tag }: ProcessInfo): boolean =>
      'pid' in selector ? pid === selector.pid : tag === selector.tag;
    const found = (await agent.processes({ services: true })).findLast(matches);
    if (found) return found.pid;
    throw new AgentError('not_found', `process with ${Object.entries(selector).flat().join(' ')} not found`);
  }

  return {
    async spawn(request, deadlineMs) {
      if (closed) throw closed;
      const agent = await options.agent();
      const process = await agent.spawn(request);
      const facts = { tag: request.tag, pty: request.pty !== undefined, stdin: request.stdin };
      const entry = hold(agent, process, facts, { request, deadlineMs });
      return { process: entry, output: entry.subscribe() };
    },
    find,
    async findRunning(selector) {
      if (closed) throw closed;
      return find({ pid: await pidOf(selector) });
    },
    async pidOf(selector) {
      if (closed) throw closed;
      return pidOf(selector);
    },
    close(reason) {
      closed = reason;
      for (const entry of [...held.values()]) entry.end(reason);
    },
  };
}

interface Facts {
  readonly tag: string | undefined;
  readonly pty: boolean;
  readonly stdin: boolean;
}

function factsOf(info: ProcessInfo | undefined, tag: string | undefined): Facts {
  return { tag: info?.tag ?? tag, pty: info?.pty ?? false, stdin: info?.stdin ?? true };
}

function createHeld(options: {
  readonly agent: AgentClient;
  readonly process: AgentProcess;
  readonly facts: Facts;
  readonly deadlineMs: number | undefined;
  readonly overhear: ((item: ProcessOutput) => void) | undefined;
  readonly lingerMs: number;
  readonly log: Log;
  readonly onGone: () => void;
}): Held {
  const { agent, process, facts, log } = options;
  let over = false;
  let writing = 0;
  let deadline: NodeJS.Timeout | undefined;
  let linger: NodeJS.Timeout | undefined;
  let lastWrite: Promise<unknown> = Promise.resolve();
  let stdinClosed = false;

  const gone = (): void => {
    if (over) return;
    over = true;
    clearTimeout(deadline);
    clearTimeout(linger);
    options.onGone();
  };
  const release = (): void => {
    if (over || writing > 0 || deadline !== undefined || output.size > 0) return;
    clearTimeout(linger);
    linger = setTimeout(() => {
      if (over || writing > 0 || deadline !== undefined || output.size > 0) return;
      gone();
      process.detach();
    }, options.lingerMs);
    linger.unref();
  };
  const output = createFanOut<ProcessOutput>({ onEmpty: release, isFinal: (item) => item.type === 'exit' });

  if (options.deadlineMs !== undefined) {
    deadline = setTimeout(
      () => {
        deadline = undefined;
        agent.signal(process.pid, 'SIGKILL').catch((error: unknown) => {
          if (error instanceof AgentError && error.code === 'not_found') return;
          log.warn({ pid: process.pid, error }, 'a process was not killed at its deadline');
        });
        release();
      },
      Math.max(0, options.deadlineMs - Date.now()),
    );
    deadline.unref();
  }
  const source = options.overhear ? overheard(process.output, options.overhear) : process.output;
  output.run(source, (item) => (item.type === 'data' ? item.bytes.byteLength : 0)).then(gone);
  release();

  return {
    pid: process.pid,
    pty: facts.pty,
    tag: facts.tag,
    agent,
    get over(): boolean {
      return over;
    },
    subscribe: () => output.subscribe(),
    async write(input, bytes, signal) {
      if (facts.pty !== (input === 'pty')) {
        throw new ConnectError(
          facts.pty ? 'the process has a terminal: send pty input' : 'the process has no terminal: send stdin input',
          Code.Internal,
        );
      }
      if (!facts.pty && (!facts.stdin || stdinClosed)) {
        throw new ConnectError('stdin of the process is not enabled or was closed', Code.Internal);
      }
      writing += 1;
      const before = lastWrite;
      const mine = (async () => {
        await before;
        signal.throwIfAborted();
        await process.writeStdin(bytes, signal);
      })();
      lastWrite = mine.catch(() => {});
      try {
        await mine;
      } finally {
        writing -= 1;
        release();
      }
    },
    async closeStdin() {
      if (facts.pty) throw new ConnectError('a terminal is not closed: send it the byte 0x04', Code.Internal);
      if (!facts.stdin || stdinClosed) return;
      stdinClosed = true;
      await lastWrite;
      await process.closeStdin();
      release();
    },
    end(reason) {
      gone();
      output.fail(reason);
      process.detach();
    },
  };
}

async function* overheard<T>(source: AsyncIterable<T>, hear: (item: T) => void): AsyncGenerator<T> {
  for await (const item of source) {
    hear(item);
    yield item;
  }
}
