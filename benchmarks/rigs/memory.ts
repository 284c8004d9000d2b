/** What memory the host and its processes hold, read so that two readings can be compared. */
import { execFile } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { round } from './statistics.ts';

const run = promisify(execFile);

/** MiB of /proc/meminfo, proc(5). */
function meminfo(): ReadonlyMap<string, number> {
  const lines = readFileSync('/proc/meminfo', 'utf8').matchAll(/^(\w+(?:\(\w+\))?):\s+(\d+) kB$/gm);
  return new Map(Array.from(lines, ([, name, kib]) => [name!, Number(kib) / 1024]));
}

export function memAvailableMiB(): number {
  return meminfo().get('MemAvailable')!;
}

/** Counters of what is nobody's page cache: anonymous and shared memory, and the kernel's own. */
const COUNTERS = [
  'AnonPages',
  'Shmem',
  'SUnreclaim',
  'SReclaimable',
  'KernelStack',
  'PageTables',
  'VmallocUsed',
  'Percpu',
] as const;
export type Counters = Readonly<Record<(typeof COUNTERS)[number], number>>;

export interface Reading {
  /** MiB, median of several. */
  readonly available: number;
  /** MiB, medians too. */
  readonly counters: Counters;
}

const READINGS = 5;
const APART_MS = 400;
/** Processes come to rest, grace periods end, what was deleted is freed. */
const SETTLE_MS = 2_000;

/**
 * Settles, writes back, and reads several times, each after caches (pages, and what can be freed of dentries and inodes) were
 * dropped: what is left is held by somebody.
 */
export async function readMemory(signal: AbortSignal): Promise<Reading> {
  await sleep(SETTLE_MS, undefined, { signal });
  await run('sync');
  const readings: number[] = [];
  const counters: ReadonlyMap<string, number>[] = [];
  for (let count = 0; count < READINGS; count++) {
    writeFileSync('/proc/sys/vm/drop_caches', '3');
    await sleep(APART_MS, undefined, { signal });
    const info = meminfo();
    readings.push(info.get('MemAvailable')!);
    counters.push(info);
  }
  return {
    available: median(readings),
    counters: Object.fromEntries(
      COUNTERS.map((name) => [name, median(counters.map((info) => info.get(name) ?? 0))]),
    ) as unknown as Counters,
  };
}

/** Counters of the second reading less those of the first, in MiB, each divided by `by`. */
export function growth(before: Reading, after: Reading, by: number): Counters {
  return Object.fromEntries(
    COUNTERS.map((name) => [name, round((after.counters[name] - before.counters[name]) / by)]),
  ) as unknown as Counters;
}

/** The kernel's own memory and tmpfs, MiB: programs' memory is left out, since everybody's is in it. */
export function kernelSum(counters: Counters): number {
  const { Shmem, SUnreclaim, SReclaimable, PageTables, VmallocUsed, Percpu } = counters;
  // The kernel's stacks are in VmallocUsed.
  return Shmem + SUnreclaim + SReclaimable + PageTables + VmallocUsed + Percpu;
}

export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)]!;
}

export interface ProcessMemory {
  /** KiB in pages that no other process maps: anonymous ones, and clean ones of files. */
  readonly privateKiB: number;
  /** KiB of anonymous pages: what it has written, of its own or of what it maps privately. */
  readonly anonymousKiB: number;
  readonly pageTablesKiB: number;
  readonly threads: number;
}

/** undefined: it has ended. */
export function processMemory(pid: number): ProcessMemory | undefined {
  try {
    const rollup = readFileSync(`/proc/${pid}/smaps_rollup`, 'utf8');
    const status = readFileSync(`/proc/${pid}/status`, 'utf8');
    return {
      privateKiB: field(rollup, 'Private_Clean') + field(rollup, 'Private_Dirty'),
      anonymousKiB: field(rollup, 'Anonymous'),
      pageTablesKiB: field(status, 'VmPTE'),
      threads: field(status, 'Threads'),
    };
  } catch (error) {
    if (['ENOENT', 'ESRCH'].includes((error as NodeJS.ErrnoException).code ?? '')) return undefined;
    throw error;
  }
}

function field(text: string, name: string): number {
  return Number(new RegExp(`^${name}:\\s+(\\d+)`, 'm').exec(text)?.[1] ?? 0);
}
