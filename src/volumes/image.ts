/** The image of a volume: an empty ext4 file system that anybody in a sandbox may write to, as large as its quota. */
import { execFile } from 'node:child_process';
import { open, rename, rm } from 'node:fs/promises';
import { dirname } from 'node:path';
import { promisify } from 'node:util';
import { syncPath } from '../store/durable.ts';

const run = promisify(execFile);
const DEADLINE_MS = 60_000;
/** E2B's `user`, in whose sandboxes most programs run. */
export const OWNER = { uid: 1000, gid: 1000 } as const;

/** Appears whole at `path`, by one rename, and takes of the disk what is written to it. With a journal: it outlives its host's boot. */
export async function makeVolumeImage(path: string, sizeMB: number): Promise<void> {
  const fresh = `${path}.new`;
  await rm(fresh, { force: true });
  try {
    const file = await open(fresh, 'wx', 0o600);
    try {
      await file.truncate(sizeMB * 2 ** 20);
      const extended = `nodiscard,lazy_itable_init=1,lazy_journal_init=1,root_owner=${OWNER.uid}:${OWNER.gid}`;
      await run('mke2fs', ['-t', 'ext4', '-q', '-F', '-b', '4096', '-m', '0', '-E', extended, fresh], {
        timeout: DEADLINE_MS,
      });
      const edits = run('debugfs', ['-w', '-f', '-', fresh], { timeout: DEADLINE_MS });
      edits.child.stdin!.end('rmdir lost+found\nset_inode_field <2> mode 040777\n');
      await edits;
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(fresh, path);
    await syncPath(dirname(path));
  } catch (error) {
    await rm(fresh, { force: true });
    throw error;
  }
}
