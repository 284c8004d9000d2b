/** The host's client of the agent: every operation of agent.ts over one session. */
import type { Duplex } from 'node:stream';
import type { z } from 'zod';
import {
  type AgentClient,
  AgentError,
  type AgentProcess,
  type AgentRequest,
  type AgentSocket,
  type ProcessOutput,
} from './agent.ts';
import { type DataKind, type FileEntry, KIND, MAX_JSON, type ProcessInfo } from './protocol.ts';
import { checked, checkedEvent, REPLIES } from './replies.ts';
import { ChannelSession, type SessionOptions } from './session.ts';
import type { ChannelStream } from './stream.ts';

export interface ConnectOptions extends SessionOptions {
  /** Longest wait for the answer to one request, ms. Default ten minutes: a large tree is removed in one request. */
  readonly requestTimeoutMs?: number;
}

const MAX_LISTED = 100_000;
const MAX_LISTED_BYTES = 64 * 1024 * 1024;
const REQUEST_TIMEOUT_MS = 600_000;
/** How much later than its bound an agent may answer: emulated guests under load are slow. */
const BOUND_MARGIN_MS = 5_000;

/**
 * Begins a session with the agent behind `duplex` and owns the stream from then on: `close` destroys it. Rejects with
 * AgentError `unavailable` (silent, gone, or not an agent) or with the signal's reason; the stream is then destroyed.
 */
export async function connectAgent(duplex: Duplex, options: ConnectOptions): Promise<AgentClient> {
  const { session, hello } = await ChannelSession.open(duplex, options);
  const timeoutMs = options.requestTimeoutMs ?? REQUEST_TIMEOUT_MS;

  /** Waits for the REPLY of `stream` and checks its shape; a wrong shape ends the session. */
  async function replyOf<T>(
    stream: ChannelStream,
    shape: z.ZodType<T>,
    signal?: AbortSignal,
    waitMs = timeoutMs,
  ): Promise<T> {
    if (signal?.aborted) {
      stream.reset(abortError(signal));
      throw signal.reason;
    }
    const onAbort = (): void => stream.reset(abortError(signal!));
    signal?.addEventListener('abort', onAbort, { once: true });
    const timer = setTimeout(
      () => stream.reset(new AgentError('unavailable', `the agent did not answer within ${waitMs} ms`)),
      waitMs,
    );
    timer.unref();
    let value: unknown;
    try {
      value = await stream.reply;
    } catch (error) {
      if (signal?.aborted) throw signal.reason;
      throw error;
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener('abort', onAbort);
    }
    return orBreak(() => checked(shape, value));
  }

  function orBreak<T>(check: () => T): T {
    try {
      return check();
    } catch (cause) {
      const error = new AgentError('unavailable', `the sandbox broke the channel: ${(cause as Error).message}`, {
        cause,
      });
      session.close(error);
      throw error;
    }
  }

  /** A request that is over with its REPLY. */
  function call<T>(request: AgentRequest, shape: z.ZodType<T>, signal?: AbortSignal, maxReply?: number): Promise<T> {
    signal?.throwIfAborted();
    return replyOf(session.openStream(request, { maxReply }), shape, signal);
  }

  /** The same, for what the agent itself answers within a bound. */
  function callWithin<T>(
    request: Extract<AgentRequest, { readonly timeoutMs: number }>,
    shape: z.ZodType<T>,
    signal: AbortSignal | undefined,
  ): Promise<T> {
    signal?.throwIfAborted();
    const waitMs = Math.min(timeoutMs, request.timeoutMs + BOUND_MARGIN_MS);
    return replyOf(session.openStream(request), shape, signal, waitMs);
  }

  async function* outputOf(stream: ChannelStream): AsyncGenerator<ProcessOutput> {
    try {
      for (let arrival = await stream.take(); arrival; arrival = await stream.take()) {
        if (arrival.event) {
          const bytes = arrival.bytes;
          const exit = orBreak(() => checkedEvent(REPLIES.exit, bytes));
          yield {
            type: 'exit',
            exitCode: exit.exitCode,
            ...(exit.signal === undefined ? {} : { signal: exit.signal }),
          };
          return;
        }
        if (arrival.kind < KIND.STDOUT || arrival.kind > KIND.PTY)
          orBreak(() => {
            throw new Error(`output of kind ${arrival?.kind}`);
          });
        yield { type: 'data', kind: arrival.kind as DataKind, bytes: arrival.bytes };
      }
      orBreak(() => {
        throw new Error('output ended without an exit');
      });
    } finally {
      // After an exit this lets the stream end on both sides; before, it detaches.
      finish(stream);
    }
  }

  async function* bytesOf(stream: ChannelStream): AsyncGenerator<Uint8Array> {
    for (let arrival = await stream.take(); arrival; arrival = await stream.take()) {
      if (arrival.event)
        orBreak(() => {
          throw new Error('an event among bytes');
        });
      yield arrival.bytes;
    }
  }

  function processOn(stream: ChannelStream, pid: number, info?: ProcessInfo): AgentProcess {
    return {
      pid,
      ...(info ? { info } : {}),
      output: once(outputOf(stream)),
      writeStdin: (bytes, signal) => stream.send(KIND.RAW, bytes, signal),
      closeStdin: async () => stream.end(),
      detach: () => stream.reset(),
    };
  }

  const entryOf = async (request: AgentRequest): Promise<FileEntry> => (await call(request, REPLIES.entry)).entry;
  const as = (user?: string): { user?: string } => (user === undefined ? {} : { user });

  return {
    hello,
    closed: session.closed,
    close: (reason) => session.close(reason),
    get operations() {
      return session.streamCount;
    },

    ping: async (signal) => void (await call({ op: 'ping' }, REPLIES.nothing, signal)),
    identity: (identity, signal) => call({ op: 'identity', identity }, REPLIES.identity, signal),
    mountVolumes: async (volumes, signal) => void (await call({ op: 'volumes', volumes }, REPLIES.nothing, signal)),
    quiesce: async (signal) => void (await call({ op: 'quiesce' }, REPLIES.nothing, signal)),
    metrics: (signal) => call({ op: 'metrics' }, REPLIES.metrics, signal),
    sync: async ({ timeoutMs, signal }) => (await callWithin({ op: 'sync', timeoutMs }, REPLIES.synced, signal)).synced,
    hooks: (event, { timeoutMs, signal }) => callWithin({ op: 'hooks', event, timeoutMs }, REPLIES.hooks, signal),

    async spawn(request, signal) {
      signal?.throwIfAborted();
      const stream = session.openStream({ ...request, op: 'spawn' }, { sends: true });
      const { pid } = await replyOf(stream, REPLIES.spawned, signal);
      return processOn(stream, pid);
    },
    async attach(which, signal) {
      signal?.throwIfAborted();
      const stream = session.openStream({ ...which, op: 'attach' }, { sends: true, maxReply: MAX_JSON });
      const info = await replyOf(stream, REPLIES.process, signal);
      return processOn(stream, info.pid, info);
    },
    processes: async (options) =>
      (
        await call(
          { op: 'processes', ...(options?.services ? { services: true } : {}) },
          REPLIES.processes,
          undefined,
          MAX_JSON,
        )
      ).processes,
    signal: async (pid, signal) => void (await call({ op: 'signal', pid, signal }, REPLIES.nothing)),
    resize: async (pid, cols, rows) => void (await call({ op: 'resize', pid, cols, rows }, REPLIES.nothing)),

    stat: (path, user) => entryOf({ op: 'stat', path, ...as(user) }),
    async list(path, depth, user) {
      const stream = session.openStream({ op: 'list', path, depth, ...as(user) });
      await replyOf(stream, REPLIES.nothing);
      const entries: FileEntry[] = [];
      let bytes = 0;
      try {
        for (let arrival = await stream.take(); arrival; arrival = await stream.take()) {
          const event = arrival.bytes;
          bytes += event.length;
          for (const entry of orBreak(() => checkedEvent(REPLIES.entries, event)).entries) entries.push(entry);
          if (entries.length > MAX_LISTED || bytes > MAX_LISTED_BYTES)
            throw new AgentError('resource_exhausted', `'${path}' holds more than ${MAX_LISTED} entries`);
        }
      } finally {
        stream.reset();
      }
      return entries;
    },
    mkdir: (path, user) => entryOf({ op: 'mkdir', path, ...as(user) }),
    move: (source, destination, user) => entryOf({ op: 'move', source, destination, ...as(user) }),
    remove: async (path, user) => void (await call({ op: 'remove', path, ...as(user) }, REPLIES.nothing)),

    async read(path, options = {}) {
      const { user, start, length, signal } = options;
      signal?.throwIfAborted();
      const stream = session.openStream({
        op: 'read',
        path,
        ...as(user),
        ...(start === undefined ? {} : { start }),
        ...(length === undefined ? {} : { length }),
      });
      const { entry } = await replyOf(stream, REPLIES.entry, signal);
      const release = onAbort(signal, (reason) => stream.reset(reason));
      async function* body(): AsyncGenerator<Uint8Array> {
        try {
          yield* bytesOf(stream);
        } finally {
          release();
          stream.reset();
        }
      }
      const cancel = (): void => {
        release();
        stream.reset();
      };
      return { entry, body: once(body()), cancel };
    },

    async write(path, body, options = {}) {
      const { user, metadata, signal } = options;
      signal?.throwIfAborted();
      const stream = session.openStream(
        { op: 'write', path, ...as(user), ...(metadata ? { metadata } : {}) },
        { sends: true },
      );
      await replyOf(stream, REPLIES.nothing, signal);
      const release = onAbort(signal, (reason) => stream.reset(reason));
      try {
        for await (const piece of body) {
          await stream.send(KIND.RAW, piece, signal);
        }
        stream.end();
        const arrival = await stream.take();
        if (!arrival?.event)
          return orBreak(() => {
            throw new Error('a write ended without its entry');
          });
        return orBreak(() => checkedEvent(REPLIES.entry, arrival.bytes)).entry;
      } catch (error) {
        if (signal?.aborted) throw signal.reason;
        // The agent's own reason (a full disk) says more than the send that it cut short.
        throw stream.failure instanceof AgentError ? stream.failure : error;
      } finally {
        release();
        finish(stream);
      }
    },
    compose: (sources, destination, user) => entryOf({ op: 'compose', sources, path: destination, ...as(user) }),

    async watch(path, options) {
      const { recursive, includeEntry, user } = options;
      const stream = session.openStream({ op: 'watch', path, recursive, includeEntry, ...as(user) });
      await replyOf(stream, REPLIES.nothing);
      let closed = false;
      const close = (): void => {
        closed = true;
        stream.reset();
      };
      async function* events() {
        try {
          for (let arrival = await stream.take(); arrival; arrival = await stream.take()) {
            const bytes = arrival.bytes;
            yield orBreak(() => checkedEvent(REPLIES.watch, bytes));
          }
        } catch (error) {
          if (!closed) throw error;
        } finally {
          close();
        }
      }
      return { events: once(events()), close };
    },

    async dial(port, signal): Promise<AgentSocket> {
      signal?.throwIfAborted();
      const stream = session.openStream({ op: 'dial', port }, { sends: true });
      await replyOf(stream, REPLIES.nothing, signal);
      return {
        input: once(bytesOf(stream)),
        write: (bytes) => stream.send(KIND.RAW, bytes),
        end: () => stream.end(),
        destroy: () => stream.reset(),
      };
    },
  };
}

/** Ends this side; a stream whose other side has not ended is let go. */
function finish(stream: ChannelStream): void {
  if (stream.ended) stream.end();
  else stream.reset();
}

function abortError(signal: AbortSignal): Error {
  return signal.reason instanceof Error ? signal.reason : new Error('aborted', { cause: signal.reason });
}

function onAbort(signal: AbortSignal | undefined, act: (reason: Error) => void): () => void {
  if (!signal) return () => {};
  const listener = (): void => act(abortError(signal));
  signal.addEventListener('abort', listener, { once: true });
  return () => signal.removeEventListener('abort', listener);
}

/** An iterable that can be iterated once; a second attempt throws instead of ending at once. */
function once<T>(generator: AsyncGenerator<T>): AsyncIterable<T> {
  let taken = false;
  return {
    [Symbol.asyncIterator]() {
      if (taken) throw new Error('this can be read once');
      taken = true;
      return generator;
    },
  };
}
