/**
 * A client of the QEMU Machine Protocol (QEMU: docs/interop/qmp-spec): JSON lines over a byte stream. Commands are matched
 * to replies by id and may be sent ahead of the greeting, since QEMU handles them in order: a start-up needs no round
 * trips. Lines are bounded; every wait has a deadline and takes an AbortSignal.
 */
import { connect } from 'node:net';
import type { Duplex } from 'node:stream';
import { z } from 'zod';
import { CoppiceError } from '../../../contract/errors.ts';

export interface QmpEvent {
  readonly event: string;
  readonly data: Readonly<Record<string, unknown>>;
}

export interface QmpWait {
  readonly signal?: AbortSignal | undefined;
  /** Milliseconds; default 10 000. */
  readonly deadlineMs?: number;
}

export interface QmpClient {
  /** Resolves with the version string when the greeting has come. */
  readonly greeting: Promise<string>;
  /** Resolves, never rejects, when the stream is gone or the client was closed. */
  readonly closed: Promise<void>;
  /** Sends a command; the result is its `return`. Rejects with `internal` when QEMU answers an error, `unavailable` when it goes. */
  execute(command: string, args?: Record<string, unknown>, wait?: QmpWait): Promise<unknown>;
  /** The first event from now on that `match` accepts. */
  event(match: (event: QmpEvent) => boolean, wait?: QmpWait): Promise<QmpEvent>;
  close(): void;
}

const DEFAULT_DEADLINE_MS = 10_000;
/** A reply to any command used here is far smaller. */
const DEFAULT_MAX_LINE_BYTES = 1_048_576;

const message = z.union([
  z.object({
    QMP: z.object({
      version: z.object({ qemu: z.object({ major: z.number(), minor: z.number(), micro: z.number() }) }),
    }),
  }),
  z.object({ event: z.string(), data: z.record(z.string(), z.unknown()).optional() }),
  z.object({ return: z.unknown(), id: z.number().optional() }),
  z.object({ error: z.object({ class: z.string(), desc: z.string() }), id: z.number().optional() }),
]);

interface Waiter {
  resolve(value: unknown): void;
  reject(error: Error): void;
}

/** Drives a stream that is, or is being, connected to a QMP monitor; sends qmp_capabilities at once. */
export function createQmpClient(stream: Duplex, options: { readonly maxLineBytes?: number } = {}): QmpClient {
  const maxLineBytes = options.maxLineBytes ?? DEFAULT_MAX_LINE_BYTES;
  const replies = new Map<number, Waiter & { readonly command: string }>();
  const listeners = new Map<Waiter, (event: QmpEvent) => boolean>();
  const greeting = Promise.withResolvers<string>();
  const closed = Promise.withResolvers<void>();
  greeting.promise.catch(() => {});
  let failure: CoppiceError | undefined;
  let nextId = 1;
  let pending: Buffer[] = [];
  let pendingBytes = 0;

  const fail = (error: CoppiceError) => {
    if (failure) return;
    failure = error;
    stream.destroy();
    greeting.reject(error);
    for (const waiter of [...replies.values(), ...listeners.keys()]) waiter.reject(error);
    replies.clear();
    listeners.clear();
    closed.resolve();
  };

  const onLine = (line: string) => {
    let json: unknown;
    try {
      json = JSON.parse(line);
    } catch {
      return fail(new CoppiceError('internal', 'the VMM sent a line that is not JSON'));
    }
    const parsed = message.safeParse(json);
    if (!parsed.success) return fail(new CoppiceError('internal', 'the VMM sent a message of no known kind'));
    const data = parsed.data;
    if ('QMP' in data) {
      const { major, minor, micro } = data.QMP.version.qemu;
      return greeting.resolve(`${major}.${minor}.${micro}`);
    }
    if ('event' in data) {
      const event: QmpEvent = { event: data.event, data: data.data ?? {} };
      for (const [waiter, match] of listeners) if (match(event)) waiter.resolve(event);
      return;
    }
    const waiter = data.id === undefined ? undefined : replies.get(data.id);
    if (!waiter) return fail(new CoppiceError('internal', 'the VMM answered a command that was not sent'));
    replies.delete(data.id!);
    if ('error' in data)
      waiter.reject(
        new CoppiceError('internal', `the VMM refused ${waiter.command}: ${data.error.desc.slice(0, 500)}`, {
          details: { command: waiter.command, class: data.error.class },
        }),
      );
    else waiter.resolve(data.return);
  };

  stream.on('data', (chunk: Buffer) => {
    let rest = chunk;
    for (let end = rest.indexOf(10); end >= 0 && !failure; end = rest.indexOf(10)) {
      if (pendingBytes + end > maxLineBytes) return fail(new CoppiceError('internal', 'the VMM sent a line too long'));
      const line = Buffer.concat([...pending, rest.subarray(0, end)])
        .toString('utf8')
        .trim();
      pending = [];
      pendingBytes = 0;
      rest = rest.subarray(end + 1);
      if (line !== '') onLine(line);
    }
    if (failure || rest.length === 0) return;
    pending.push(rest);
    pendingBytes += rest.length;
    if (pendingBytes > maxLineBytes) fail(new CoppiceError('internal', 'the VMM sent a line too long'));
  });
  stream.on('error', (error) => fail(new CoppiceError('unavailable', 'the VMM monitor failed', { cause: error })));
  stream.on('end', () => fail(new CoppiceError('unavailable', 'the VMM closed its monitor')));
  stream.on('close', () => fail(new CoppiceError('unavailable', 'the VMM closed its monitor')));

  /** One wait with its deadline and signal; `leave` takes it off its list however it ends. */
  const wait = <T>(what: string, options: QmpWait, enter: (waiter: Waiter) => () => void): Promise<T> => {
    const { signal, deadlineMs = DEFAULT_DEADLINE_MS } = options;
    if (failure) return Promise.reject(failure);
    if (signal?.aborted) return Promise.reject(new CoppiceError('aborted', `${what}: given up`));
    return new Promise<T>((resolve, reject) => {
      const settle = () => {
        clearTimeout(timer);
        signal?.removeEventListener('abort', onAbort);
        leave();
      };
      const waiter: Waiter = {
        resolve: (value) => {
          settle();
          resolve(value as T);
        },
        reject: (error) => {
          settle();
          reject(error);
        },
      };
      const onAbort = () => waiter.reject(new CoppiceError('aborted', `${what}: given up`));
      const timer = setTimeout(
        () => waiter.reject(new CoppiceError('unavailable', `${what}: no answer from the VMM in ${deadlineMs} ms`)),
        deadlineMs,
      );
      signal?.addEventListener('abort', onAbort, { once: true });
      const leave = enter(waiter);
    });
  };

  const client: QmpClient = {
    greeting: greeting.promise,
    closed: closed.promise,
    execute(command, args, options = {}) {
      const id = nextId++;
      return wait(command, options, (waiter) => {
        // A reply that comes after its wait was given up is still expected, and dropped.
        const entry = { ...waiter, command };
        replies.set(id, entry);
        stream.write(`${JSON.stringify({ execute: command, ...(args ? { arguments: args } : {}), id })}\n`);
        return () => {
          if (!failure && replies.get(id) === entry) replies.set(id, { command, resolve: () => {}, reject: () => {} });
        };
      });
    },
    event(match, options = {}) {
      return wait('event', options, (waiter) => {
        listeners.set(waiter, match);
        return () => listeners.delete(waiter);
      });
    },
    close() {
      fail(new CoppiceError('aborted', 'the monitor was closed'));
    },
  };
  client.execute('qmp_capabilities').catch((error: CoppiceError) => fail(error));
  return client;
}

/** Connects to a monitor that QEMU serves on a unix socket. */
export async function connectQmp(
  path: string,
  options: QmpWait & { readonly maxLineBytes?: number } = {},
): Promise<QmpClient> {
  const client = createQmpClient(connect(path), options);
  const { signal, deadlineMs = DEFAULT_DEADLINE_MS } = options;
  const giveUp = () => client.close();
  const timer = setTimeout(giveUp, deadlineMs);
  signal?.addEventListener('abort', giveUp, { once: true });
  try {
    if (signal?.aborted) giveUp();
    await client.greeting;
    return client;
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener('abort', giveUp);
  }
}
