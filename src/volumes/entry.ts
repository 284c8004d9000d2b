/** What a volume's content API tells of a file, and how a client names one: E2B's VolumeEntryStat. */
import type { Stats } from 'node:fs';
import { CoppiceError } from '../contract/errors.ts';

export interface VolumeEntry {
  readonly name: string;
  /** From the volume's root on, `/` first. */
  readonly path: string;
  readonly type: 'unknown' | 'file' | 'directory' | 'symlink';
  /** Bytes. */
  readonly size: number;
  /** Permissions, with the three bits above them. */
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  /** RFC 3339. */
  readonly atime: string;
  readonly mtime: string;
  readonly ctime: string;
  /** Where a link leads; it is never followed. */
  readonly target?: string;
}

/** limits.h */
const PATH_MAX = 4096;
const NAME_MAX = 255;

/** The names on the way from the root to `path`; none: the root itself. bad_request. */
export function namesOf(path: string | undefined): readonly string[] {
  const bad = (why: string) => new CoppiceError('bad_request', `path: ${why}`);
  if (path === undefined || path === '') throw bad('required');
  if (Buffer.byteLength(path) > PATH_MAX) throw bad(`longer than ${PATH_MAX} bytes`);
  if (path.includes('\0')) throw bad('must not contain NUL');
  const names = path.split('/').filter((name) => name !== '' && name !== '.');
  if (names.includes('..')) throw bad('must not contain ..');
  if (names.some((name) => Buffer.byteLength(name) > NAME_MAX))
    throw bad(`a name in it is longer than ${NAME_MAX} bytes`);
  return names;
}

export function entryOf(names: readonly string[], stats: Stats, target?: string): VolumeEntry {
  return {
    name: names.at(-1) ?? '/',
    path: `/${names.join('/')}`,
    type: stats.isFile() ? 'file' : stats.isDirectory() ? 'directory' : stats.isSymbolicLink() ? 'symlink' : 'unknown',
    size: stats.size,
    mode: stats.mode & 0o7777,
    uid: stats.uid,
    gid: stats.gid,
    atime: stats.atime.toISOString(),
    mtime: stats.mtime.toISOString(),
    ctime: stats.ctime.toISOString(),
    ...(target === undefined ? {} : { target }),
  };
}
