/** What the machine uses, from /proc. */
import fs from 'node:fs';
import type { AgentMetrics } from '../../src/channel/protocol.ts';

/** CPU use is measured from one call to the next; the first measures from `createMetrics`. */
export function createMetrics(proc = '/proc', disk = '/'): { read(): AgentMetrics; restart(): void } {
  const times = (): { busy: number; total: number; cpus: number } => {
    const text = fs.readFileSync(`${proc}/stat`, 'utf8');
    // user nice system idle iowait irq softirq steal; guest time is part of user.
    const fields = text.slice(0, text.indexOf('\n')).trim().split(/\s+/).slice(1, 9).map(Number);
    const total = fields.reduce((sum, value) => sum + value, 0);
    return { busy: total - fields[3]! - fields[4]!, total, cpus: text.match(/^cpu\d/gm)?.length ?? 1 };
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
      const memory = fs.readFileSync(`${proc}/meminfo`, 'utf8');
      const bytes = (name: string): number =>
        1024 * Number(memory.match(new RegExp(`^${name}:\\s+(\\d+)`, 'm'))?.[1] ?? 0);
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
