/** Rows: the verbs on one sandbox of which a program has filled so much memory, and what is made of its snapshot. */
import { Agent } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import { type ForkRow, measureForks } from './checkpoint-forks.ts';
import { type Creates, measureCreates } from './creates.ts';
import { fillMemory } from './dirty.ts';
import { timeExec } from './exec.ts';
import type { RigService } from './service.ts';
import {
  deleteSnapshot,
  pause,
  restAndRepeat,
  resume,
  rollBack,
  rowOf,
  takeSnapshot,
  VERB_REST_MS,
  type VerbRow,
} from './verbs.ts';

export interface SourceRows {
  readonly dirty_mib: number;
  /** On the host's disk, of each snapshot. */
  readonly own_bytes: { readonly min: number; readonly max: number };
  readonly snapshot: VerbRow;
  readonly pause: VerbRow;
  readonly resume: VerbRow;
  readonly rollback: VerbRow;
  readonly create_in_a_shell: Creates;
  readonly create_without_a_shell: Creates;
  readonly forks: readonly ForkRow[];
  /** Why there are not all of those rows. */
  readonly forks_not_measured: readonly string[];
}

export interface SourceOptions {
  readonly template: string;
  readonly dirtyMiB: number;
  readonly n: number;
  /** Forks of one verb, and rounds of each. */
  readonly forks: readonly { readonly count: number; readonly rounds: number }[];
  readonly signal: AbortSignal;
  readonly onStage: (stage: string) => void;
}

const TIMEOUT_SECONDS = 3_600;

/** The rows of one service without a hot tier, and the id of a snapshot that stays. */
export async function measureSource(
  { client, port }: RigService,
  options: SourceOptions,
): Promise<{ readonly rows: Omit<SourceRows, 'create_in_a_shell' | 'create_without_a_shell'>; readonly kept: string }> {
  const { template, dirtyMiB, n, signal, onStage } = options;
  const { sandboxID: id, envdAccessToken } = (await client.create(template, TIMEOUT_SECONDS)).body;
  const say = (what: string): void => onStage(`${dirtyMiB} MiB written: ${what}`);
  const repeat = <T>(work: () => Promise<T>): Promise<T[]> => restAndRepeat(n, signal, work);
  try {
    if (dirtyMiB > 0) {
      say('filling it');
      const agent = new Agent({ keepAlive: false });
      const token = envdAccessToken === undefined ? {} : { accessToken: envdAccessToken };
      await timeExec({ agent, at: { port }, sandboxID: id, ...token }, fillMemory(dirtyMiB));
    }
    say('snapshots');
    const snapshots = await repeat(async () => {
      const taken = await takeSnapshot(client, id);
      await deleteSnapshot(client, taken.value.snapshotID);
      return taken;
    });
    const own = snapshots.map(({ value }) => value.ownBytes);
    say('pauses and resumes');
    const pauses = await repeat(async () => {
      const paused = await pause(client, id);
      await sleep(VERB_REST_MS, undefined, { signal });
      return { paused, resumed: await resume(client, id, TIMEOUT_SECONDS) };
    });
    const forks: ForkRow[] = [];
    const missing: string[] = [];
    for (const wish of options.forks) {
      say(`${wish.count} forks at once`);
      const row = await measureForks(client, id, { ...wish, pagesMiB: Math.max(...own) / 2 ** 20, signal });
      if (typeof row === 'string') missing.push(`${wish.count} at once: ${row}`);
      else forks.push(row);
    }
    const kept = (await takeSnapshot(client, id)).value.snapshotID;
    try {
      say('rollbacks');
      const rollbacks = await repeat(() => rollBack(client, id, kept));
      return {
        kept,
        rows: {
          dirty_mib: dirtyMiB,
          own_bytes: { min: Math.min(...own), max: Math.max(...own) },
          snapshot: rowOf(snapshots),
          pause: rowOf(pauses.map(({ paused }) => paused)),
          resume: rowOf(pauses.map(({ resumed }) => resumed)),
          rollback: rowOf(rollbacks),
          forks,
          forks_not_measured: missing,
        },
      };
    } catch (error) {
      await deleteSnapshot(client, kept);
      throw error;
    }
  } finally {
    await client.kill(id);
  }
}

/** Creates from a snapshot or a template on a pool miss, of a service without a hot tier. */
export async function measureMisses(
  service: RigService,
  options: { readonly template: string; readonly n: number; readonly signal: AbortSignal },
): Promise<Pick<SourceRows, 'create_in_a_shell' | 'create_without_a_shell'>> {
  return {
    create_in_a_shell: await measureCreates(service, { ...options, hot: 0, path: 'shell' }),
    // What is made ahead has its grant of the internet already, and is not taken for a sandbox that never has it.
    create_without_a_shell: await measureCreates(service, {
      ...options,
      hot: 0,
      more: { allow_internet_access: false },
      path: 'cold',
    }),
  };
}
