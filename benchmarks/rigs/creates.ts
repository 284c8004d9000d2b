/** Row: creates, one after the other, each of a service at rest, with the server's own stages. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Answer } from './client.ts';
import type { RigService } from './service.ts';
import { type Summary, summarize } from './statistics.ts';

export interface Creates {
  readonly total: Summary;
  /** The server's own stages, median each, ms. */
  readonly stages: Readonly<Record<string, number>>;
}

/** Rounds that are not counted, in every row. */
export const WARM_UP = 3;
/** Before a miss: what the one before has left to do, and what is made ahead of the next, is done by then. */
const REST_MS = 800;
/** A sandbox outlives its round by this much at most. */
const TIMEOUT_SECONDS = 60;

export interface CreatesOptions {
  /** Or snapshot. */
  readonly template: string;
  readonly n: number;
  /** Entries that must stand before each create; 0 for misses. */
  readonly hot: number;
  /** In place of what `hot` waits for. */
  readonly ready?: () => Promise<void>;
  /** Other members of the request. */
  readonly more?: Readonly<Record<string, unknown>>;
  /** Creates that came by their machine in another way are not counted; throws when there were as many of them. */
  readonly path?: NonNullable<Answer['path']>;
  readonly signal: AbortSignal;
}

export async function measureCreates(service: RigService, options: CreatesOptions): Promise<Creates> {
  const { template, n, hot, signal, more, path } = options;
  const ready =
    options.ready ?? (() => (hot > 0 ? service.untilHot(hot) : sleep<void>(REST_MS, undefined, { signal })));
  let others = 0;
  const total: number[] = [];
  const stages: Readonly<Record<string, number>>[] = [];
  for (let round = -WARM_UP; round < n; round++) {
    signal.throwIfAborted();
    await ready();
    const begun = performance.now();
    const { body, timing, ...answer } = await service.client.create(template, TIMEOUT_SECONDS, more);
    const took = performance.now() - begun;
    const counts = path === undefined || answer.path === path;
    if (round >= 0 && counts) {
      total.push(took);
      stages.push(timing);
    }
    await service.client.kill(body.sandboxID);
    if (counts || round < 0) continue;
    round--;
    if (++others > n) throw new Error(`creates of ${template} come by the ${answer.path} path, not by ${path}`);
  }
  const names = Object.keys(stages[0] ?? {});
  return {
    total: summarize(total),
    stages: Object.fromEntries(names.map((name) => [name, summarize(stages.map((one) => one[name] ?? 0)).p50])),
  };
}
