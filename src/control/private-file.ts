/** A secret in a file that its owner alone can read. */
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
import { dirname } from 'node:path';

/** Its first line; undefined if there is none, or if it is a link. Tightens a file that others could read. */
export function readPrivately(path: string): string | undefined {
  let fd: number;
  try {
    fd = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'ENOENT' || code === 'ELOOP' || code === 'EMLINK') return undefined;
    throw error;
  }
  try {
    if ((fstatSync(fd).mode & 0o077) !== 0) fchmodSync(fd, 0o600);
    const buffer = Buffer.alloc(256);
    const secret = buffer.toString('utf8', 0, readSync(fd, buffer)).trim();
    return secret.length > 0 ? secret : undefined;
  } finally {
    closeSync(fd);
  }
}

/** Through a temporary file and a rename, so that a reader sees the old secret or the new one and never half of one. */
export function writePrivately(path: string, secret: string): void {
  mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
  const temporary = `${path}.${process.pid}`;
  rmSync(temporary, { force: true });
  const fd = openSync(temporary, 'wx', 0o600);
  try {
    writeSync(fd, `${secret}\n`);
  } finally {
    closeSync(fd);
  }
  renameSync(temporary, path);
}
