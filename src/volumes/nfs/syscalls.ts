/** The C library through koffi: what Node does not offer, and acts on names in open folders. Linux alone. */
import { createRequire } from 'node:module';
import { arch } from 'node:process';

/** Each throws an error with `errno`, negative as Node's. */
export interface Syscalls {
  /** The handle of an open file: type (four bytes, big-endian), then what the file system made. */
  handleOf(file: number): Buffer;
  /** Opens by handle, on the file system that `root` is on. Needs CAP_DAC_READ_SEARCH. ESTALE: it is gone. */
  openByHandle(root: number, handle: Buffer, flags: number): number;
  openAt(folder: number, name: Buffer, flags: number, mode: number): number;
  makeFolder(folder: number, name: Buffer, mode: number): void;
  makeLink(folder: number, name: Buffer, target: Buffer): void;
  makeNode(folder: number, name: Buffer, mode: number, major: number, minor: number): void;
  /** What a link says, given the link itself, open. */
  readLink(link: number): Buffer;
  unlink(folder: number, name: Buffer, isFolder: boolean): void;
  rename(from: number, fromName: Buffer, to: number, toName: Buffer): void;
  /** Another name for an open file. */
  link(file: number, folder: number, name: Buffer): void;
  changeOwner(file: number, uid: number, gid: number): void;
  /** Nanoseconds since the epoch; `now`, or `keep` as it is. */
  setTimes(file: number, accessed: bigint | 'now' | 'keep', modified: bigint | 'now' | 'keep'): void;
  /** Whether whoever this thread acts for may: bits of access(2). */
  mayAccess(file: number, mode: number): boolean;
  /** The entries of an open folder from `offset` on, `undefined` at its end; each with where the next begins. */
  readFolder(folder: number, offset: bigint): readonly FolderEntry[] | undefined;
  /**
   * What this thread does to files until it returns is done as this user, with no right of root's unless it is root. Within
   * itself for the same user alone.
   */
  as<T>(who: User, act: () => T): T;
}

export interface User {
  readonly uid: number;
  readonly gid: number;
  readonly groups: readonly number[];
}

export interface FolderEntry {
  readonly inode: bigint;
  readonly name: Buffer;
  /** Where the next begins. */
  readonly next: bigint;
}

const AT_FDCWD = -100;
const AT_SYMLINK_FOLLOW = 0x400;
const AT_EMPTY_PATH = 0x1000;
const AT_REMOVEDIR = 0x200;
const AT_EACCESS = 0x200;
const SEEK_SET = 0;
const UTIME_NOW = 0x3fffffffn;
const UTIME_OMIT = 0x3ffffffen;
const MAX_HANDLE = 40;
const HANDLE_HEAD = 8;
const MAX_LINK = 4_096;
const FOLDER_BYTES = 32_768;
/** Of linux_dirent64: inode, offset, length of the entry, type, name. */
const ENTRY_HEAD = 19;
/** setgroups(2) of this thread alone; the C library's changes all threads. */
const SYS_SETGROUPS = arch === 'arm64' ? 159 : 116;

const PROTOTYPES = {
  name_to_handle_at: 'int name_to_handle_at(int folder, const void *name, void *handle, void *mount, int flags)',
  open_by_handle_at: 'int open_by_handle_at(int mount, void *handle, int flags)',
  openat: 'int openat(int folder, const void *name, int flags, uint32_t mode)',
  mkdirat: 'int mkdirat(int folder, const void *name, uint32_t mode)',
  symlinkat: 'int symlinkat(const void *target, int folder, const void *name)',
  mknodat: 'int mknodat(int folder, const void *name, uint32_t mode, uint64_t device)',
  readlinkat: 'int64_t readlinkat(int folder, const void *name, void *target, size_t length)',
  unlinkat: 'int unlinkat(int folder, const void *name, int flags)',
  renameat: 'int renameat(int from, const void *name, int to, const void *toName)',
  linkat: 'int linkat(int from, const void *name, int to, const void *toName, int flags)',
  fchownat: 'int fchownat(int folder, const void *name, uint32_t uid, uint32_t gid, int flags)',
  utimensat: 'int utimensat(int folder, const void *name, const void *times, int flags)',
  faccessat: 'int faccessat(int folder, const void *name, int mode, int flags)',
  lseek: 'int64_t lseek(int file, int64_t offset, int whence)',
  getdents64: 'int64_t getdents64(int folder, void *entries, size_t length)',
  setfsuid: 'int setfsuid(uint32_t uid)',
  setfsgid: 'int setfsgid(uint32_t gid)',
  syscall: 'int64_t syscall(int64_t number, size_t count, const void *list)',
} as const;

export function loadSyscalls(): Syscalls {
  const koffi = createRequire(import.meta.url)('koffi') as typeof import('koffi');
  const library = koffi.load('libc.so.6');
  const functions = Object.fromEntries(
    Object.entries(PROTOTYPES).map(([name, prototype]) => [name, library.func(prototype)]),
  ) as unknown as Record<keyof typeof PROTOTYPES, (...args: unknown[]) => number>;

  const call = (name: keyof typeof PROTOTYPES, ...args: unknown[]): number => {
    const result = Number(functions[name](...args));
    if (result !== -1) return result;
    throw Object.assign(new Error(name), { errno: -koffi.errno() });
  };
  /** The file itself, of whatever kind, by a name that leads to nothing else. */
  const path = (file: number): Buffer => Buffer.from(`/proc/self/fd/${file}\0`);
  const entries = Buffer.alloc(FOLDER_BYTES);
  const mount = Buffer.alloc(4);
  let acting: User | undefined;

  return {
    handleOf(file) {
      const handle = Buffer.alloc(HANDLE_HEAD + MAX_HANDLE);
      handle.writeUInt32LE(MAX_HANDLE, 0);
      call('name_to_handle_at', file, NOTHING, handle, mount, AT_EMPTY_PATH);
      const type = Buffer.alloc(4);
      type.writeInt32BE(handle.readInt32LE(4), 0);
      return Buffer.concat([type, handle.subarray(HANDLE_HEAD, HANDLE_HEAD + handle.readUInt32LE(0))]);
    },

    openByHandle(root, handle, flags) {
      const bytes = Buffer.alloc(HANDLE_HEAD + handle.length - 4);
      bytes.writeUInt32LE(handle.length - 4, 0);
      bytes.writeInt32LE(handle.readInt32BE(0), 4);
      handle.copy(bytes, HANDLE_HEAD, 4);
      return call('open_by_handle_at', root, bytes, flags);
    },

    openAt: (folder, name, flags, mode) => call('openat', folder, text(name), flags, mode),
    makeFolder: (folder, name, mode) => void call('mkdirat', folder, text(name), mode),
    makeLink: (folder, name, target) => void call('symlinkat', text(target), folder, text(name)),
    makeNode: (folder, name, mode, major, minor) =>
      void call('mknodat', folder, text(name), mode, device(major, minor)),

    readLink(link) {
      const target = Buffer.alloc(MAX_LINK);
      return target.subarray(0, call('readlinkat', link, NOTHING, target, target.length));
    },

    unlink: (folder, name, isFolder) => void call('unlinkat', folder, text(name), isFolder ? AT_REMOVEDIR : 0),
    rename: (from, fromName, to, toName) => void call('renameat', from, text(fromName), to, text(toName)),
    link: (file, folder, name) => void call('linkat', AT_FDCWD, path(file), folder, text(name), AT_SYMLINK_FOLLOW),
    changeOwner: (file, uid, gid) => void call('fchownat', file, NOTHING, uid, gid, AT_EMPTY_PATH),

    setTimes(file, accessed, modified) {
      const times = Buffer.alloc(32);
      for (const [at, time] of [accessed, modified].entries()) {
        const seconds = typeof time === 'bigint' ? time / 1_000_000_000n : 0n;
        const rest = typeof time === 'bigint' ? time % 1_000_000_000n : time === 'now' ? UTIME_NOW : UTIME_OMIT;
        times.writeBigInt64LE(seconds, at * 16);
        times.writeBigInt64LE(rest, at * 16 + 8);
      }
      call('utimensat', AT_FDCWD, path(file), times, 0);
    },

    mayAccess: (file, mode) => Number(functions.faccessat(AT_FDCWD, path(file), mode, AT_EACCESS)) === 0,

    readFolder(folder, offset) {
      call('lseek', folder, offset, SEEK_SET);
      const length = call('getdents64', folder, entries, entries.length);
      if (length === 0) return undefined;
      const found: FolderEntry[] = [];
      for (let at = 0; at < length; ) {
        const bytes = entries.readUInt16LE(at + 16);
        const name = entries.subarray(at + ENTRY_HEAD, at + bytes);
        found.push({
          inode: entries.readBigUInt64LE(at),
          name: Buffer.from(name.subarray(0, name.indexOf(0))),
          next: entries.readBigInt64LE(at + 8),
        });
        at += bytes;
      }
      return found;
    },

    as(who, act) {
      if (acting === who) return act();
      if (acting) throw new Error('acts for somebody else already');
      const { uid, gid, groups } = who;
      const setGroups = (ids: readonly number[]): void => {
        const list = Buffer.from(Uint32Array.from(ids).buffer);
        call('syscall', SYS_SETGROUPS, ids.length, ids.length === 0 ? null : list);
      };
      acting = who;
      setGroups(groups);
      functions.setfsgid(gid);
      // Last, and first to go: with it go the rights that the others need.
      functions.setfsuid(uid);
      try {
        return act();
      } finally {
        functions.setfsuid(0);
        functions.setfsgid(0);
        setGroups([]);
        acting = undefined;
      }
    },
  };
}

/** As C has it: names are bytes. */
const text = (name: Buffer): Buffer => Buffer.concat([name, NOTHING]);
const NOTHING = Buffer.alloc(1);

/** dev_t of the C library (makedev(3)). */
function device(major: number, minor: number): bigint {
  const [big, small] = [BigInt(major), BigInt(minor)];
  return (small & 0xffn) | ((big & 0xfffn) << 8n) | ((small & ~0xffn) << 12n) | ((big & ~0xfffn) << 32n);
}
