/** Many sandboxes at once, made and ended by a few clients side by side. */
import type { Client } from './client.ts';

export interface Herd {
  /** Those that stand, in the order in which they were made. */
  readonly ids: readonly string[];
  /** Makes so many more; the time of each, ms. The first that fails stops it. */
  make(count: number): Promise<number[]>;
  /** Ends all but `keep`; the time of each, ms. */
  end(keep?: string): Promise<number[]>;
}

export interface HerdOptions {
  readonly template: string;
  readonly timeoutSeconds: number;
  /** Requests in flight; the client needs as many connections. */
  readonly workers: number;
  readonly signal: AbortSignal;
  readonly onProgress?: (fraction: number) => void;
}

export function createHerd(client: Client, options: HerdOptions): Herd {
  const { template, timeoutSeconds, workers, signal, onProgress } = options;
  const ids: string[] = [];

  const each = async (count: number, work: (index: number) => Promise<void>): Promise<number[]> => {
    const times: number[] = [];
    let next = 0;
    const worker = async (): Promise<void> => {
      while (next < count) {
        signal.throwIfAborted();
        const index = next++;
        const begun = performance.now();
        try {
          await work(index);
        } catch (error) {
          next = count;
          throw error;
        }
        times.push(performance.now() - begun);
        onProgress?.(times.length / count);
      }
    };
    const ends = await Promise.allSettled(Array.from({ length: workers }, worker));
    for (const end of ends) if (end.status === 'rejected') throw end.reason;
    return times;
  };

  return {
    ids,
    make: (count) =>
      each(count, async () => {
        ids.push((await client.create(template, timeoutSeconds)).body.sandboxID);
      }),
    end: async (keep) => {
      const doomed = ids.filter((id) => id !== keep);
      const times = await each(doomed.length, (index) => client.kill(doomed[index]!));
      ids.splice(0, ids.length, ...ids.filter((id) => id === keep));
      return times;
    },
  };
}
