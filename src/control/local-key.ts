/**
 * The key of the person who owns this machine: made at the first start, kept in `<home>/api-key` so that any later
 * start, and `coppice` itself, can use and print it. The file is readable by its owner only.
 */
import {
  closeSync,
  constants,
  fchmodSync,
  fstatSync,
  mkdirSync,
  openSync,
  readSync,
  renameSync,
  rmSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import type { ControlStore } from './control-store.ts';

export const LOCAL_KEY_FILE = 'api-key';

/** Returns the local key; makes a new one if the file is missing or its key is not valid in this store. */
export function ensureLocalKey(store: Pick<ControlStore, 'keys' | 'teams'>, home: string): string {
  mkdirSync(home, { recursive: true, mode: 0o700 });
  const path = join(home, LOCAL_KEY_FILE);
  const kept = readLocalKey(home);
  if (kept !== undefined && store.keys.authenticate(kept) !== undefined) return kept;
  const { key } = store.keys.create({ teamID: store.teams.default.teamID, name: 'local' });
  writePrivately(path, `${key}\n`);
  return key;
}

/** The kept key as it is, without asking whether it is still valid. Tightens a file that others could read. */
export function readLocalKey(home: string): string | undefined {
  let fd: number;
  try {
    fd = openSync(join(home, LOCAL_KEY_FILE), constants.O_RDONLY | constants.O_NOFOLLOW);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'ENOENT' || code === 'ELOOP' || code === 'EMLINK') return undefined;
    throw error;
  }
  try {
    if ((fstatSync(fd).mode & 0o077) !== 0) fchmodSync(fd, 0o600);
    const buffer = Buffer.alloc(256);
    const key = buffer.toString('utf8', 0, readSync(fd, buffer)).trim();
    return key.length > 0 ? key : undefined;
  } finally {
    closeSync(fd);
  }
}

/** Through a temporary file and a rename, so that a reader sees the old key or the new one and never half of one. */
function writePrivately(path: string, content: string): void {
  const temporary = `${path}.${process.pid}`;
  rmSync(temporary, { force: true });
  const fd = openSync(temporary, 'wx', 0o600);
  try {
    writeSync(fd, content);
  } finally {
    closeSync(fd);
  }
  renameSync(temporary, path);
}
