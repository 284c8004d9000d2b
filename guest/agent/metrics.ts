/** What the machine uses, from /proc. Without regular expressions, which a guest would have to compile at the first call. */
import fs from 'node:fs';
import type { AgentMetrics } from '../../src/channel/protocol.ts';

/** CPU use is measured from one call to the next; the first measures from `createMetrics`. */
export function createMetrics(proc = '/proc', disk = '/'): { read(): AgentMetrics; restart(): void } {
  const times = (): { busy: number; total: number; cpus: number } => {
    // Of all CPUs together, then of each.
    const cpus = lines(`${proc}/stat`).filter((line) => line.startsWith('cpu'));
    // user nice system idle iowait irq softirq steal; guest time is part of user.
    const fields = cpus[0]!.split(' ').filter(Boolean).slice(1, 9).map(Number);
    const total = fields.reduce((sum, value) => sum + value, 0);
    return { busy: total - fields[3]! - fields[4]!, total, cpus: cpus.length - 1 };
  };
  let before = times();
  return {
    restart: () => {
      before = times();
    },
    read() {
      const now = times();
      const total = now.total - before.total;
      const used = total > 0 ? (100 * (now.busy - before.busy)) / total : 0;
      before = now;
      const memory = new Map(lines(`${proc}/meminfo`).map((line) => line.split(':') as [string, string]));
      const bytes = (name: string): number => 1024 * Number.parseInt(memory.get(name) ?? '0', 10);
      const cache = bytes('Cached') + bytes('SReclaimable');
      const blocks = fs.statfsSync(disk);
      return {
        cpuCount: now.cpus,
        cpuUsedPct: Math.round(100 * Math.min(100, Math.max(0, used))) / 100,
        memTotal: bytes('MemTotal'),
        memUsed: Math.max(0, bytes('MemTotal') - bytes('MemFree') - bytes('Buffers') - cache),
        memCache: cache,
        diskTotal: blocks.blocks * blocks.bsize,
        diskUsed: (blocks.blocks - blocks.bfree) * blocks.bsize,
      };
    },
  };
}

function lines(path: string): string[] {
  return fs.readFileSync(path, 'utf8').split('\n');
}
