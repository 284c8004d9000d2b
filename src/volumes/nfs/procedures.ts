/**
 * NFS version 3 (RFC 1813) on the volumes of one client. Each procedure opens what a handle names, acts on it as whoever
 * calls, by the kernel's own rules, and lets it go: nothing is kept between two of them, so whatever server answers next can go on.
 */
import {
  type BigIntStats,
  chmodSync,
  closeSync,
  constants,
  fdatasyncSync,
  fstatSync,
  fsyncSync,
  ftruncateSync,
  openSync,
  readSync,
  statfsSync,
  writeSync,
} from 'node:fs';
import { readTime, readWanted, type Wanted, writeAttributes, writeChangeMarks } from './attributes.ts';
import { type Exports, handleIn, MAX_HANDLE, type ResolvedHandle } from './exports.ts';
import type { Call, Caller, Program } from './rpc.ts';
import {
  BAD_TYPE,
  errnoError,
  INVALID,
  isErrno,
  NfsFailure,
  NOT_SYNCHRONOUS,
  OK,
  STALE,
  statusOf,
  TOO_SMALL,
} from './status.ts';
import type { FolderEntry, Syscalls } from './syscalls.ts';
import { XdrError, type XdrReader, XdrWriter } from './xdr.ts';

export const NFS_PROGRAM = 100_003;
export const NFS_VERSION = 3;
/** Most bytes of a READ or a WRITE. */
export const MAX_IO = 1 << 20;

const PREFERRED_IO = 256 << 10;
const PREFERRED_FOLDER = 32 << 10;
const MAX_FOLDER = 128 << 10;
const MAX_NAME = 255;
const MAX_TARGET = 4_095;
const VERIFIER_BYTES = 8;
const ROOT_INODE = 2n;
const NOBODY: Caller = { uid: 65_534, gid: 65_534, groups: [] };

const { O_RDONLY, O_WRONLY, O_CREAT, O_EXCL, O_NOFOLLOW, O_NONBLOCK, O_DIRECTORY, R_OK, W_OK, X_OK } = constants;
/** Linux's, of all architectures that Node runs on; Node does not name them. */
const O_PATH = 0o10000000;
const O_CLOEXEC = 0o2000000;

const ACCESS_READ = 0x01;
const ACCESS_LOOKUP = 0x02;
const ACCESS_MODIFY = 0x04;
const ACCESS_EXTEND = 0x08;
const ACCESS_DELETE = 0x10;
const ACCESS_EXECUTE = 0x20;

const UNCHECKED = 0;
const GUARDED = 1;
const EXCLUSIVE = 2;
const UNSTABLE = 0;
const FILE_SYNC = 2;

/** FSF3_LINK, FSF3_SYMLINK, FSF3_HOMOGENEOUS, FSF3_CANSETTIME. */
const PROPERTIES = 0x1b;

/** Kinds that MKNOD makes, as modes. */
const NODES = new Map([
  [3, 0o060000],
  [4, 0o020000],
  [6, 0o140000],
  [7, 0o010000],
]);

const isFolder = (stats: BigIntStats): boolean => stats.isDirectory();

export interface NfsOptions {
  readonly exports: Exports;
  readonly syscalls: Syscalls;
  /** Eight bytes that are others when what was written and not committed may have been lost: with the host's boot. */
  readonly verifier: Buffer;
}

/** What each procedure is given. */
type Procedure = (args: XdrReader, reply: XdrWriter, caller: Caller) => void;

export function createNfsProgram(options: NfsOptions): Program {
  const procedures = new NfsProcedures(options).table();
  return ({ procedure, args, caller }: Call, reply) => {
    const act = procedures[procedure];
    if (!act) return false;
    act(args, reply, caller ?? NOBODY);
    return true;
  };
}

/** A file that is open for one procedure. */
interface Opened extends ResolvedHandle {
  readonly fd: number;
}

class NfsProcedures {
  readonly #exports: Exports;
  readonly #syscalls: Syscalls;
  readonly #verifier: Buffer;

  constructor({ exports, syscalls, verifier }: NfsOptions) {
    this.#exports = exports;
    this.#syscalls = syscalls;
    this.#verifier = verifier;
  }

  /** By number. */
  table(): readonly Procedure[] {
    return [
      () => {},
      this.#getAttributes,
      this.#setAttributes,
      this.#lookUp,
      this.#access,
      this.#readLink,
      this.#read,
      this.#write,
      this.#create,
      this.#makeFolder,
      this.#makeLink,
      this.#makeNode,
      (...call) => this.#remove(...call, false),
      (...call) => this.#remove(...call, true),
      this.#rename,
      this.#link,
      (...call) => this.#readFolder(...call, false),
      (...call) => this.#readFolder(...call, true),
      this.#fileSystemState,
      this.#fileSystemFacts,
      this.#pathFacts,
      this.#commit,
    ];
  }

  readonly #getAttributes: Procedure = (args, reply) => {
    const handle = readHandle(args);
    this.#answer(reply, () => {
      this.#open(handle, (file) => {
        reply.uint(OK);
        this.#writeAttributes(reply, file);
      });
    });
  };

  readonly #setAttributes: Procedure = (args, reply, caller) => {
    const [handle, wanted] = [readHandle(args), readWanted(args)];
    const guard = args.bool() ? readTime(args) : undefined;
    this.#changing(reply, [handle], ([file]) => {
      if (guard !== undefined && statOf(file!).ctimeNs !== guard) throw new NfsFailure(NOT_SYNCHRONOUS);
      this.#set(file!, wanted, caller);
    });
  };

  readonly #lookUp: Procedure = (args, reply, caller) => {
    const [handle, name] = [readHandle(args), readName(args)];
    this.#reading(reply, handle, (folder) => {
      demandFolder(folder);
      const found = this.#lookUpIn(folder, name, caller);
      try {
        reply.uint(OK).opaque(handleIn(found.volume, found.file)).bool(true);
        this.#writeAttributes(reply, found);
      } finally {
        closeSync(found.fd);
      }
      this.#writeAttributesIfThere(reply, folder);
    });
  };

  readonly #access: Procedure = (args, reply, caller) => {
    const [handle, wanted] = [readHandle(args), args.uint()];
    this.#reading(reply, handle, (file) => {
      const [mayRead, mayWrite, mayExecute] = this.#syscalls.as(caller, () =>
        [R_OK, W_OK, X_OK].map((mode) => this.#syscalls.mayAccess(file.fd, mode)),
      );
      const folder = isFolder(statOf(file));
      const granted =
        (mayRead ? ACCESS_READ : 0) |
        (mayWrite ? ACCESS_MODIFY | ACCESS_EXTEND : 0) |
        (folder && mayWrite && mayExecute ? ACCESS_DELETE : 0) |
        (mayExecute ? (folder ? ACCESS_LOOKUP : ACCESS_EXECUTE) : 0);
      reply.uint(OK);
      this.#writeAttributesIfThere(reply, file);
      reply.uint(wanted & granted);
    });
  };

  readonly #readLink: Procedure = (args, reply) => {
    this.#reading(reply, readHandle(args), (link) => {
      if (!statOf(link).isSymbolicLink()) throw new NfsFailure(INVALID);
      const target = this.#syscalls.readLink(link.fd);
      reply.uint(OK);
      this.#writeAttributesIfThere(reply, link);
      reply.opaque(target);
    });
  };

  readonly #read: Procedure = (args, reply, caller) => {
    const [handle, offset, count] = [readHandle(args), args.hyper(), args.uint()];
    this.#reading(reply, handle, (file) => {
      const bytes = Buffer.allocUnsafe(Math.min(count, MAX_IO));
      const length = this.#withContents(file, O_RDONLY, caller, (fd) =>
        readSync(fd, bytes, 0, bytes.length, positionOf(offset)),
      );
      reply.uint(OK);
      this.#writeAttributesIfThere(reply, file);
      reply
        .uint(length)
        .bool(length === 0 ? count > 0 : positionOf(offset) + BigInt(length) >= statOf(file).size)
        .opaque(bytes.subarray(0, length));
    });
  };

  readonly #write: Procedure = (args, reply, caller) => {
    const [handle, offset, count, stable] = [readHandle(args), args.hyper(), args.uint(), args.uint()];
    const bytes = args.opaque(MAX_IO).subarray(0, count);
    let written = 0;
    this.#changing(
      reply,
      [handle],
      ([file]) => {
        this.#withContents(file!, O_WRONLY, caller, (fd) => {
          written = writeSync(fd, bytes, 0, bytes.length, Number(positionOf(offset)));
          if (stable !== UNSTABLE) fdatasyncSync(fd);
        });
      },
      () =>
        reply
          .uint(written)
          .uint(stable === UNSTABLE ? UNSTABLE : FILE_SYNC)
          .fixed(this.#verifier),
    );
  };

  readonly #create: Procedure = (args, reply, caller) => {
    const [handle, name, how] = [readHandle(args), readName(args), args.uint()];
    if (how > EXCLUSIVE) throw new XdrError('no such way to create');
    const mark = how === EXCLUSIVE ? args.fixed(VERIFIER_BYTES) : undefined;
    const wanted = mark ? markedBy(mark) : readWanted(args);
    this.#making(reply, handle, name, caller, wanted, (folder) => {
      const flags = O_WRONLY | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC;
      const open = (more: number): void =>
        closeSync(this.#syscalls.openAt(folder.fd, name, flags | more, wanted.mode ?? 0o600));
      if (how === UNCHECKED) {
        const there = this.#isThere(folder, name, caller);
        if (!there) open(O_EXCL);
        return !there;
      }
      try {
        open(O_EXCL);
        return true;
      } catch (error) {
        // The same call again, of a client that has not seen the answer.
        if (how === GUARDED || !isErrno(error, 'EEXIST')) throw error;
        const found = this.#lookUpIn(folder, name, caller);
        try {
          const { atimeNs, mtimeNs } = statOf(found);
          if (atimeNs !== wanted.accessed || mtimeNs !== wanted.modified) throw error;
        } finally {
          closeSync(found.fd);
        }
        return false;
      }
    });
  };

  readonly #makeFolder: Procedure = (args, reply, caller) => {
    const [handle, name, wanted] = [readHandle(args), readName(args), readWanted(args)];
    this.#making(reply, handle, name, caller, { ...wanted, size: undefined }, (folder) => {
      this.#syscalls.makeFolder(folder.fd, name, wanted.mode ?? 0o777);
      return true;
    });
  };

  readonly #makeLink: Procedure = (args, reply, caller) => {
    const [handle, name, wanted] = [readHandle(args), readName(args), readWanted(args)];
    const target = args.opaque(MAX_TARGET);
    // A link has no mode.
    this.#making(reply, handle, name, caller, { ...wanted, mode: undefined, size: undefined }, (folder) => {
      if (target.includes(0)) throw new NfsFailure(INVALID);
      this.#syscalls.makeLink(folder.fd, name, target);
      return true;
    });
  };

  readonly #makeNode: Procedure = (args, reply, caller) => {
    const [handle, name, type] = [readHandle(args), readName(args), args.uint()];
    const kind = NODES.get(type);
    if (kind === undefined) {
      this.#changing(reply, [handle], () => {
        throw new NfsFailure(BAD_TYPE);
      });
      return;
    }
    const wanted = readWanted(args);
    const [major, minor] = type < 5 ? [args.uint(), args.uint()] : [0, 0];
    this.#making(reply, handle, name, caller, { ...wanted, size: undefined }, (folder) => {
      this.#syscalls.makeNode(folder.fd, name, kind | (wanted.mode ?? 0o600), major, minor);
      return true;
    });
  };

  #remove(args: XdrReader, reply: XdrWriter, caller: Caller, folder: boolean): void {
    const [handle, name] = [readHandle(args), readName(args)];
    this.#changing(reply, [handle], ([parent]) => {
      demandName(name);
      this.#syscalls.as(caller, () => this.#syscalls.unlink(parent!.fd, name, folder));
    });
  }

  readonly #rename: Procedure = (args, reply, caller) => {
    const [from, fromName, to, toName] = [readHandle(args), readName(args), readHandle(args), readName(args)];
    this.#changing(reply, [from, to], ([source, target]) => {
      demandName(fromName);
      demandName(toName);
      this.#syscalls.as(caller, () => this.#syscalls.rename(source!.fd, fromName, target!.fd, toName));
    });
  };

  readonly #link: Procedure = (args, reply, caller) => {
    const [handle, folder, name] = [readHandle(args), readHandle(args), readName(args)];
    const start = reply.length;
    this.#changing(reply, [folder], ([parent]) => {
      demandName(name);
      this.#open(handle, (file) => {
        if (file.root !== parent!.root) throw new NfsFailure(INVALID);
        this.#syscalls.as(caller, () => this.#syscalls.link(file.fd, parent!.fd, name));
      });
    });
    // The file's attributes stand before the folder's, and are told of once it has its new name.
    const [status, rest] = [
      Buffer.from(reply.bytes().subarray(start, start + 4)),
      Buffer.from(reply.bytes().subarray(start + 4)),
    ];
    reply.cut(start);
    reply.fixed(status);
    if (!this.#tryOpen(handle, (file) => this.#writeAttributesIfThere(reply, file))) reply.bool(false);
    reply.fixed(rest);
  };

  #readFolder(args: XdrReader, reply: XdrWriter, caller: Caller, plus: boolean): void {
    const [handle, cookie] = [readHandle(args), args.hyper()];
    args.fixed(VERIFIER_BYTES);
    const names = args.uint();
    const most = Math.min(plus ? args.uint() : names, MAX_FOLDER);
    this.#reading(reply, handle, (file) => {
      demandFolder(file);
      const fd = this.#syscalls.as(caller, () => openSync(pathOf(file), O_RDONLY | O_DIRECTORY));
      try {
        const start = reply.length;
        reply.uint(OK);
        this.#writeAttributesIfThere(reply, file);
        // The file system's own cookies are good for as long as the folder is there.
        reply.fixed(Buffer.alloc(VERIFIER_BYTES));
        const end = this.#writeEntries(
          reply,
          { ...file, fd },
          cookie,
          start + most,
          plus ? start + names : Number.MAX_SAFE_INTEGER,
          plus,
        );
        if (end === undefined) throw new NfsFailure(TOO_SMALL);
        reply.bool(false).bool(end);
      } finally {
        closeSync(fd);
      }
    });
  }

  /** Up to `most` bytes in all. Whether the folder's end was reached; undefined: not one entry fits. */
  #writeEntries(
    reply: XdrWriter,
    folder: Opened,
    cookie: bigint,
    most: number,
    mostNames: number,
    plus: boolean,
  ): boolean | undefined {
    let next = BigInt.asIntN(64, cookie);
    let names = reply.length;
    let any = false;
    for (;;) {
      const entries = this.#syscalls.readFolder(folder.fd, next);
      if (!entries) return true;
      for (const entry of entries) {
        const before = reply.length;
        reply.bool(true).hyper(entry.inode).opaque(entry.name).hyper(entry.next);
        names += reply.length - before;
        if (plus) this.#writeEntryFacts(reply, folder, entry);
        // What ends the list takes eight.
        if (reply.length + 8 > most || names > mostNames) {
          reply.cut(before);
          return any ? false : undefined;
        }
        any = true;
        next = entry.next;
      }
    }
  }

  /** What READDIRPLUS adds, if the entry is still there. */
  #writeEntryFacts(reply: XdrWriter, folder: Opened, { name }: FolderEntry): void {
    const before = reply.length;
    try {
      if (isDots(name)) throw new NfsFailure(STALE);
      const file = this.#syscalls.handleOf(folder.fd, name);
      const found = { ...folder, file, fd: this.#syscalls.openAt(folder.fd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC, 0) };
      try {
        reply.bool(true);
        this.#writeAttributes(reply, found);
      } finally {
        closeSync(found.fd);
      }
      reply.bool(true).opaque(handleIn(folder.volume, file));
    } catch (error) {
      if (statusOf(error) === undefined) throw error;
      reply.cut(before);
      reply.bool(false).bool(false);
    }
  }

  readonly #fileSystemState: Procedure = (args, reply) => {
    this.#reading(reply, readHandle(args), (file) => {
      const state = statfsSync(pathOf(file), { bigint: true });
      reply.uint(OK);
      this.#writeAttributesIfThere(reply, file);
      for (const blocks of [state.blocks, state.bfree, state.bavail]) reply.hyper(blocks * state.bsize);
      reply.hyper(state.files).hyper(state.ffree).hyper(state.ffree).uint(0);
    });
  };

  readonly #fileSystemFacts: Procedure = (args, reply) => {
    this.#reading(reply, readHandle(args), (file) => {
      reply.uint(OK);
      this.#writeAttributesIfThere(reply, file);
      for (const preferred of [PREFERRED_IO, PREFERRED_IO]) reply.uint(MAX_IO).uint(preferred).uint(4096);
      reply.uint(PREFERRED_FOLDER).hyper(0x7fff_ffff_ffff_ffffn).uint(0).uint(1).uint(PROPERTIES);
    });
  };

  readonly #pathFacts: Procedure = (args, reply) => {
    this.#reading(reply, readHandle(args), (file) => {
      reply.uint(OK);
      this.#writeAttributesIfThere(reply, file);
      reply.uint(65_000).uint(MAX_NAME).bool(true).bool(true).bool(false).bool(true);
    });
  };

  readonly #commit: Procedure = (args, reply) => {
    const handle = readHandle(args);
    args.hyper();
    args.uint();
    this.#changing(
      reply,
      [handle],
      ([file]) => {
        const stats = statOf(file!);
        if (!stats.isFile() && !isFolder(stats)) throw new NfsFailure(INVALID);
        const fd = openSync(pathOf(file!), O_RDONLY);
        try {
          fsyncSync(fd);
        } finally {
          closeSync(fd);
        }
      },
      () => reply.fixed(this.#verifier),
    );
  };

  // -- what procedures have in common ---------------------------------------------------------------------------------

  /** `act` writes the whole answer. What it throws is told as a status, followed by `otherwise`. */
  #answer(reply: XdrWriter, act: () => void, otherwise: () => void = () => {}): void {
    const start = reply.length;
    try {
      act();
    } catch (error) {
      const status = statusOf(error);
      if (status === undefined) throw error;
      reply.cut(start);
      reply.uint(status);
      otherwise();
    }
  }

  /** A procedure that changes nothing; a failure tells no attributes. */
  #reading(reply: XdrWriter, handle: Buffer, act: (file: Opened) => void): void {
    this.#answer(
      reply,
      () => this.#open(handle, act),
      () => reply.bool(false),
    );
  }

  /** A procedure that changes these. After the status come their attributes before and after, then what `more` writes. */
  #changing(
    reply: XdrWriter,
    handles: readonly Buffer[],
    act: (files: readonly Opened[]) => void,
    more = () => {},
  ): void {
    const opened: Opened[] = [];
    const before: BigIntStats[] = [];
    try {
      let status = OK;
      try {
        for (const handle of handles) {
          const file = this.#openHandle(handle);
          opened.push(file);
          before.push(statOf(file));
        }
        act(opened);
      } catch (error) {
        const failed = statusOf(error);
        if (failed === undefined) throw error;
        status = failed;
      }
      reply.uint(status);
      for (const [index] of handles.entries()) this.#writeChange(reply, opened[index], before[index]);
      if (status === OK) more();
    } finally {
      for (const { fd } of opened) closeSync(fd);
    }
  }

  /** A procedure that makes `name` in a folder. `make` says whether it was not there before. */
  #making(
    reply: XdrWriter,
    handle: Buffer,
    name: Buffer,
    caller: Caller,
    wanted: Wanted,
    make: (folder: Opened) => boolean,
  ): void {
    const start = reply.length;
    const made = new XdrWriter();
    this.#changing(reply, [handle], ([folder]) => {
      demandName(name);
      demandFolder(folder!);
      const fresh = this.#syscalls.as(caller, () => make(folder!));
      const found = this.#lookUpIn(folder!, name, caller);
      try {
        // Of one that was there, its size alone: it is emptied.
        this.#set(found, fresh ? wanted : { ...NOTHING_WANTED, size: wanted.size }, caller);
        made.bool(true).opaque(handleIn(found.volume, found.file)).bool(true);
        this.#writeAttributes(made, found);
      } finally {
        closeSync(found.fd);
      }
    });
    if (made.length === 0) return;
    // It stands between the status and what became of the folder.
    const change = Buffer.from(reply.bytes().subarray(start + 4));
    reply.cut(start);
    reply.uint(OK).fixed(made.bytes()).fixed(change);
  }

  #set(file: Opened, wanted: Wanted, caller: Caller): void {
    const { mode, uid, gid, size, accessed, modified } = wanted;
    if (size !== undefined)
      this.#withContents(file, O_WRONLY, caller, (fd) => ftruncateSync(fd, Number(positionOf(size))));
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
  #withContents<T>(file: Opened, flags: number, caller: Caller, act: (fd: number) => T): T {
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

  /** To be closed by whoever calls. */
  #lookUpIn(folder: Opened, name: Buffer, caller: Caller): Opened {
    const up = name.length === 2 && isDots(name);
    // Above a volume's root there is nothing.
    const stays = (name.length === 1 && isDots(name)) || (up && statOf(folder).ino === ROOT_INODE);
    const flags = O_PATH | O_NOFOLLOW | O_CLOEXEC;
    const fd = this.#syscalls.as(caller, () =>
      this.#syscalls.openAt(folder.fd, stays ? Buffer.from('.') : name, flags, 0),
    );
    try {
      return { ...folder, fd, file: this.#syscalls.handleOf(fd, Buffer.alloc(0)) };
    } catch (error) {
      closeSync(fd);
      throw error;
    }
  }

  #isThere(folder: Opened, name: Buffer, caller: Caller): boolean {
    try {
      closeSync(this.#lookUpIn(folder, name, caller).fd);
      return true;
    } catch (error) {
      if (isErrno(error, 'ENOENT')) return false;
      throw error;
    }
  }

  #open<T>(handle: Buffer, act: (file: Opened) => T): T {
    const file = this.#openHandle(handle);
    try {
      return act(file);
    } finally {
      closeSync(file.fd);
    }
  }

  /** False: there is no such file any more. */
  #tryOpen(handle: Buffer, act: (file: Opened) => void): boolean {
    try {
      this.#open(handle, act);
      return true;
    } catch (error) {
      if (statusOf(error) === undefined) throw error;
      return false;
    }
  }

  #openHandle(handle: Buffer): Opened {
    const resolved = this.#exports.resolve(handle);
    return {
      ...resolved,
      fd: this.#syscalls.openByHandle(resolved.root, resolved.file, O_PATH | O_NOFOLLOW | O_CLOEXEC),
    };
  }

  #writeAttributes(reply: XdrWriter, file: Opened): void {
    writeAttributes(reply, statOf(file), fsidOf(file));
  }

  /** post_op_attr */
  #writeAttributesIfThere(reply: XdrWriter, file: Opened): void {
    reply.bool(true);
    this.#writeAttributes(reply, file);
  }

  /** wcc_data */
  #writeChange(reply: XdrWriter, file: Opened | undefined, before: BigIntStats | undefined): void {
    reply.bool(before !== undefined);
    if (before) writeChangeMarks(reply, before);
    if (file) this.#writeAttributesIfThere(reply, file);
    else reply.bool(false);
  }
}

const NOTHING_WANTED: Wanted = {
  mode: undefined,
  uid: undefined,
  gid: undefined,
  size: undefined,
  accessed: 'keep',
  modified: 'keep',
};

/** An exclusive create is known again by times that its client chose; it sets the true ones after. */
function markedBy(mark: Buffer): Wanted {
  const second = 1_000_000_000n;
  return {
    ...NOTHING_WANTED,
    accessed: BigInt(mark.readUInt32BE(0) & 0x7fff_ffff) * second,
    modified: BigInt(mark.readUInt32BE(4) & 0x7fff_ffff) * second,
  };
}

const readHandle = (args: XdrReader): Buffer => args.opaque(MAX_HANDLE);

/** One name and never a way to somewhere: what is too long the kernel says. */
function readName(args: XdrReader): Buffer {
  const name = args.opaque(4 * MAX_NAME);
  if (name.includes(0) || name.includes(0x2f)) throw new XdrError('not a name');
  return name;
}

const isDots = (name: Buffer): boolean => name.length <= 2 && name.every((byte) => byte === 46) && name.length > 0;

/** A name of a file that may be made or removed. */
function demandName(name: Buffer): void {
  if (name.length === 0 || isDots(name)) throw new NfsFailure(INVALID);
}

const statOf = ({ fd }: Opened): BigIntStats => fstatSync(fd, { bigint: true });

const fsidOf = ({ volume }: Opened): bigint => volume.readBigUInt64BE(0);

/** Leads to the file itself, of whatever kind. */
const pathOf = ({ fd }: Opened): string => `/proc/self/fd/${fd}`;

function demandFolder(file: Opened): void {
  if (!isFolder(statOf(file))) throw errnoError('ENOTDIR');
}

/** Beyond what a file can have: EFBIG. */
function positionOf(offset: bigint): bigint {
  if (offset > BigInt(Number.MAX_SAFE_INTEGER)) throw errnoError('EFBIG');
  return offset;
}
