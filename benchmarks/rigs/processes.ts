/** What one process holds of the host at an instant: memory, threads, descriptors by what they lead to. Linux, proc(5). */
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { round } from './statistics.ts';

export interface ProcessReading {
  readonly pid: number;
  readonly rss_mib: number;
  /** Pages that several processes map count in parts. */
  readonly pss_mib: number;
  readonly threads: number;
  /** Open descriptors, and those of them that lead to sockets, pipes and files by name. */
  readonly handles: number;
  readonly sockets: number;
  readonly pipes: number;
  readonly files: number;
}

/** Throws when there is no such process, as when it died. */
export function readProcess(pid: number): ProcessReading {
  const rollup = readFileSync(`/proc/${pid}/smaps_rollup`, 'utf8');
  const status = readFileSync(`/proc/${pid}/status`, 'utf8');
  const leads = readdirSync(`/proc/${pid}/fd`).flatMap((fd) => {
    try {
      return [readlinkSync(`/proc/${pid}/fd/${fd}`)];
    } catch {
      // Closed since the folder was listed.
      return [];
    }
  });
  const count = (start: string): number => leads.filter((lead) => lead.startsWith(start)).length;
  return {
    pid,
    rss_mib: round(field(rollup, 'Rss') / 1024),
    pss_mib: round(field(rollup, 'Pss') / 1024),
    threads: field(status, 'Threads'),
    handles: leads.length,
    sockets: count('socket:'),
    pipes: count('pipe:'),
    files: count('/'),
  };
}

function field(text: string, name: string): number {
  return Number(new RegExp(`^${name}:\\s+(\\d+)`, 'm').exec(text)?.[1] ?? 0);
}
