/**
 * What a memory cgroup is charged with, and one for a process of the rig's: what it allocates from then on, also in the
 * kernel, is counted apart from what others on the host do meanwhile.
 */
import { existsSync, mkdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

/** Bytes; `all` is without the page cache, but with tmpfs. */
export interface Charge {
  readonly all: number;
  readonly kernel: number;
}

export interface MemoryGroup {
  charge(): Charge;
  /** Its processes go to the group above. Waits a bounded time for those that are ending. */
  remove(): Promise<void>;
}

/** undefined: none of the folders is of a hierarchy with the memory controller. v1 and v2 name their files differently. */
export function chargeOf(folders: readonly string[]): Charge | undefined {
  const of = (file: string): string | undefined => folders.find((folder) => existsSync(join(folder, file)));
  const v2 = of('memory.current');
  const folder = v2 ?? of('memory.usage_in_bytes');
  if (folder === undefined) return undefined;
  const stat = readFileSync(join(folder, 'memory.stat'), 'utf8');
  const inStat = (name: string): number => Number(new RegExp(`^${name} (\\d+)$`, 'm').exec(stat)?.[1] ?? 0);
  const whole = (file: string): number => Number(readFileSync(join(folder, file), 'utf8'));
  const files = inStat(v2 === undefined ? 'cache' : 'file') - inStat('shmem');
  return v2 === undefined
    ? { all: whole('memory.usage_in_bytes') - files, kernel: whole('memory.kmem.usage_in_bytes') }
    : { all: whole('memory.current') - files, kernel: inStat('kernel') };
}

/** Moves a process into a fresh group; what it is charged with already stays where it is. undefined: not possible here. */
export function openMemoryGroup(pid: number): MemoryGroup | undefined {
  const mount = ['/sys/fs/cgroup/memory', '/sys/fs/cgroup'].find(
    (folder) =>
      existsSync(join(folder, 'memory.usage_in_bytes')) ||
      (existsSync(join(folder, 'cgroup.subtree_control')) &&
        readFileSync(join(folder, 'cgroup.subtree_control'), 'utf8').split(/\s+/).includes('memory')),
  );
  if (mount === undefined) return undefined;
  const folder = join(mount, `coppice-bench-${process.pid}`);
  mkdirSync(folder);
  writeFileSync(join(folder, 'cgroup.procs'), String(pid));
  return {
    charge: () => chargeOf([folder])!,
    async remove() {
      for (let attempt = 0; ; attempt++) {
        try {
          rmdirSync(folder);
          return;
        } catch (error) {
          if ((error as NodeJS.ErrnoException).code !== 'EBUSY' || attempt === 100) throw error;
          // Whoever is left goes to the group above.
          for (const left of readFileSync(join(folder, 'cgroup.procs'), 'utf8').split('\n').filter(Boolean))
            move(Number(left), dirname(folder));
          await sleep(50);
        }
      }
    },
  };
}

/** A process that has ended meanwhile is in no group that matters. */
function move(pid: number, folder: string): void {
  try {
    writeFileSync(join(folder, 'cgroup.procs'), String(pid));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
  }
}
