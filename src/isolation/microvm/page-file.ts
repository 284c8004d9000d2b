/**
 * A page file: the pages that a machine's memory does not share with its base. Little-endian:
 *
 *     header (a page) · table, filled up to whole pages · data
 *
 * The table has 8 bytes for each run of pages, in order: first page, number of pages. The data has the pages in the same
 * order. Header and table are written last, and a checksum covers them; the contents are the manifest's to vouch for.
 * Nothing is compressed, and pages of zeros are pages (docs/performance.md, "Checkpoints").
 */
import { type FileHandle, open } from 'node:fs/promises';
import { crc32 } from 'node:zlib';
import { CoppiceError } from '../../contract/errors.ts';
import { readWhole, writeWhole } from './whole-io.ts';

export const PAGE_BYTES = 4096;
/** What is read or copied at a time. */
export const PIECE_BYTES = 2 ** 20;

const MAGIC = Buffer.from('CPCPAGES');
const VERSION = 1;
const RUN_BYTES = 8;
/** Where each value of the header is. */
const AT = { version: 8, pageBytes: 12, memoryBytes: 16, pages: 24, runs: 32, checksum: 36 } as const;
const HEADER_BYTES = 40;

/** Pages side by side. */
export interface PageRun {
  readonly first: number;
  readonly count: number;
}

/** The contents of some pages side by side, theirs who asked until they ask for the next. */
export interface Pages {
  readonly first: number;
  /** Whole pages, PIECE_BYTES at most. */
  readonly bytes: Buffer;
}

/** Where the data begins in a page file of so many runs. */
export function dataAt(runs: number): number {
  return PAGE_BYTES + Math.ceil((runs * RUN_BYTES) / PAGE_BYTES) * PAGE_BYTES;
}

/** Makes a page file of a file that has the data of `runs` already, from `dataAt` on. */
export async function completePageFile(file: FileHandle, memoryBytes: number, runs: readonly PageRun[]): Promise<void> {
  const table = Buffer.alloc(runs.length * RUN_BYTES);
  let pages = 0;
  for (const [index, { first, count }] of runs.entries()) {
    table.writeUInt32LE(first, index * RUN_BYTES);
    table.writeUInt32LE(count, index * RUN_BYTES + 4);
    pages += count;
  }
  const header = Buffer.alloc(HEADER_BYTES);
  MAGIC.copy(header);
  header.writeUInt32LE(VERSION, AT.version);
  header.writeUInt32LE(PAGE_BYTES, AT.pageBytes);
  header.writeBigUInt64LE(BigInt(memoryBytes), AT.memoryBytes);
  header.writeBigUInt64LE(BigInt(pages), AT.pages);
  header.writeUInt32LE(runs.length, AT.runs);
  header.writeUInt32LE(checksumOf(header, table), AT.checksum);
  // One without data ends with its table.
  await file.truncate(dataAt(runs.length) + pages * PAGE_BYTES);
  await writeWhole(file, table, PAGE_BYTES);
  await writeWhole(file, header, 0);
}

/** An open page file whose structure was found sound. */
export interface PageFile {
  readonly runs: readonly PageRun[];
  /** Number of pages in all runs. */
  readonly pages: number;
  /** Their contents, in order. Memory: PIECE_BYTES. checkpoint_corrupt if the file has become shorter. */
  read(signal?: AbortSignal): AsyncGenerator<Pages, void>;
  close(): Promise<void>;
}

/** checkpoint_corrupt with the reason. Memory: the table, 8 bytes a run, which the size of the machine's memory bounds. */
export async function openPageFile(path: string, memoryBytes: number): Promise<PageFile> {
  const file = await open(path, 'r').catch((cause) => {
    throw corrupt(path, 'cannot be opened', cause);
  });
  try {
    const { runs, pages } = await readTable(file, path, memoryBytes);
    return { runs, pages, read: (signal) => readPages(file, path, runs, signal), close: () => file.close() };
  } catch (error) {
    await file.close();
    throw error;
  }
}

async function readTable(file: FileHandle, path: string, memoryBytes: number) {
  const fail = (reason: string) => corrupt(path, reason);
  const { size } = await file.stat();
  const header = Buffer.alloc(HEADER_BYTES);
  if (size < PAGE_BYTES || !(await readWhole(file, header, 0))) throw fail('is shorter than its header');
  if (!header.subarray(0, MAGIC.length).equals(MAGIC)) throw fail('is no page file, or was not written to its end');
  const version = header.readUInt32LE(AT.version);
  if (version !== VERSION) throw fail(`is of version ${version}, and ${VERSION} is known here`);
  if (header.readUInt32LE(AT.pageBytes) !== PAGE_BYTES) throw fail('has pages of another size');
  if (header.readBigUInt64LE(AT.memoryBytes) !== BigInt(memoryBytes)) throw fail('is of a memory of another size');
  const memoryPages = memoryBytes / PAGE_BYTES;
  const count = header.readUInt32LE(AT.runs);
  if (count > memoryPages) throw fail('has more runs than there are pages');
  const claimed = BigInt(dataAt(count)) + header.readBigUInt64LE(AT.pages) * BigInt(PAGE_BYTES);
  if (claimed !== BigInt(size)) throw fail(`has ${size} bytes instead of ${claimed}`);
  const table = Buffer.alloc(count * RUN_BYTES);
  if (!(await readWhole(file, table, PAGE_BYTES))) throw fail('is shorter than its table');
  if (header.readUInt32LE(AT.checksum) !== checksumOf(header, table)) throw fail('has another checksum');

  const runs: PageRun[] = [];
  let [end, pages] = [0, 0];
  for (let at = 0; at < table.length; at += RUN_BYTES) {
    const run = { first: table.readUInt32LE(at), count: table.readUInt32LE(at + 4) };
    if (run.count === 0 || run.first < end || run.first + run.count > memoryPages)
      throw fail('has runs that are out of order or bounds');
    runs.push(run);
    end = run.first + run.count;
    pages += run.count;
  }
  if (header.readBigUInt64LE(AT.pages) !== BigInt(pages)) throw fail('has another number of pages');
  return { runs, pages };
}

/** Runs are short and many: they are read many at a time. */
async function* readPages(
  file: FileHandle,
  path: string,
  runs: readonly PageRun[],
  signal: AbortSignal | undefined,
): AsyncGenerator<Pages, void> {
  const buffer = Buffer.allocUnsafe(PIECE_BYTES);
  let left = runs.reduce((sum, { count }) => sum + count * PAGE_BYTES, 0);
  let position = dataAt(runs.length);
  let piece = buffer.subarray(0, 0);
  for (const { first, count } of runs)
    for (let done = 0; done < count; ) {
      if (piece.length === 0) {
        signal?.throwIfAborted();
        piece = buffer.subarray(0, left);
        if (!(await readWhole(file, piece, position))) throw corrupt(path, 'has become shorter');
        position += piece.length;
        left -= piece.length;
      }
      const bytes = piece.subarray(0, (count - done) * PAGE_BYTES);
      yield { first: first + done, bytes };
      piece = piece.subarray(bytes.length);
      done += bytes.length / PAGE_BYTES;
    }
}

function corrupt(path: string, reason: string, cause?: unknown): CoppiceError {
  return new CoppiceError('checkpoint_corrupt', `page file ${path} ${reason}`, { cause });
}

/** Over the header up to its own place, and the table. */
function checksumOf(header: Buffer, table: Buffer): number {
  return crc32(table, crc32(header.subarray(0, AT.checksum)));
}
