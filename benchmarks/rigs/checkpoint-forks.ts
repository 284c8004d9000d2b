/** Row: so many forks of one sandbox by one request. */
import type { Client } from './client.ts';
import { WARM_UP } from './creates.ts';
import { memAvailableMiB, processMemory } from './memory.ts';
import { round, type Summary, summarize } from './statistics.ts';
import { fork, restAndRepeat, rowOf, type VerbRow } from './verbs.ts';
import { vmmsOf } from './vmm.ts';

export interface ForkRow extends VerbRow {
  readonly count: number;
  /** Of all rounds; a round with one of them is not timed. */
  readonly not_made: number;
  /** Total by the number of forks. */
  readonly per_fork_ms: Summary;
  /** Anonymous pages of each fork's VMM, those of the last round, right after the answer. */
  readonly memory_per_fork_mib: Summary;
}

export interface ForkOptions {
  readonly count: number;
  readonly rounds: number;
  /** What the source has written and each fork holds too. */
  readonly pagesMiB: number;
  readonly signal: AbortSignal;
}

const TIMEOUT_SECONDS = 3_600;
/** What a fork's VMM holds beside the pages of its source, generously. */
const FORK_MIB = 64;
/** Part of what memory is there that forks may take. */
const SHARE = 0.5;

/** Or why there is no such row. */
export async function measureForks(client: Client, id: string, options: ForkOptions): Promise<ForkRow | string> {
  const { count, rounds, pagesMiB, signal } = options;
  if (count * (pagesMiB + FORK_MIB) > memAvailableMiB() * SHARE) return 'there is not the memory';
  let memory: Summary | undefined;
  let notMade = 0;
  const work = async () => {
    const { value, ...times } = await fork(client, id, { count, timeout: TIMEOUT_SECONDS });
    const whole = value.failures.length === 0;
    if (whole) memory = weigh(value.made.map(({ sandboxID }) => sandboxID));
    await Promise.all(value.made.map(({ sandboxID }) => client.kill(sandboxID)));
    notMade += value.failures.length;
    return whole ? [times] : [];
  };
  // Many at once are many times the same already.
  const timed = (await restAndRepeat(rounds, signal, work, count > 1 ? 1 : WARM_UP)).flat();
  if (timed.length === 0 || !memory) return `in no round were all of them made, ${notMade} came to nothing`;
  return {
    count,
    not_made: notMade,
    ...rowOf(timed),
    per_fork_ms: summarize(timed.map(({ ms }) => ms / count)),
    memory_per_fork_mib: memory,
  };
}

function weigh(ids: readonly string[]): Summary {
  const memory = Array.from(vmmsOf(ids).values(), processMemory).filter((one) => one !== undefined);
  return summarize(memory.map(({ anonymousKiB }) => round(anonymousKiB / 1024)));
}
