/**
 * One stream of items given to several consumers. Each consumer has a bounded queue; the source is asked for its next
 * item only when every queue has room, so that a slow consumer slows the source and never fills memory. A consumer that
 * takes nothing for STALL_MS while others wait for it is let go, with resource_exhausted: one dead reader must not hold
 * up the rest for ever. A consumer that is alone may take its time.
 */
import { Code, ConnectError } from '@connectrpc/connect';

/** Bytes that one consumer may have waiting; the item that crosses the line is still taken. */
const QUEUE_BYTES = 256 * 1024;
const STALL_MS = 30_000;
/** What an item costs beyond its own bytes. */
const ITEM_OVERHEAD = 64;

export const IDLE: unique symbol = Symbol('idle');
export const END: unique symbol = Symbol('end');

/** One consumer's side. */
export interface Subscription<T> {
  /** The next item; IDLE when none came within `idleMs`; END after the last. Rejects with the failure of the source. */
  next(idleMs: number): Promise<T | typeof IDLE | typeof END>;
  /** Ends it from outside: what is queued is dropped and `next` rejects with `reason`. */
  fail(reason: Error): void;
  /** Ends it in peace: `next` answers END. Idempotent. */
  close(): void;
}

interface Consumer<T> extends Subscription<T> {
  push(item: T, bytes: number): void;
  /** No more items: END after what is queued, or `error`. */
  finish(error?: Error): void;
  readonly full: boolean;
}

export interface FanOut<T> {
  subscribe(): Subscription<T>;
  readonly size: number;
  /** Resolves when the source is over and was handed to every consumer's queue. Never rejects. */
  run(source: AsyncIterable<T>, sizeOf: (item: T) => number): Promise<void>;
  /** Ends every consumer at once, now and later. */
  fail(reason: Error): void;
}

/**
 * `onEmpty` is called whenever the last consumer has gone. `isFinal` marks an item that who comes too late still gets:
 * the exit of a process.
 */
export function createFanOut<T>(options: {
  readonly onEmpty: () => void;
  readonly isFinal?: (item: T) => boolean;
  readonly stallMs?: number;
}): FanOut<T> {
  const consumers = new Set<Consumer<T>>();
  let over: { readonly error?: Error } | undefined;
  let final: { readonly item: T } | undefined;
  let wake: (() => void) | undefined;

  /** Called by consumers: something was taken, or somebody left. */
  const changed = (): void => {
    wake?.();
    wake = undefined;
  };

  const leave = (consumer: Consumer<T>): void => {
    if (!consumers.delete(consumer)) return;
    changed();
    if (consumers.size === 0) options.onEmpty();
  };

  async function room(): Promise<void> {
    for (;;) {
      const full = [...consumers].filter((consumer) => consumer.full);
      if (full.length === 0) return;
      const change = Promise.withResolvers<'changed' | 'stalled'>();
      wake = () => change.resolve('changed');
      const timer =
        consumers.size > 1 ? setTimeout(() => change.resolve('stalled'), options.stallMs ?? STALL_MS) : undefined;
      const outcome = await change.promise;
      clearTimeout(timer);
      if (outcome === 'changed') continue;
      for (const consumer of full) {
        consumer.fail(new ConnectError('the output was not read for too long', Code.ResourceExhausted));
      }
    }
  }

  return {
    get size(): number {
      return consumers.size;
    },
    subscribe(): Subscription<T> {
      const consumer = createConsumer<T>({ onTaken: changed, onGone: () => leave(consumer) });
      if (over) {
        if (final) consumer.push(final.item, 0);
        consumer.finish(over.error);
      } else {
        consumers.add(consumer);
        // A wait for room that began with one consumer has no stall limit; with two it must have one.
        changed();
      }
      return consumer;
    },
    async run(source: AsyncIterable<T>, sizeOf: (item: T) => number): Promise<void> {
      let error: Error | undefined;
      try {
        for await (const item of source) {
          const bytes = sizeOf(item) + ITEM_OVERHEAD;
          if (options.isFinal?.(item)) final = { item };
          for (const consumer of consumers) consumer.push(item, bytes);
          if (consumers.size > 0) await room();
        }
      } catch (cause) {
        error = cause instanceof Error ? cause : new Error(String(cause));
      }
      over ??= { error };
      for (const consumer of [...consumers]) consumer.finish(error);
    },
    fail(reason: Error): void {
      over ??= { error: reason };
      for (const consumer of [...consumers]) consumer.fail(reason);
    },
  };
}

function createConsumer<T>(hooks: { readonly onTaken: () => void; readonly onGone: () => void }): Consumer<T> {
  const queue: { readonly item: T; readonly bytes: number }[] = [];
  let queued = 0;
  let finished: { readonly error?: Error } | undefined;
  let gone = false;
  let waiting: (() => void) | undefined;

  const notify = (): void => {
    waiting?.();
    waiting = undefined;
  };
  const end = (error?: Error): void => {
    finished ??= { error };
    notify();
  };
  const depart = (): void => {
    if (gone) return;
    gone = true;
    queue.length = 0;
    queued = 0;
    hooks.onGone();
  };

  return {
    get full(): boolean {
      return queued >= QUEUE_BYTES;
    },
    push(item: T, bytes: number): void {
      if (finished) return;
      queue.push({ item, bytes });
      queued += bytes;
      notify();
    },
    finish: end,
    fail(reason: Error): void {
      if (finished && queue.length === 0) return;
      finished = { error: reason };
      depart();
      notify();
    },
    close(): void {
      end();
      depart();
    },
    async next(idleMs: number): Promise<T | typeof IDLE | typeof END> {
      for (;;) {
        const head = queue.shift();
        if (head) {
          const wasFull = queued >= QUEUE_BYTES;
          queued -= head.bytes;
          if (wasFull && queued < QUEUE_BYTES) hooks.onTaken();
          return head.item;
        }
        if (finished) {
          depart();
          if (finished.error) throw finished.error;
          return END;
        }
        const { promise, resolve } = Promise.withResolvers<'woken' | 'idle'>();
        waiting = () => resolve('woken');
        const timer = setTimeout(() => resolve('idle'), idleMs);
        const outcome = await promise;
        clearTimeout(timer);
        if (outcome === 'idle' && queue.length === 0 && !finished) {
          waiting = undefined;
          return IDLE;
        }
      }
    },
  };
}
