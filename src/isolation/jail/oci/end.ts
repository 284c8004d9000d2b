/** Ends every process of a jail. Its cgroup knows them all, whatever they have become inside. */
import { setTimeout as sleep } from 'node:timers/promises';
import { CoppiceError } from '../../../contract/errors.ts';
import type { Cgroups } from '../../cgroup.ts';

const DEADLINE_MS = 10_000;

/** Idempotent. Resolves when the group is empty. */
export async function endJail(id: string, cgroups: Cgroups): Promise<void> {
  const end = performance.now() + DEADLINE_MS;
  for (let pause = 1; ; pause = Math.min(pause * 2, 50)) {
    const pids = cgroups.processes(id);
    if (pids.length === 0) return;
    // The first process first, in most cases the lowest: with it, the kernel ends all the others.
    for (const pid of pids) {
      try {
        process.kill(pid, 'SIGKILL');
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
      }
    }
    // A frozen process of a v1 hierarchy cannot die.
    if (cgroups.freezes) cgroups.freeze(id, false);
    if (performance.now() > end)
      throw new CoppiceError('internal', `jail ${id} did not end within ${DEADLINE_MS} ms: ${pids.length} processes`);
    await sleep(pause);
  }
}
