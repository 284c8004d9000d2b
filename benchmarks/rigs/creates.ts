/** Row: creates, one after the other, each of a service at rest, with the server's own stages. */
import { setTimeout as sleep } from 'node:timers/promises';
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

/** `hot`: entries that must stand before each create; 0 for misses. */
export async function measureCreates(
  service: RigService,
  options: { readonly template: string; readonly n: number; readonly hot: number; readonly signal: AbortSignal },
): Promise<Creates> {
  const { template, n, hot, signal } = options;
  const total: number[] = [];
  const stages: Readonly<Record<string, number>>[] = [];
  for (let round = -WARM_UP; round < n; round++) {
    signal.throwIfAborted();
    if (hot > 0) await service.untilHot(hot);
    else await sleep(REST_MS, undefined, { signal });
    const begun = performance.now();
    const { body, timing } = await service.client.create(template, TIMEOUT_SECONDS);
    const took = performance.now() - begun;
    if (round >= 0) {
      total.push(took);
      stages.push(timing);
    }
    await service.client.kill(body.sandboxID);
  }
  const names = Object.keys(stages[0] ?? {});
  return {
    total: summarize(total),
    stages: Object.fromEntries(names.map((name) => [name, summarize(stages.map((one) => one[name] ?? 0)).p50])),
  };
}
