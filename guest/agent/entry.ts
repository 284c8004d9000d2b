/** What a path is, in E2B's terms. */
import fs from 'node:fs';
import path from 'node:path';
import type { FileEntry } from '../../src/channel/protocol.ts';
import type { Context } from './context.ts';
import { Failure, isErrno } from './failure.ts';

export const METADATA_PREFIX = 'user.e2b.';

/** Of the path itself, not of what it links to. Throws Failure `not_found`. */
export function entryAt(context: Context, file: string): FileEntry {
  let stat: fs.Stats | undefined;
  try {
    stat = fs.lstatSync(file, { throwIfNoEntry: false });
  } catch (error) {
    if (!isErrno(error, 'ENOTDIR')) throw error;
  }
  if (!stat) throw new Failure('not_found', `path '${file}' does not exist`);
  return entryOf(context, file, stat);
}

export function entryOf(context: Context, file: string, stat: fs.Stats): FileEntry {
  const link = stat.isSymbolicLink();
  const metadata = link ? {} : context.powers.readAttributes(file, METADATA_PREFIX);
  return {
    name: path.basename(file),
    path: file,
    type: typeOf(link ? targetStat(file) : stat),
    size: stat.size,
    mode: stat.mode & 0o777,
    permissions: permissionsOf(stat.mode),
    owner: context.users.userName(stat.uid),
    group: context.users.groupName(stat.gid),
    modifiedMs: stat.mtimeMs,
    ...(link ? { symlinkTarget: targetOf(file) } : {}),
    ...(Object.keys(metadata).length > 0 ? { metadata } : {}),
  };
}

function typeOf(stat: fs.Stats | undefined): FileEntry['type'] {
  if (stat?.isFile()) return 'file';
  return stat?.isDirectory() ? 'directory' : 'unknown';
}

/** undefined: the link leads nowhere. */
function targetStat(file: string): fs.Stats | undefined {
  try {
    return fs.statSync(file, { throwIfNoEntry: false });
  } catch {
    return undefined;
  }
}

function targetOf(file: string): string {
  try {
    return fs.realpathSync.native(file);
  } catch {
    try {
      return path.resolve(path.dirname(file), fs.readlinkSync(file));
    } catch {
      return file;
    }
  }
}

const { S_IFMT, S_IFDIR, S_IFLNK, S_IFBLK, S_IFCHR, S_IFIFO, S_IFSOCK } = fs.constants;

/** What Go's os.FileMode.String prints for a type: before the set-id letters, and after them. */
const TYPE_LETTERS: ReadonlyMap<number, readonly [string, string]> = new Map([
  [S_IFDIR, ['d', '']],
  [S_IFLNK, ['L', '']],
  [S_IFBLK, ['D', '']],
  [S_IFCHR, ['D', 'c']],
  [S_IFIFO, ['p', '']],
  [S_IFSOCK, ['S', '']],
]);

/** As Go prints a mode: `-rw-r--r--`, `dtrwxrwxrwx`, `Lrwxrwxrwx`, `urwxr-xr-x`. */
function permissionsOf(mode: number): string {
  const [before, after] = TYPE_LETTERS.get(mode & S_IFMT) ?? ['', ''];
  const setID = (mode & 0o4000 ? 'u' : '') + (mode & 0o2000 ? 'g' : '');
  const letters = before + setID + after + (mode & 0o1000 ? 't' : '');
  let bits = '';
  for (let bit = 8; bit >= 0; bit--) bits += mode & (1 << bit) ? 'rwx'[(8 - bit) % 3] : '-';
  return (letters || '-') + bits;
}
