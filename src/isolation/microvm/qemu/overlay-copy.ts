/**
 * A copy of a machine's overlay in two steps: `approach` while the machine runs, `settle` while it is stopped, which moves
 * only what was written in between.
 */

import { constants } from 'node:fs';
import { copyFile, type FileHandle, open, rm, stat } from 'node:fs/promises';
import { readWhole, writeWhole } from '../whole-io.ts';

const PIECE_BYTES = 2 ** 20;
const BLOCK_BYTES = 2 ** 16;
/**
 * A file that nobody had written to for so long has no write under way, which would change it and not its time: that is set
 * when a write begins.
 */
const QUIET_MS = 5_000;

export interface OverlayCopy {
  /** The copy is then the overlay as of now; to be called while nobody writes to it. Bytes that had to be written. */
  settle(): Promise<number>;
}

/** Makes the copy `to`. */
export async function approachOverlay(from: string, to: string, signal?: AbortSignal): Promise<OverlayCopy> {
  const before = await stat(from, { bigint: true });
  const quiet = Date.now() - Number(before.mtimeNs / 1_000_000n) > QUIET_MS;
  const shares = await share(from, to);
  if (!shares) await refresh(from, to, true, signal);
  return {
    async settle() {
      const now = await stat(from, { bigint: true });
      if (quiet && now.size === before.size && now.mtimeNs === before.mtimeNs) return 0;
      if (shares && (await share(from, to))) return 0;
      return refresh(from, to, shares, signal);
    },
  };
}

/** Whether both files share their blocks now; what was there of `to` is gone either way. */
async function share(from: string, to: string): Promise<boolean> {
  try {
    await copyFile(from, to, constants.COPYFILE_FICLONE_FORCE);
    return true;
  } catch (error) {
    await rm(to, { force: true });
    if (
      ['ENOTSUP', 'EOPNOTSUPP', 'EXDEV', 'EINVAL', 'ENOSYS', 'ENOTTY'].includes(
        (error as NodeJS.ErrnoException).code ?? '',
      )
    )
      return false;
    throw error;
  }
}

/** Makes `to` equal to `from`, writing where they differ. */
async function refresh(from: string, to: string, fresh: boolean, signal: AbortSignal | undefined): Promise<number> {
  let source: FileHandle | undefined;
  let target: FileHandle | undefined;
  try {
    source = await open(from, 'r');
    target = await open(to, fresh ? 'wx+' : 'r+', 0o600);
    const { size } = await source.stat();
    const held = (await target.stat()).size;
    await target.truncate(size);
    const [now, before] = [Buffer.alloc(PIECE_BYTES), Buffer.alloc(PIECE_BYTES)];
    let written = 0;
    for (let at = 0; at < size; at += PIECE_BYTES) {
      signal?.throwIfAborted();
      const length = Math.min(PIECE_BYTES, size - at);
      // What a copy does not have yet reads as zeros.
      const known = Math.max(0, Math.min(length, held - at));
      before.fill(0, known);
      const reads = [readWhole(source, now.subarray(0, length), at)];
      if (known > 0) reads.push(readWhole(target, before.subarray(0, known), at));
      if ((await Promise.all(reads)).includes(false)) throw new Error('an overlay became shorter while it was copied');
      for (let start = 0; start < length; start += BLOCK_BYTES) {
        const end = Math.min(start + BLOCK_BYTES, length);
        if (now.compare(before, start, end, start, end) === 0) continue;
        await writeWhole(target, now.subarray(start, end), at + start);
        written += end - start;
      }
    }
    return written;
  } finally {
    await source?.close();
    await target?.close();
  }
}
