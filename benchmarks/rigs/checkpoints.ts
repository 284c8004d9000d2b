/**
 * Rig: checkpoints. What capturing a sandbox and bringing it back takes through the whole service, by how much memory it has
 * written, beside floors measured in the same run. Clocks are in the result.
 */
import { CoppiceError } from '../../src/contract/errors.ts';
import { type CheckpointFloors, measureFloors } from './checkpoint-floors.ts';
import { measureMisses, measureSource, type SourceRows } from './checkpoint-verbs.ts';
import { type Creates, measureCreates } from './creates.ts';
import { type HotTierReturn, measureReturn } from './hot-tier-return.ts';
import { type RigService, withService } from './service.ts';
import { openSubject, type RigOptions, type SubjectFacts } from './subject.ts';
import { deleteSnapshot } from './verbs.ts';

export interface CheckpointsRigOptions extends RigOptions {
  /** Rounds of every row but those of several forks, which have fewer. */
  readonly n: number;
}

export interface CheckpointsResult extends SubjectFacts {
  readonly rig: 'checkpoints';
  readonly guest_memory_mib: number;
  readonly clock: {
    readonly verbs: string;
    readonly creates: string;
    readonly memory: string;
  };
  /** Of the template itself. */
  readonly create: {
    readonly hot: Creates;
    readonly in_a_shell: Creates;
    readonly without_a_shell: Creates;
  };
  readonly sources: readonly (SourceRows & { readonly create_hot: Creates })[];
  readonly hot_tier_after_restart: HotTierReturn;
  readonly floors: CheckpointFloors;
}

const DIRTY_MIB = [0, 10, 100];
const HOT = 2;
/** Hot entries of each template whose return is timed, and how often. */
const RETURNING = 4;
const RETURNS = 5;
/** So many forks are made of what has written nothing, and of nothing else. */
const MANY_FORKS = 50;
const CONNECTIONS = 4;
/** MiB that admission counts a machine as beyond its guest's memory, rounded up. */
const OVERHEAD_MIB = 128;

export async function runCheckpointsRig(options: CheckpointsRigOptions): Promise<CheckpointsResult> {
  const { home, log, signal, n, onStage } = options;
  const { host, template, backend, facts } = await openSubject(options);
  if (!backend.capabilities.memoryCheckpoint)
    throw new CoppiceError('bad_request', `template '${options.template}' makes machines whose memory stays in them`);
  const row = { template: options.template, n, signal };
  const service = { home, log, signal };
  // Counted in full, as admission does; what they hold is a tenth of it.
  const memoryMB = (MANY_FORKS + 8) * (template.shape.memoryMB + OVERHEAD_MIB);

  onStage('floors');
  const floors = await measureFloors({ host, home, template, log, signal }, { n, dirtyMiB: DIRTY_MIB });
  onStage('the template: hot hits');
  const hot = await withService({ ...service, pool: HOT }, (running) =>
    measureCreates(running, { ...row, hot: HOT, path: 'hot' }),
  );
  const kept: string[] = [];
  const measured = await withService(
    { ...service, pool: 0, memoryMB, connections: CONNECTIONS },
    async (running): Promise<{ misses: Misses; sources: SourceRows[] }> => {
      try {
        onStage('the template: pool misses');
        const misses = await measureMisses(running, row);
        const sources: SourceRows[] = [];
        for (const dirtyMiB of DIRTY_MIB) {
          const source = await measureSource(running, { ...row, dirtyMiB, forks: forksOf(dirtyMiB, n), onStage });
          kept.push(source.kept);
          onStage(`${dirtyMiB} MiB written: creates from a snapshot, pool misses`);
          sources.push({ ...source.rows, ...(await measureMisses(running, { ...row, template: source.kept })) });
        }
        return { misses, sources };
      } catch (error) {
        await deleteAll(running, kept);
        throw error;
      }
    },
  );
  const sources = await withService({ ...service, pool: 0, most: HOT, memoryMB }, async (running) => {
    try {
      const whole: (SourceRows & { create_hot: Creates })[] = [];
      for (const [index, source] of measured.sources.entries()) {
        onStage(`${source.dirty_mib} MiB written: creates from a snapshot, hot hits`);
        const wish = { ...row, template: kept[index]!, hot: HOT, path: 'hot' as const, ready: running.untilFull };
        whole.push({ ...source, create_hot: await measureCreates(running, wish) });
      }
      return whole;
    } finally {
      await deleteAll(running, kept);
    }
  });
  onStage('the hot tier after a restart');
  const back = await measureReturn({
    ...service,
    template: options.template,
    pool: RETURNING,
    memoryMB,
    rounds: Math.min(n, RETURNS),
  });

  return {
    rig: 'checkpoints',
    ...facts(),
    guest_memory_mib: template.shape.memoryMB,
    clock: {
      verbs:
        'request of the verb sent to its whole answer received, c=1, each of a service at rest, keep-alive, loopback; the pause is by the receipt: how long nothing of the source ran, of a pause until the end of the capture; fork: one request for all of them; nothing is in the hot tier',
      creates:
        'POST /v2/sandboxes sent to 201 received, c=1, each of a service at rest, keep-alive, loopback; the guest has answered before the 201; in a shell: a VMM waited for its state; without one: a sandbox that is to have no internet, for which nothing is made ahead, its network neither',
      memory: 'anonymous pages of the VMM, right after the answer; own bytes: blocks of the files of a snapshot',
    },
    create: {
      hot,
      in_a_shell: measured.misses.create_in_a_shell,
      without_a_shell: measured.misses.create_without_a_shell,
    },
    sources,
    hot_tier_after_restart: back,
    floors,
  };
}

type Misses = Awaited<ReturnType<typeof measureMisses>>;

function forksOf(dirtyMiB: number, n: number): { readonly count: number; readonly rounds: number }[] {
  const some = [
    { count: 1, rounds: n },
    { count: 10, rounds: Math.ceil(n / 3) },
  ];
  return dirtyMiB > 0 ? some : [...some, { count: MANY_FORKS, rounds: Math.ceil(n / 10) }];
}

async function deleteAll({ client }: RigService, snapshotIDs: readonly string[]): Promise<void> {
  for (const id of snapshotIDs) await deleteSnapshot(client, id);
}
