/** What the host lets one machine take. */
import type { MachineShape } from '../../backend.ts';
import type { CgroupLimits } from '../../cgroup.ts';
import { TRANSLATION_MB } from './config.ts';

/** MiB for QEMU's own heap, libraries, image tables and page cache in use. */
const OVERHEAD_MB = 192;
/** The main loop, the call-back thread of RCU, and the pool that does disk requests (64 at most). */
const HELPER_THREADS = 80;

/** Guest memory and vCPUs as sold, plus what the VMM itself needs: limits a hostile guest hits, and no other. */
export function machineLimits(shape: MachineShape): CgroupLimits {
  return {
    memoryBytes: (shape.memoryMB + TRANSLATION_MB + OVERHEAD_MB) * 2 ** 20,
    cpus: shape.cpuCount,
    tasks: shape.cpuCount + HELPER_THREADS,
  };
}
