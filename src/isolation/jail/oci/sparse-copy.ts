/**
 * Copies of sparse files: shared blocks where the file system can, else the parts that hold something. Memory is two
 * pieces, whatever the file; between two pieces a stop is heeded and the thread is free for others.
 */
import { type FileHandle, open } from 'node:fs/promises';
import type { DiskCalls } from './disk-calls.ts';

const PIECE_BYTES = 2 ** 20;
const BLOCK_BYTES = 4096;
/** A shorter hole is read like data: asking for each of them would take longer. */
const LEAST_HOLE_BYTES = 16 * BLOCK_BYTES;
const ZEROS = Buffer.alloc(BLOCK_BYTES);

/** Not 0 at its first place: give up. Shared between threads. */
export type Stop = Int32Array;

export class Stopped extends Error {}

/** A stop that follows a signal; `release` lets go of the signal. */
export function stopOn(signal: AbortSignal | undefined): { readonly stop: Stop; release(): void } {
  const stop: Stop = new Int32Array(new SharedArrayBuffer(4));
  const raise = (): void => void Atomics.store(stop, 0, 1);
  if (signal?.aborted) raise();
  signal?.addEventListener('abort', raise, { once: true });
  return { stop, release: () => signal?.removeEventListener('abort', raise) };
}

export function heed(stop: Stop): void {
  if (Atomics.load(stop, 0) !== 0) throw new Stopped('given up by the caller');
}

/** Fills the empty file `to` with what `from` holds; both are of `size` bytes. Whether they share blocks now. */
export async function copySparse(
  calls: DiskCalls,
  from: FileHandle,
  to: FileHandle,
  size: number,
  stop: Stop,
): Promise<boolean> {
  if (await calls.share(from.fd, to.fd)) return true;
  const buffer = Buffer.allocUnsafe(PIECE_BYTES);
  for (const [start, end] of pieces(calls, from.fd, size)) {
    heed(stop);
    const piece = buffer.subarray(0, end - start);
    await readAll(from, piece, start);
    await writeFilled(to, piece, start);
  }
  return false;
}

/** Makes an earlier copy equal to what the file holds now, reading both and writing where they differ. Bytes written. */
export async function refreshSparse(
  calls: DiskCalls,
  from: FileHandle,
  to: FileHandle,
  size: number,
  stop: Stop,
): Promise<number> {
  const [now, before] = [Buffer.allocUnsafe(PIECE_BYTES), Buffer.allocUnsafe(PIECE_BYTES)];
  let written = 0;
  let reached = 0;
  for (const [start, end] of pieces(calls, from.fd, size)) {
    heed(stop);
    clear(calls, to.fd, reached, start);
    reached = end;
    const [left, right] = [now.subarray(0, end - start), before.subarray(0, end - start)];
    await Promise.all([readAll(from, left, start), readAll(to, right, start)]);
    if (left.equals(right)) continue;
    await writeAll(to, left, start);
    written += left.length;
  }
  clear(calls, to.fd, reached, size);
  return written;
}

/** Copies a whole file of a known size. Refused when it has another one: it would be no disk. */
export async function copyFileSparse(
  calls: DiskCalls,
  from: string,
  to: string,
  size: number,
  stop: Stop,
): Promise<void> {
  const source = await open(from, 'r');
  try {
    const found = (await source.stat()).size;
    if (found !== size) throw new Error(`${from} has ${found} bytes instead of ${size}`);
    const target = await open(to, 'wx+', 0o600);
    try {
      await target.truncate(size);
      await copySparse(calls, source, target, size, stop);
    } finally {
      await target.close();
    }
  } finally {
    await source.close();
  }
}

/** The parts that may hold something, in order, none longer than a piece. */
function* pieces(calls: DiskCalls, fd: number, size: number): Generator<readonly [start: number, end: number]> {
  let found = calls.dataFrom(fd, 0);
  while (found) {
    const start: number = found[0];
    const most: number = Math.min(start + PIECE_BYTES, size);
    let end: number = Math.min(found[1], most);
    let next: readonly [number, number] | undefined = calls.dataFrom(fd, end);
    while (next && end < most && next[0] < Math.min(end + LEAST_HOLE_BYTES, most)) {
      end = Math.min(next[1], most);
      next = calls.dataFrom(fd, end);
    }
    yield [start, end];
    found = next;
  }
}

/** Lets go of what a copy has where the file has a hole. */
function clear(calls: DiskCalls, fd: number, from: number, to: number): void {
  for (let found = calls.dataFrom(fd, from); found && found[0] < to; found = calls.dataFrom(fd, found[1])) {
    const end = Math.min(found[1], to);
    if (!calls.punch(fd, found[0], end - found[0])) throw new Error('no hole can be made in the copy of a layer');
    if (end === to) return;
  }
}

/** Writes the runs of blocks that are not zeros, into a hole. */
async function writeFilled(to: FileHandle, bytes: Buffer, at: number): Promise<void> {
  const isEmpty = (start: number): boolean => {
    const block = bytes.subarray(start, start + BLOCK_BYTES);
    return block.equals(ZEROS.subarray(0, block.length));
  };
  for (let start = 0; start < bytes.length; ) {
    const empty = isEmpty(start);
    let end = start + BLOCK_BYTES;
    while (end < bytes.length && isEmpty(end) === empty) end += BLOCK_BYTES;
    if (!empty) await writeAll(to, bytes.subarray(start, Math.min(end, bytes.length)), at + start);
    start = end;
  }
}

async function readAll(from: FileHandle, into: Buffer, at: number): Promise<void> {
  for (let done = 0; done < into.length; ) {
    const { bytesRead } = await from.read(into, done, into.length - done, at + done);
    if (bytesRead === 0) throw new Error('a layer became shorter while it was copied');
    done += bytesRead;
  }
}

async function writeAll(to: FileHandle, bytes: Buffer, at: number): Promise<void> {
  for (let done = 0; done < bytes.length; )
    done += (await to.write(bytes, done, bytes.length - done, at + done)).bytesWritten;
}
