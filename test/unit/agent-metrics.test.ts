/** What the agent reads of a machine's use in /proc. */
import assert from 'node:assert/strict';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'node:test';
import { createMetrics } from '../../guest/agent/metrics.ts';

const MEMINFO = `MemTotal:        1000 kB
MemFree:          300 kB
MemAvailable:     700 kB
Buffers:           50 kB
Cached:           200 kB
SwapCached:       999 kB
SReclaimable:      25 kB
HugePages_Total:     0
`;
const stat = (all: string): string =>
  `cpu  ${all} 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\ncpu1 1 1 1 1 1 1 1 1 0 0\nintr 5 1 2\nctxt 9\n`;

test('memory is what /proc says, and CPU use is of the time between two calls', async (t) => {
  const proc = await mkdtemp(join(tmpdir(), 'metrics-'));
  t.after(() => rm(proc, { recursive: true, force: true }));
  await writeFile(join(proc, 'meminfo'), MEMINFO);
  await writeFile(join(proc, 'stat'), stat('100 0 50 800 50 0 0 0'));
  const metrics = createMetrics(proc, proc);
  // 100 of 400 ticks were not idle or waiting.
  await writeFile(join(proc, 'stat'), stat('150 10 70 1050 100 5 5 10'));
  const { cpuCount, cpuUsedPct, memTotal, memUsed, memCache, diskTotal, diskUsed } = metrics.read();
  assert.deepEqual([cpuCount, cpuUsedPct], [2, 25]);
  assert.deepEqual([memTotal, memUsed, memCache], [1000 * 1024, 425 * 1024, 225 * 1024]);
  assert.ok(diskTotal > diskUsed && diskUsed > 0);
  assert.equal(metrics.read().cpuUsedPct, 0);
  metrics.restart();
  await writeFile(join(proc, 'stat'), stat('250 10 70 1050 100 5 5 10'));
  assert.equal(metrics.read().cpuUsedPct, 100);
});
