/**
 * Rig: create. Clock C2 (docs/performance.md): POST sent to 201 received, and the 201 is sent only after the guest has
 * answered. Rows: hot hit and pool miss at c=1 through the whole service, memory and idle CPU of a clone, and beside them
 * the floor measured in the same run: waking a parked clone to its agent's answer on the raw channel.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { type CloneOptions, measureWake, withClones } from './clones.ts';
import { measureCreates } from './creates.ts';
import { memAvailableMiB } from './memory.ts';
import { withService } from './service.ts';
import { round, type Summary } from './statistics.ts';
import { openSubject, type RigOptions, type SubjectFacts } from './subject.ts';

export interface CreateRigOptions extends RigOptions {
  /** Creates per row. */
  readonly n: number;
  /** Idle clones held for the memory and CPU rows. */
  readonly clones: number;
}

export interface CreateResult extends SubjectFacts {
  readonly rig: 'create';
  readonly clock: string;
  readonly floor_sigcont_to_answer_ms: Summary;
  readonly hot_create_ms: Summary;
  /** The server's own stages of the hot creates, median each. */
  readonly hot_stages_ms: Readonly<Record<string, number>>;
  readonly miss_create_ms: Summary;
  readonly miss_stages_ms: Readonly<Record<string, number>>;
  readonly memory_per_clone_mib: {
    readonly clones: number;
    readonly by_mem_available: number;
    readonly by_private_pages: number;
  };
  readonly idle_cpu_per_clone_percent: {
    readonly clones: number;
    readonly seconds: number;
    readonly of_one_core: number;
  };
}

const IDLE_SECONDS = 10;
/** Idle clones are given this long to come to rest before they are weighed. */
const SETTLE_MS = 3_000;

export async function runCreateRig(options: CreateRigOptions): Promise<CreateResult> {
  const { home, log, signal, n, onStage } = options;
  const { host, template, facts } = await openSubject(options);
  const cloning: CloneOptions = { host, home, template, log, signal };
  onStage('the floor: waking parked clones');
  const floor = await measureWake(cloning, n);
  onStage('memory and CPU of idle clones');
  const idle = await weighIdleClones(cloning, options.clones);
  onStage('hot hits through the service');
  const hot = await withService({ home, log, signal, pool: 2 }, (service) =>
    measureCreates(service, { template: options.template, n, hot: 2, signal }),
  );
  onStage('pool misses through the service');
  const miss = await withService({ home, log, signal, pool: 0 }, (service) =>
    measureCreates(service, { template: options.template, n, hot: 0, signal }),
  );

  return {
    rig: 'create',
    clock:
      'POST /v2/sandboxes sent to 201 received, c=1, each of a service at rest, keep-alive, loopback; the guest has answered before the 201',
    ...facts(),
    floor_sigcont_to_answer_ms: floor,
    hot_create_ms: hot.total,
    hot_stages_ms: hot.stages,
    miss_create_ms: miss.total,
    miss_stages_ms: miss.stages,
    ...idle,
  };
}

async function weighIdleClones(
  options: CloneOptions,
  count: number,
): Promise<Pick<CreateResult, 'memory_per_clone_mib' | 'idle_cpu_per_clone_percent'>> {
  // One clone first: what all share (page cache of the checkpoint, the VMM's binary) is not counted to any.
  return withClones(options, { first: 0, count: 1 }, async () => {
    const before = memAvailableMiB();
    return withClones(options, { first: 1, count }, async (clones) => {
      await sleep(SETTLE_MS);
      const after = memAvailableMiB();
      const begun = await Promise.all(clones.map(({ machine }) => machine.usage()));
      await sleep(IDLE_SECONDS * 1000);
      const ended = await Promise.all(clones.map(({ machine }) => machine.usage()));
      const cpu = ended.reduce((sum, usage, index) => sum + usage.cpuSeconds - begun[index]!.cpuSeconds, 0);
      const privateBytes = ended.reduce((sum, usage) => sum + usage.privateBytes, 0);
      return {
        memory_per_clone_mib: {
          clones: clones.length,
          by_mem_available: round((before - after) / clones.length),
          by_private_pages: round(privateBytes / 2 ** 20 / clones.length),
        },
        idle_cpu_per_clone_percent: {
          clones: clones.length,
          seconds: IDLE_SECONDS,
          of_one_core: round((cpu / clones.length / IDLE_SECONDS) * 100),
        },
      };
    });
  });
}
