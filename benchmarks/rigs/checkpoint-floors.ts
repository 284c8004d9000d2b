/**
 * Floors of the verbs that capture and restore: what stopping a VMM, reading its memory and starting its program take by
 * themselves, on machines straight from the backend.
 */
import { execFile } from 'node:child_process';
import { closeSync, openSync, readFileSync, readlinkSync, readSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { PAGE_BYTES, type PageRun } from '../../src/isolation/microvm/page-file.ts';
import { QMP_SOCKET } from '../../src/isolation/microvm/qemu/config.ts';
import type { QemuMachine } from '../../src/isolation/microvm/qemu/machine.ts';
import { GOLDEN_FILES } from '../../src/isolation/microvm/qemu/manifest.ts';
import { findMapping, openGuestMemory } from '../../src/isolation/microvm/qemu/own-pages.ts';
import { connectQmp } from '../../src/isolation/microvm/qemu/qmp.ts';
import { type CloneOptions, measureWake, withClones } from './clones.ts';
import { WARM_UP } from './creates.ts';
import { fillMemory, spawnAndWait } from './dirty.ts';
import { round, type Summary, summarize } from './statistics.ts';

const run = promisify(execFile);

export interface CheckpointFloors {
  readonly clock: string;
  readonly sigcont_to_answer_ms: Summary;
  /** Of the VMM's program, `--version`. */
  readonly start_of_program_ms: Summary;
  readonly stop_and_cont_ms: {
    /** `stop` sent to `cont` answered. */
    readonly total: Summary;
    /** `stop` answered to `cont` answered: what a receipt calls the pause. */
    readonly pause: Summary;
  };
  /** By MiB that a program of the guest has filled. */
  readonly read_of_own_pages: readonly {
    readonly dirty_mib: number;
    readonly own_mib: number;
    readonly runs: number;
    readonly ms: Summary;
  }[];
}

export async function measureFloors(
  options: CloneOptions,
  { n, dirtyMiB }: { readonly n: number; readonly dirtyMiB: readonly number[] },
): Promise<CheckpointFloors> {
  const { template, signal } = options;
  const wake = await measureWake(options, n);
  const { program, stops } = await withClones(options, { first: 0, count: 1 }, async ([clone]) => ({
    program: await measureProgram(readlinkSync(`/proc/${clone!.machine.record.pid}/exe`), n, signal),
    stops: await measureStops(clone!.machine.record.folder, n, signal),
  }));
  const reads: CheckpointFloors['read_of_own_pages'][number][] = [];
  for (const dirty of dirtyMiB)
    await withClones(options, { first: 0, count: 1 }, async ([clone]) => {
      if (dirty > 0) await spawnAndWait(clone!.agent, fillMemory(dirty), signal);
      // The rig takes templates of this backend alone.
      const { identity } = clone!.machine as QemuMachine;
      const path = join(template.checkpoint.folder, GOLDEN_FILES.memory);
      const bytes = template.shape.memoryMB * 2 ** 20;
      const memory = await openGuestMemory(identity, path, bytes, 'read');
      const runs = await memory.own(signal).finally(() => memory.close());
      const start = findMapping(readFileSync(`/proc/${identity.pid}/maps`, 'utf8'), [path], bytes);
      const own = runs.reduce((sum, { count }) => sum + count * PAGE_BYTES, 0);
      const ms = measureRead(identity.pid, start, runs, own, n, signal);
      reads.push({ dirty_mib: dirty, own_mib: round(own / 2 ** 20), runs: runs.length, ms });
    });
  return {
    clock:
      'waking: SIGCONT of a parked clone to the answer of its agent on the raw channel; program: process started to its end; stop and cont: sent and answered by the monitor of an idle clone, nothing copied; read: all own pages of an idle clone that runs, from /proc/PID/mem into memory that is there already, one thread',
    sigcont_to_answer_ms: wake,
    start_of_program_ms: program,
    stop_and_cont_ms: stops,
    read_of_own_pages: reads,
  };
}

async function measureProgram(program: string, n: number, signal: AbortSignal): Promise<Summary> {
  const samples: number[] = [];
  for (let count = -WARM_UP; count < n; count++) {
    const begun = performance.now();
    await run(program, ['--version'], { signal });
    if (count >= 0) samples.push(performance.now() - begun);
  }
  return summarize(samples);
}

async function measureStops(
  folder: string,
  n: number,
  signal: AbortSignal,
): Promise<CheckpointFloors['stop_and_cont_ms']> {
  const total: number[] = [];
  const pause: number[] = [];
  const qmp = await connectQmp(join(folder, QMP_SOCKET), { signal });
  try {
    for (let count = -WARM_UP; count < n; count++) {
      const begun = performance.now();
      await qmp.execute('stop', undefined, { signal });
      const stopped = performance.now();
      await qmp.execute('cont', undefined, { signal });
      const ended = performance.now();
      if (count < 0) continue;
      total.push(ended - begun);
      pause.push(ended - stopped);
    }
  } finally {
    qmp.close();
  }
  return { total: summarize(total), pause: summarize(pause) };
}

function measureRead(
  pid: number,
  start: number,
  runs: readonly PageRun[],
  bytes: number,
  n: number,
  signal: AbortSignal,
): Summary {
  const samples: number[] = [];
  const target = Buffer.alloc(bytes, 1);
  const memory = openSync(`/proc/${pid}/mem`, 'r');
  try {
    for (let round = -WARM_UP; round < n; round++) {
      signal.throwIfAborted();
      const begun = performance.now();
      let filled = 0;
      for (const { first, count } of runs) {
        const length = count * PAGE_BYTES;
        for (let done = 0; done < length; ) {
          const read = readSync(memory, target, filled + done, length - done, start + first * PAGE_BYTES + done);
          if (read === 0) throw new Error(`the memory of process ${pid} has vanished`);
          done += read;
        }
        filled += length;
      }
      if (round >= 0) samples.push(performance.now() - begun);
    }
  } finally {
    closeSync(memory);
  }
  return summarize(samples);
}
