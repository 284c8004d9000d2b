/** Flushing the file systems within a bound. */
import type { Powers } from './powers.ts';

/** True: all that was written before the call is on disk. False: not yet, after `timeoutMs`. */
export type Flush = (timeoutMs: number) => Promise<boolean>;

/**
 * A flush that hangs holds a thread of the pool, of which there are few: one runs at a time, and all that ask meanwhile
 * wait for the same next one, since the one that runs may have passed what they wrote.
 */
export function createFlush(powers: Pick<Powers, 'sync'>): Flush {
  let running: Promise<void> | undefined;
  let next: Promise<void> | undefined;

  const start = (): Promise<void> => {
    const flush = powers.sync().finally(() => {
      running = undefined;
    });
    running = flush;
    return flush;
  };
  const after = async (before: Promise<void>): Promise<void> => {
    await before.catch(() => {});
    next = undefined;
    await start();
  };

  return async (timeoutMs) => {
    let flush: Promise<void>;
    if (!running) flush = start();
    else {
      next ??= after(running);
      flush = next;
    }
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<false>((resolve) => {
      timer = setTimeout(resolve, timeoutMs, false);
    });
    const done = flush.then(() => true);
    // When the bound comes first, nobody else hears of its failure.
    done.catch(() => {});
    try {
      return await Promise.race([done, late]);
    } finally {
      clearTimeout(timer);
    }
  };
}
