/** The verbs that capture a sandbox or bring one back, each timed from its request to the end of its answer. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { ForkResult, Sandbox, SnapshotInfo } from '../../src/contract/e2b/responses.ts';
import type { Answer, Client } from './client.ts';
import { WARM_UP } from './creates.ts';
import { type Summary, summarize } from './statistics.ts';

export interface VerbRow {
  readonly total_ms: Summary;
  /** How long nothing of the source ran, by the receipt; absent for verbs that capture nothing. */
  readonly pause_ms?: Summary;
  /** The server's own stages, median each. */
  readonly stages_ms: Readonly<Record<string, number>>;
}

export interface Timed<T> {
  readonly value: T;
  readonly ms: number;
  readonly timing: Answer['timing'];
}

/** Between two verbs: what the one before has left to do is done by then. */
export const VERB_REST_MS = 400;

/** Where the receipt's pause and total are among the stages. */
const PAUSE = 'pause';
const TOTAL = 'total';

async function timed<T>(answer: () => Promise<Answer>, value: (answer: Answer) => T): Promise<Timed<T>> {
  const begun = performance.now();
  const got = await answer();
  return { ms: performance.now() - begun, timing: got.timing, value: value(got) };
}

export const takeSnapshot = (client: Client, id: string): Promise<Timed<SnapshotInfo>> =>
  timed(
    () => client.ask(201, 'POST', `/sandboxes/${id}/snapshots`, {}),
    ({ text }) => JSON.parse(text) as SnapshotInfo,
  );

export async function deleteSnapshot(client: Client, snapshotID: string): Promise<void> {
  await client.ask(204, 'DELETE', `/templates/${encodeURIComponent(snapshotID)}`);
}

export const pause = (client: Client, id: string): Promise<Timed<undefined>> =>
  timed(
    () => client.ask(204, 'POST', `/sandboxes/${id}/pause`, {}),
    () => undefined,
  );

export const resume = (client: Client, id: string, timeout: number): Promise<Timed<undefined>> =>
  timed(
    () => client.ask(201, 'POST', `/sandboxes/${id}/resume`, { timeout }),
    () => undefined,
  );

export const rollBack = (client: Client, id: string, snapshotID: string): Promise<Timed<undefined>> =>
  timed(
    () => client.ask(201, 'POST', `/sandboxes/${id}/rollback`, { snapshotID }),
    () => undefined,
  );

export interface Forks {
  readonly made: readonly Sandbox[];
  /** Why others were not. */
  readonly failures: readonly string[];
}

export const fork = (
  client: Client,
  id: string,
  wish: { readonly count: number; readonly timeout: number },
): Promise<Timed<Forks>> =>
  timed(
    () => client.ask(201, 'POST', `/sandboxes/${id}/fork`, wish),
    ({ text }) => {
      const outcomes = JSON.parse(text) as ForkResult[];
      return {
        made: outcomes.flatMap((one) => ('sandbox' in one ? [one.sandbox] : [])),
        failures: outcomes.flatMap((one) => ('error' in one ? [one.error.message] : [])),
      };
    },
  );

export function rowOf(rounds: readonly Pick<Timed<unknown>, 'ms' | 'timing'>[]): VerbRow {
  const all = (name: string): number[] => rounds.map(({ timing }) => timing[name] ?? 0);
  const names = Object.keys(rounds[0]?.timing ?? {});
  return {
    total_ms: summarize(rounds.map(({ ms }) => ms)),
    ...(names.includes(PAUSE) ? { pause_ms: summarize(all(PAUSE)) } : {}),
    stages_ms: Object.fromEntries(
      names.filter((name) => name !== PAUSE && name !== TOTAL).map((name) => [name, summarize(all(name)).p50]),
    ),
  };
}

/** Rounds, each of a service at rest; those of the warm-up are not in the result. */
export async function restAndRepeat<T>(
  rounds: number,
  signal: AbortSignal,
  work: () => Promise<T>,
  warmUp = WARM_UP,
): Promise<T[]> {
  const done: T[] = [];
  for (let count = -warmUp; count < rounds; count++) {
    await sleep(VERB_REST_MS, undefined, { signal });
    const one = await work();
    if (count >= 0) done.push(one);
  }
  return done;
}
