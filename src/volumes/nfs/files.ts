/** Files of one client's volumes, each open for one procedure; what is done with them is done as whoever calls, by the kernel's rules. */
import { type BigIntStats, chmodSync, closeSync, constants, fstatSync, ftruncateSync, openSync } from 'node:fs';
import type { Wanted } from './attributes.ts';
import type { Exports, ResolvedHandle } from './exports.ts';
import type { Caller } from './rpc.ts';
import { errnoError, INVALID, isErrno, NfsFailure } from './status.ts';
import type { Syscalls } from './syscalls.ts';

const { O_RDONLY, O_WRONLY, O_NOFOLLOW, O_NONBLOCK, X_OK } = constants;
/** Linux's, of all architectures that Node runs on; Node does not name them. */
const O_PATH = 0o10000000;
export const O_CLOEXEC = 0o2000000;
const NAMED = O_PATH | O_NOFOLLOW | O_CLOEXEC;
const ROOT_INODE = 2n;

/** By descriptor: of whatever kind, not followed, and for no use but to be told of and named. */
export interface Opened extends ResolvedHandle {
  readonly fd: number;
}

export class Files {
  readonly #exports: Exports;
  readonly #syscalls: Syscalls;

  constructor(exports: Exports, syscalls: Syscalls) {
    this.#exports = exports;
    this.#syscalls = syscalls;
  }

  /** To be closed by whoever calls. */
  open(handle: Buffer): Opened {
    const resolved = this.#exports.resolve(handle);
    return { ...resolved, fd: this.#syscalls.openByHandle(resolved.root, resolved.file, NAMED) };
  }

  with<T>(handle: Buffer, act: (file: Opened) => T): T {
    const file = this.open(handle);
    try {
      return act(file);
    } finally {
      closeSync(file.fd);
    }
  }

  /** As `open`. */
  lookUp(folder: Opened, name: Buffer, caller: Caller): Opened {
    const up = name.length === 2 && isDots(name);
    // Above a volume's root there is nothing.
    const stays = (name.length === 1 && isDots(name)) || (up && statOf(folder).ino === ROOT_INODE);
    const own = stays ? Buffer.from('.') : name;
    return this.#handled(
      folder,
      this.#syscalls.as(caller, () => this.#syscalls.openAt(folder.fd, own, NAMED, 0)),
    );
  }

  /** As `open`: one of a folder's own entries, for who may list it. */
  entry(folder: Opened, name: Buffer): Opened {
    return this.#handled(folder, this.#syscalls.openAt(folder.fd, name, NAMED, 0));
  }

  isThere(folder: Opened, name: Buffer, caller: Caller): boolean {
    try {
      closeSync(this.lookUp(folder, name, caller).fd);
      return true;
    } catch (error) {
      if (isErrno(error, 'ENOENT')) return false;
      throw error;
    }
  }

  set(file: Opened, wanted: Wanted, caller: Caller): void {
    const { mode, uid, gid, size, accessed, modified } = wanted;
    if (size !== undefined)
      this.withContents(file, O_WRONLY, caller, (fd) => ftruncateSync(fd, Number(positionOf(size))));
    const owner = uid !== undefined || gid !== undefined;
    if (!owner && mode === undefined && accessed === 'keep' && modified === 'keep') return;
    this.#syscalls.as(caller, () => {
      if (owner) {
        const stats = statOf(file);
        const [now, group] = [Number(stats.uid), Number(stats.gid)];
        // What it has already needs no right.
        if ((uid ?? now) !== now || (gid ?? group) !== group)
          this.#syscalls.changeOwner(file.fd, uid ?? now, gid ?? group);
      }
      if (mode !== undefined && !statOf(file).isSymbolicLink()) chmodSync(pathOf(file), mode);
      if (accessed !== 'keep' || modified !== 'keep') this.#syscalls.setTimes(file.fd, accessed, modified);
    });
  }

  /**
   * Opens what is in a file. Its owner may at any time, and whoever may execute it may read it: a client asks when a program opens
   * it, and comes with the bytes later.
   */
  withContents<T>(file: Opened, flags: number, caller: Caller, act: (fd: number) => T): T {
    const stats = statOf(file);
    if (!stats.isFile()) throw errnoError(isFolder(stats) ? 'EISDIR' : 'EINVAL');
    const open = (): number => openSync(pathOf(file), flags | O_NONBLOCK);
    let fd: number;
    try {
      fd = this.#syscalls.as(caller, open);
    } catch (error) {
      if (!isErrno(error, 'EACCES')) throw error;
      const may =
        Number(stats.uid) === caller.uid ||
        (flags === O_RDONLY && this.#syscalls.as(caller, () => this.#syscalls.mayAccess(file.fd, X_OK)));
      if (!may) throw error;
      fd = open();
    }
    try {
      return act(fd);
    } finally {
      closeSync(fd);
    }
  }

  /** What was opened in a folder, with its handle. */
  #handled(folder: Opened, fd: number): Opened {
    try {
      return { ...folder, fd, file: this.#syscalls.handleOf(fd) };
    } catch (error) {
      closeSync(fd);
      throw error;
    }
  }
}

export const isFolder = (stats: BigIntStats): boolean => stats.isDirectory();

export const isDots = (name: Buffer): boolean =>
  name.length <= 2 && name.every((byte) => byte === 46) && name.length > 0;

/** A name of a file that may be made or removed. */
export function demandName(name: Buffer): void {
  if (name.length === 0 || isDots(name)) throw new NfsFailure(INVALID);
}

export const statOf = ({ fd }: Opened): BigIntStats => fstatSync(fd, { bigint: true });

/** Leads to the file itself, of whatever kind. */
export const pathOf = ({ fd }: Opened): string => `/proc/self/fd/${fd}`;

export function demandFolder(file: Opened): void {
  if (!isFolder(statOf(file))) throw errnoError('ENOTDIR');
}

/** Beyond what a file can have: EFBIG. */
export function positionOf(offset: bigint): bigint {
  if (offset > BigInt(Number.MAX_SAFE_INTEGER)) throw errnoError('EFBIG');
  return offset;
}
