/**
 * The guest memory of a VMM, from outside (proc(5)): which pages it owns, because it has written them since it mapped its
 * golden memory privately, what is in them, and the reverse. The VMM may be hostile: it is asked nothing, and whatever it
 * does to its mappings makes a call fail and no more.
 */
import { constants, readSync, writeSync } from 'node:fs';
import { type FileHandle, open, realpath } from 'node:fs/promises';
import { setImmediate } from 'node:timers/promises';
import { CoppiceError } from '../../../contract/errors.ts';
import { isAlive, type ProcessIdentity } from '../../process-table.ts';
import { PAGE_BYTES, type PageRun, type Pages, PIECE_BYTES } from '../page-file.ts';
import { writeWhole } from '../whole-io.ts';

export interface GuestMemory {
  /** Runs of the pages that are its own at this moment, in order. */
  own(signal?: AbortSignal): Promise<readonly PageRun[]>;
  /** Writes the contents of runs one behind the other into a file, from a place on. Memory: COPY_BUFFERS pieces. */
  copyTo(file: FileHandle, at: number, runs: readonly PageRun[], signal?: AbortSignal): Promise<void>;
  /** Sets pages. They are the VMM's own from then on. */
  set(source: AsyncIterable<Pages>): Promise<void>;
  close(): Promise<void>;
}

interface MutableRun {
  readonly first: number;
  count: number;
}

/** A line of 65 530 mappings is 100 bytes and a path. */
const MOST_MAPS_BYTES = 2 ** 25;
const PAGEMAP_ENTRY_BYTES = 8;
/** Of the upper half of an entry of /proc/PID/pagemap: present or swapped; of a file, or shared. */
const PRESENT = 0xc0000000;
const OF_FILE = 0x20000000;
const PAGES_PER_READ = 2 ** 17;
/** One is filled while the others are on their way to the file. */
const COPY_BUFFERS = 3;

/**
 * Opens the memory of a VMM that maps the file `path`, of `bytes`, privately. `unavailable`: it is gone; `internal`: it has
 * no such mapping, or several; `host_unfit`: a node that is not root may not.
 */
export async function openGuestMemory(
  identity: ProcessIdentity,
  path: string,
  bytes: number,
  mode: 'read' | 'write',
): Promise<GuestMemory> {
  const handles: FileHandle[] = [];
  const openOf = async (name: string, flags: number) => {
    const handle = await open(`/proc/${identity.pid}/${name}`, flags);
    handles.push(handle);
    return handle;
  };
  try {
    const memory = await openOf('mem', mode === 'read' ? constants.O_RDONLY : constants.O_RDWR);
    const pagemap = await openOf('pagemap', constants.O_RDONLY);
    const maps = await readBounded(await openOf('maps', constants.O_RDONLY));
    // All are of the process that has this pid now, whoever has it later.
    if (!isAlive(identity)) throw gone(identity);
    const names = [path, await realpath(path).catch(() => path)];
    return guestMemory(handles, memory, pagemap, findMapping(maps, names, bytes), bytes);
  } catch (error) {
    await Promise.all(handles.map((handle) => handle.close()));
    const code = (error as NodeJS.ErrnoException).code ?? '';
    if (['ENOENT', 'ESRCH'].includes(code)) throw gone(identity, error);
    if (!['EACCES', 'EPERM'].includes(code)) throw error;
    throw new CoppiceError(
      'host_unfit',
      "this host does not let the node read a VMM's memory: run the node as root, or set kernel.yama.ptrace_scope to 0",
      { cause: error },
    );
  }
}

function gone({ pid }: ProcessIdentity, cause?: unknown): CoppiceError {
  return new CoppiceError('unavailable', `the VMM is gone (process ${pid})`, { cause });
}

/** Address of the one private, writable mapping of a whole file by one of these names, deleted or not. */
export function findMapping(maps: string, names: readonly string[], bytes: number): number {
  const found: number[] = [];
  for (const line of maps.split('\n')) {
    const parts = /^([0-9a-f]+)-([0-9a-f]+) rw-p 0+ \S+ \d+ +(\/.*)$/.exec(line);
    if (!parts || !names.includes(pathOf(parts[3]!))) continue;
    const [start, end] = [Number.parseInt(parts[1]!, 16), Number.parseInt(parts[2]!, 16)];
    if (Number.isSafeInteger(end) && end - start === bytes) found.push(start);
  }
  if (found.length === 1) return found[0]!;
  throw new CoppiceError('internal', `the VMM has ${found.length} mappings of its golden memory instead of one`);
}

/** What is in /proc/PID/maps for a path: line feeds and backslashes in octal, and a mark when its name is gone. */
function pathOf(text: string): string {
  return text
    .replace(/ \(deleted\)$/, '')
    .replace(/\\(0[0-7]{2}|134)/g, (_, code) => String.fromCharCode(Number.parseInt(code, 8)));
}

/** Adds to `runs` the own pages among the entries of a pagemap, of which the first is of page `first`. */
export function addOwnRuns(runs: MutableRun[], entries: Buffer, first: number): void {
  let last = runs.at(-1);
  const words = new Uint32Array(entries.buffer, entries.byteOffset, entries.length / 4);
  // x86-64 and arm64 alike are little-endian: the flags are in every second word.
  for (let word = 1; word < words.length; word += 2) {
    const flags = words[word]!;
    if ((flags & PRESENT) === 0 || (flags & OF_FILE) !== 0) continue;
    const page = first + (word >>> 1);
    if (last && last.first + last.count === page) last.count++;
    else {
      last = { first: page, count: 1 };
      runs.push(last);
    }
  }
}

function guestMemory(
  handles: readonly FileHandle[],
  memory: FileHandle,
  pagemap: FileHandle,
  start: number,
  bytes: number,
): GuestMemory {
  const pages = bytes / PAGE_BYTES;
  return {
    async own(signal) {
      const runs: MutableRun[] = [];
      const buffer = Buffer.alloc(Math.min(pages, PAGES_PER_READ) * PAGEMAP_ENTRY_BYTES);
      for (let first = 0; first < pages; first += PAGES_PER_READ) {
        signal?.throwIfAborted();
        const entries = buffer.subarray(0, Math.min(PAGES_PER_READ, pages - first) * PAGEMAP_ENTRY_BYTES);
        const at = (start / PAGE_BYTES + first) * PAGEMAP_ENTRY_BYTES;
        // A millisecond for 512 MiB: less than a turn of a busy thread pool.
        for (let done = 0; done < entries.length; ) {
          const read = readSync(pagemap.fd, entries, done, entries.length - done, at + done);
          if (read === 0) throw vanished();
          done += read;
        }
        addOwnRuns(runs, entries, first);
        await setImmediate();
      }
      return runs;
    },

    async copyTo(file, from, runs, signal) {
      const buffers = Array.from({ length: COPY_BUFFERS }, () => ({
        bytes: Buffer.allocUnsafe(PIECE_BYTES),
        written: Promise.resolve(),
      }));
      let [turn, filled, position] = [0, 0, from];
      let failure: unknown;
      const send = async (): Promise<void> => {
        const buffer = buffers[turn]!;
        buffer.written = writeWhole(file, buffer.bytes.subarray(0, filled), position).catch((error) => {
          failure ??= error;
        });
        position += filled;
        filled = 0;
        turn = (turn + 1) % COPY_BUFFERS;
        await buffers[turn]!.written;
        if (failure !== undefined) throw failure;
        signal?.throwIfAborted();
      };
      try {
        for (const { first, count } of runs)
          for (let at = start + first * PAGE_BYTES, end = at + count * PAGE_BYTES; at < end; ) {
            const room = Math.min(end - at, PIECE_BYTES - filled);
            // Of single pages there are many, and a turn of the thread pool takes longer than the copy of one.
            const read = readSync(memory.fd, buffers[turn]!.bytes, filled, room, at);
            if (read === 0) throw vanished();
            at += read;
            filled += read;
            if (filled === PIECE_BYTES) await send();
          }
        if (filled > 0) await send();
      } finally {
        await Promise.all(buffers.map(({ written }) => written));
      }
      if (failure !== undefined) throw failure;
    },

    async set(source) {
      for await (const { first, bytes: contents } of source)
        for (let done = 0; done < contents.length; ) {
          const at = start + first * PAGE_BYTES + done;
          const written = writeSync(memory.fd, contents, done, contents.length - done, at);
          if (written === 0) throw vanished();
          done += written;
        }
    },

    async close() {
      await Promise.all(handles.map((handle) => handle.close()));
    },
  };
}

function vanished(): CoppiceError {
  return new CoppiceError('unavailable', 'the memory of the VMM has vanished');
}

async function readBounded(file: FileHandle): Promise<string> {
  const chunks: Buffer[] = [];
  for (let total = 0; ; ) {
    const { bytesRead, buffer } = await file.read(Buffer.allocUnsafe(2 ** 16), 0, 2 ** 16, null);
    if (bytesRead === 0) return Buffer.concat(chunks).toString('utf8');
    chunks.push(buffer.subarray(0, bytesRead));
    total += bytesRead;
    if (total > MOST_MAPS_BYTES) throw new CoppiceError('internal', 'the VMM has more mappings than are credible');
  }
}
