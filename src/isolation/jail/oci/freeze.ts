/** Waiting until the processes of a jail stand still. */
import { setTimeout as sleep } from 'node:timers/promises';
import { CoppiceError } from '../../../contract/errors.ts';
import type { Cgroups } from '../../cgroup.ts';

/** A process freezes on its way out of the kernel; one that waits for a disk in there needs as long as the disk. */
const DEADLINE_MS = 5_000;
/** Most jails are frozen within this, and a timer's least step is longer. */
const SPIN_MS = 2;

/** unavailable: some process did not stop in time. */
export async function awaitFrozen(id: string, cgroups: Cgroups, signal?: AbortSignal): Promise<void> {
  const start = performance.now();
  while (!cgroups.freezing(id).done) {
    signal?.throwIfAborted();
    const passed = performance.now() - start;
    if (passed > DEADLINE_MS)
      throw new CoppiceError('unavailable', `the processes of jail ${id} did not stop within ${DEADLINE_MS} ms`);
    if (passed > SPIN_MS) await sleep(1);
    else await new Promise((resolve) => setImmediate(resolve));
  }
}
