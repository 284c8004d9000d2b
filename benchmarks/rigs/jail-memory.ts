/** Row: what a jail weighs that nobody has spoken to. In rounds, so that the noise of the host shows. */
import { type Cgroups, openCgroups } from '../../src/isolation/cgroup.ts';
import { createHerd } from './herd.ts';
import { type Counters, growth, kernelSum, median, processMemory, readMemory } from './memory.ts';
import { chargeOf, openMemoryGroup } from './memory-group.ts';
import { type RigServiceOptions, withService } from './service.ts';
import { round } from './statistics.ts';

/** All figures in MiB a jail. */
export interface IdleMemory {
  readonly clock: string;
  readonly jails: number;
  /** Median of what making them took and their end gave back, over the rounds. Whatever else the host does is in it. */
  readonly by_mem_available: number;
  /** The same of the kernel's own memory, and the private pages of the jails' processes added to it. */
  readonly by_kernel_counters: number;
  /**
   * Median of the rounds: what the jails' own groups are charged with, and what the node was in making them (its own heap,
   * and the kernel's memory for namespaces and mounts). Untouched by others on the host; what the kernel charges to nobody is
   * not in it. null without memory cgroups.
   */
  readonly by_charge: number | null;
  readonly rounds: readonly IdleRound[];
}

export interface IdleRound {
  /** Gone when they stood, back when they had ended, and what two readings differ by with nothing done in between. */
  readonly mem_available: Change;
  /** The same by the kernel's counters: slab, page tables, vmalloc, per-CPU memory, tmpfs; not programs' own memory. */
  readonly kernel_counters: Change & { readonly taken_by_kind: Counters };
  readonly jails_own: Accounted;
  readonly node: {
    /** Growth of what its group is charged with, page cache left out. */
    readonly charged: number | null;
    readonly charged_kernel: number | null;
    /** Growth of its private pages, which are part of it. */
    readonly private_pages: number;
  };
}

interface Change {
  readonly taken: number;
  readonly returned: number;
  readonly noise: number;
}

/** Sums over the jails' own processes and groups. */
export interface Accounted {
  readonly processes: number;
  readonly private_pages: number;
  readonly page_tables: number;
  readonly kernel_stacks: number;
  /** All that the memory cgroup is charged with but the page cache; the three above are part of it. */
  readonly charged: number | null;
  readonly charged_kernel: number | null;
}

const ROUNDS = 3;
const MAKERS = 2;
/** THREAD_SIZE of x86-64 and arm64. */
const KERNEL_STACK_KIB = 16;
const TIMEOUT_SECONDS = 3_600;
const MIB = 2 ** 20;

export function weighIdleJails(
  options: Omit<RigServiceOptions, 'pool' | 'connections'> & { readonly template: string; readonly jails: number },
): Promise<IdleMemory> {
  const { template, jails, home, signal } = options;
  return withService({ ...options, pool: 0, connections: MAKERS }, async ({ client, nodePid }) => {
    const herd = createHerd(client, { template, timeoutSeconds: TIMEOUT_SECONDS, workers: MAKERS, signal });
    const cgroups = await openCgroups(home.machines, { family: 'jails' });
    const group = openMemoryGroup(nodePid);
    const nodePages = (): number => processMemory(nodePid)?.privateKiB ?? 0;
    const each = (bytes: number): number => round(bytes / MIB / jails);
    try {
      // As many once before: what is made once (user namespaces, caches, heap) is nobody's. One stands all the time: what
      // they share is not counted to any.
      await herd.make(jails);
      await herd.end(herd.ids[0]);
      const keep = herd.ids[0];

      const weigh = async (): Promise<IdleRound> => {
        const idle = await readMemory(signal);
        const before = await readMemory(signal);
        const nodeBefore = { pages: nodePages(), charge: group?.charge() };
        await herd.make(jails);
        const standing = await readMemory(signal);
        const nodeStanding = { pages: nodePages(), charge: group?.charge() };
        const jailsOwn = account(
          herd.ids.filter((id) => id !== keep),
          cgroups,
        );
        await herd.end(keep);
        const after = await readMemory(signal);
        const available = (less: typeof before, more: typeof before): number =>
          round((more.available - less.available) / jails);
        const counted = (less: typeof before, more: typeof before): number =>
          round(kernelSum(growth(less, more, jails)));
        const charged = (what: 'all' | 'kernel'): number | null =>
          nodeBefore.charge && nodeStanding.charge ? each(nodeStanding.charge[what] - nodeBefore.charge[what]) : null;
        return {
          mem_available: {
            taken: available(standing, before),
            returned: available(standing, after),
            noise: available(before, idle),
          },
          kernel_counters: {
            taken: counted(before, standing),
            returned: counted(after, standing),
            noise: counted(idle, before),
            taken_by_kind: growth(before, standing, jails),
          },
          jails_own: jailsOwn,
          node: {
            charged: charged('all'),
            charged_kernel: charged('kernel'),
            private_pages: each((nodeStanding.pages - nodeBefore.pages) * 1024),
          },
        };
      };

      const rounds: IdleRound[] = [];
      for (let count = 0; count < ROUNDS; count++) rounds.push(await weigh());
      await herd.end();
      const middle = (pick: (one: IdleRound) => Change): number =>
        round(median(rounds.flatMap((one) => [pick(one).taken, pick(one).returned])));
      const charges = rounds
        .map(({ jails_own, node }) =>
          jails_own.charged === null || node.charged === null ? null : jails_own.charged + node.charged,
        )
        .filter((value) => value !== null);
      return {
        clock: `${jails} jails made cold by the service and never spoken to, beside one that stands already; written back and caches dropped before every reading; MiB a jail`,
        jails,
        by_mem_available: middle((one) => one.mem_available),
        by_kernel_counters: round(
          middle((one) => one.kernel_counters) + median(rounds.map((one) => one.jails_own.private_pages)),
        ),
        by_charge: charges.length === 0 ? null : round(median(charges)),
        rounds,
      };
    } finally {
      await group?.remove();
    }
  });
}

function account(ids: readonly string[], cgroups: Cgroups): Accounted {
  const total = { processes: 0, privateKiB: 0, pageTablesKiB: 0, threads: 0 };
  let charged: { all: number; kernel: number } | undefined = { all: 0, kernel: 0 };
  for (const id of ids) {
    for (const pid of cgroups.processes(id)) {
      const memory = processMemory(pid);
      if (!memory) continue;
      total.processes++;
      total.privateKiB += memory.privateKiB;
      total.pageTablesKiB += memory.pageTablesKiB;
      total.threads += memory.threads;
    }
    const one = chargeOf(cgroups.folders(id));
    charged = charged && one && { all: charged.all + one.all, kernel: charged.kernel + one.kernel };
  }
  const each = (value: number, unit: number): number => round(value / unit / ids.length);
  return {
    processes: each(total.processes, 1),
    private_pages: each(total.privateKiB, 1024),
    page_tables: each(total.pageTablesKiB, 1024),
    kernel_stacks: each(total.threads * KERNEL_STACK_KIB, 1024),
    charged: charged ? each(charged.all, MIB) : null,
    charged_kernel: charged ? each(charged.kernel, MIB) : null,
  };
}
