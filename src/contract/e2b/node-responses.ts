/** What an operator's client requires of answers about nodes and about every team at once. */
import { z } from 'zod';

const count = z.int().min(0);

export const nodeStatus = z.enum(['ready', 'draining', 'connecting', 'unhealthy', 'standby']);

const nodeMetrics = z.strictObject({
  allocatedCPU: count,
  cpuPercent: z.int().min(0).max(100),
  cpuCount: count,
  allocatedMemoryBytes: count,
  memoryUsedBytes: count,
  memoryTotalBytes: count,
  disks: z.array(
    z.strictObject({
      mountPoint: z.string(),
      device: z.string(),
      filesystemType: z.string(),
      usedBytes: count,
      totalBytes: count,
    }),
  ),
});

const common = z.strictObject({
  version: z.string(),
  commit: z.string(),
  id: z.string(),
  serviceInstanceID: z.string(),
  clusterID: z.string(),
  machineInfo: z.strictObject({
    cpuFamily: z.string(),
    cpuModel: z.string(),
    cpuModelName: z.string(),
    cpuArchitecture: z.string(),
  }),
  status: nodeStatus,
  sandboxCount: count,
  metrics: nodeMetrics,
  createSuccesses: count,
  createFails: count,
});

export const node = common.extend({ sandboxStartingCount: count });
export const nodeDetail = common.extend({ cachedBuilds: z.array(z.string()) });
export const adminKillResult = z.strictObject({ killedCount: count, failedCount: count });
export const adminCancelResult = z.strictObject({ cancelledCount: count, failedCount: count });
/** Team to how many of its sandboxes run; a team of which none does is not in it. */
export const runningCounts = z.record(z.uuid(), z.int().min(1));

export type NodeInfo = z.infer<typeof node>;
export type NodeDetail = z.infer<typeof nodeDetail>;
export type AdminCancelResult = z.infer<typeof adminCancelResult>;
export type AdminKillResult = z.infer<typeof adminKillResult>;
