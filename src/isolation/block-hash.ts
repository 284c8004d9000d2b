/** The hash of a large and mostly empty file, without reading its holes. */
import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { open, stat } from 'node:fs/promises';
import { promisify } from 'node:util';

const run = promisify(execFile);
export const HASH_BLOCK_BYTES = 2 ** 20;
/** Up to this size the holes of a file are read: sooner done than asked for. */
const READ_HOLES_BYTES = 64 * HASH_BLOCK_BYTES;
/** So many files are remembered as sound. */
const SOUND_FILES = 1024;
const EMPTY_BLOCK = Buffer.alloc(HASH_BLOCK_BYTES);
const digest = (block: Uint8Array) => createHash('sha256').update(block).digest();
const EMPTY_DIGEST = digest(EMPTY_BLOCK);

/**
 * SHA-256, in hex, over the SHA-256 digests of the file's blocks of 1 MiB in order; the last block may be shorter. It
 * depends on the contents alone: where the holes are is only asked for speed, since an empty block's digest is known.
 */
export async function hashBlocks(path: string, signal?: AbortSignal): Promise<string> {
  const handle = await open(path, 'r');
  try {
    const { size } = await handle.stat();
    const written = size > READ_HOLES_BYTES ? await writtenBlocks(path, signal) : undefined;
    const total = createHash('sha256');
    const buffer = Buffer.alloc(HASH_BLOCK_BYTES);
    for (let index = 0; index * HASH_BLOCK_BYTES < size; index++) {
      signal?.throwIfAborted();
      const bytes = Math.min(HASH_BLOCK_BYTES, size - index * HASH_BLOCK_BYTES);
      if (bytes === HASH_BLOCK_BYTES && written && !written.has(index)) {
        total.update(EMPTY_DIGEST);
        continue;
      }
      for (let at = 0; at < bytes; ) {
        const { bytesRead } = await handle.read(buffer, at, bytes - at, index * HASH_BLOCK_BYTES + at);
        if (bytesRead === 0) throw new Error(`${path} became shorter while it was read`);
        at += bytesRead;
      }
      const block = buffer.subarray(0, bytes);
      total.update(block.equals(EMPTY_BLOCK) ? EMPTY_DIGEST : digest(block));
    }
    return total.digest('hex');
  } finally {
    await handle.close();
  }
}

/** Files by what changes with them, the oldest first, and the hash that they had. */
const sound = new Map<string, string>();

/**
 * Whether a file has this `hashBlocks`. One that had it is not read again in this process while neither its size nor its
 * time of change is another.
 */
export async function hasHash(path: string, sha256: string, signal?: AbortSignal): Promise<boolean> {
  const { dev, ino, size, mtimeNs } = await stat(path, { bigint: true });
  const key = `${dev} ${ino} ${size} ${mtimeNs}`;
  if (sound.get(key) === sha256) return true;
  if ((await hashBlocks(path, signal)) !== sha256) return false;
  sound.set(key, sha256);
  if (sound.size > SOUND_FILES) sound.delete(sound.keys().next().value!);
  return true;
}

/** Indexes of the blocks that hold anything; undefined where the filesystem does not tell. Needs e2fsprogs' filefrag. */
async function writtenBlocks(path: string, signal: AbortSignal | undefined): Promise<ReadonlySet<number> | undefined> {
  try {
    const { stdout } = await run('filefrag', ['-s', '-v', '-b1', path], {
      timeout: 60_000,
      maxBuffer: 2 ** 26,
      env: { PATH: '/usr/sbin:/usr/bin:/sbin:/bin', LC_ALL: 'C' },
      signal,
    });
    return parseExtents(stdout);
  } catch {
    signal?.throwIfAborted();
    return undefined;
  }
}

/** Reads `filefrag -v -b1`; undefined unless every line is understood and their number is the one it claims. */
export function parseExtents(text: string): ReadonlySet<number> | undefined {
  const claimed = /: (\d+) extents? found\s*$/.exec(text)?.[1];
  if (claimed === undefined || !/\(\d+ blocks of 1 bytes\)/.test(text)) return undefined;
  const blocks = new Set<number>();
  let lines = 0;
  for (const [, first, last] of text.matchAll(/^ *\d+: *(\d+)\.\. *(\d+):/gm)) {
    lines++;
    for (let at = Math.floor(Number(first) / HASH_BLOCK_BYTES); at * HASH_BLOCK_BYTES <= Number(last); at++)
      blocks.add(at);
  }
  // Neighbouring lines may be one extent on disk, so there are at least as many lines.
  return lines >= Number(claimed) ? blocks : undefined;
}
