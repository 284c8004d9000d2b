/** How large a template's machines are to be: E2B's limits, and this host's. */
import { availableParallelism } from 'node:os';
import type { BuildWish } from '../contract/build-api.ts';
import { CoppiceError } from '../contract/errors.ts';
import type { ShapeWish } from './build-rows.ts';

export interface BuildLimits {
  readonly cpus: number;
  readonly memoryMB: number;
  readonly diskMB: number;
}

const MOST_CPUS = 32;
const LEAST_MEMORY_MB = 128;
const MOST_DISK_MB = 65_536;
const DEFAULT_CPUS = 2;
const DEFAULT_MEMORY_MB = 1_024;
const LEAST_DISK_MB = 512;
/** Part of what machines may claim together that one may be. */
const SHARE_OF_BUDGET = 0.5;

export function buildLimits(budgetMB: number): BuildLimits {
  const memoryMB = Math.max(LEAST_MEMORY_MB, 2 * Math.floor((budgetMB * SHARE_OF_BUDGET) / 2));
  return { cpus: Math.min(MOST_CPUS, availableParallelism()), memoryMB, diskMB: MOST_DISK_MB };
}

/** bad_request in E2B's words. */
export function demandShape(
  { cpuCount, memoryMB, freeDiskMB = 0 }: Pick<BuildWish, 'cpuCount' | 'memoryMB' | 'freeDiskMB'>,
  limits: BuildLimits,
): ShapeWish {
  const demand = (good: boolean, message: string): void => {
    if (!good) throw new CoppiceError('bad_request', message);
  };
  const cpus = cpuCount ?? Math.min(DEFAULT_CPUS, limits.cpus);
  const memory = memoryMB ?? Math.min(DEFAULT_MEMORY_MB, limits.memoryMB);
  demand(cpus >= 1, 'CPU count must be at least 1');
  demand(cpus <= MOST_CPUS, `CPU count must be at most ${MOST_CPUS}`);
  demand(cpus === 1 || cpus % 2 === 0, 'CPU count must be 1 or an even number');
  demand(cpus <= limits.cpus, `CPU count can't be higher than ${limits.cpus} on this host`);
  demand(memory >= LEAST_MEMORY_MB, `Memory must be at least ${LEAST_MEMORY_MB} MiB`);
  demand(memory % 2 === 0, 'Memory must be divisible by 2');
  demand(memory <= limits.memoryMB, `Memory can't be higher than ${limits.memoryMB} MiB on this host`);
  demand(freeDiskMB <= limits.diskMB, `Disk can't be larger than ${limits.diskMB} MiB`);
  return { cpuCount: cpus, memoryMB: memory, diskSizeMB: Math.max(LEAST_DISK_MB, Math.ceil(freeDiskMB)) };
}
