/**
 * NFS version 3 (RFC 1813) on the volumes of one client. Each procedure opens what a handle names, acts on it as whoever
 * calls, by the kernel's own rules, and lets it go: nothing is kept between two of them, so whatever server answers next can go on.
 */
import { closeSync, constants, fdatasyncSync, fsyncSync, openSync, readSync, statfsSync, writeSync } from 'node:fs';
import { Answers, writeAttributesIfThere, writeAttributesOf } from './answers.ts';
import { NOTHING_WANTED, readTime, readWanted, type Wanted } from './attributes.ts';
import { type Exports, handleIn, readHandle } from './exports.ts';
import { demandFolder, demandName, Files, isFolder, O_CLOEXEC, pathOf, positionOf, statOf } from './files.ts';
import { Listing } from './listing.ts';
import type { Call, Caller, Program } from './rpc.ts';
import { BAD_TYPE, INVALID, isErrno, NfsFailure, NOT_SYNCHRONOUS, OK } from './status.ts';
import type { Syscalls } from './syscalls.ts';
import { XdrError, type XdrReader, type XdrWriter } from './xdr.ts';

export const NFS_PROGRAM = 100_003;
export const NFS_VERSION = 3;
/** Most bytes of a READ or a WRITE. */
export const MAX_IO = 1 << 20;

const PREFERRED_IO = 256 << 10;
const PREFERRED_FOLDER = 32 << 10;
const MAX_NAME = 255;
const MAX_TARGET = 4_095;
const VERIFIER_BYTES = 8;
const NOBODY: Caller = { uid: 65_534, gid: 65_534, groups: [] };

const { O_RDONLY, O_WRONLY, O_CREAT, O_EXCL, O_NOFOLLOW, O_NONBLOCK, R_OK, W_OK, X_OK } = constants;

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

class NfsProcedures {
  readonly #files: Files;
  readonly #answers: Answers;
  readonly #listing: Listing;
  readonly #syscalls: Syscalls;
  readonly #verifier: Buffer;

  constructor({ exports, syscalls, verifier }: NfsOptions) {
    this.#files = new Files(exports, syscalls);
    this.#answers = new Answers(this.#files, syscalls);
    this.#listing = new Listing(this.#files, this.#answers, syscalls);
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
      (...call) => this.#listing.answer(...call, false),
      (...call) => this.#listing.answer(...call, true),
      this.#fileSystemState,
      this.#fileSystemFacts,
      this.#pathFacts,
      this.#commit,
    ];
  }

  readonly #getAttributes: Procedure = (args, reply) => {
    const handle = readHandle(args);
    this.#answers.answer(reply, () => {
      this.#files.with(handle, (file) => {
        reply.uint(OK);
        writeAttributesOf(reply, file);
      });
    });
  };

  readonly #setAttributes: Procedure = (args, reply, caller) => {
    const [handle, wanted] = [readHandle(args), readWanted(args)];
    const guard = args.bool() ? readTime(args) : undefined;
    this.#answers.changing(reply, [handle], ([file]) => {
      if (guard !== undefined && statOf(file!).ctimeNs !== guard) throw new NfsFailure(NOT_SYNCHRONOUS);
      this.#files.set(file!, wanted, caller);
    });
  };

  readonly #lookUp: Procedure = (args, reply, caller) => {
    const [handle, name] = [readHandle(args), readName(args)];
    this.#answers.reading(reply, handle, (folder) => {
      demandFolder(folder);
      const found = this.#files.lookUp(folder, name, caller);
      try {
        reply.uint(OK).opaque(handleIn(found.volume, found.file)).bool(true);
        writeAttributesOf(reply, found);
      } finally {
        closeSync(found.fd);
      }
      writeAttributesIfThere(reply, folder);
    });
  };

  readonly #access: Procedure = (args, reply, caller) => {
    const [handle, wanted] = [readHandle(args), args.uint()];
    this.#answers.reading(reply, handle, (file) => {
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
      writeAttributesIfThere(reply, file);
      reply.uint(wanted & granted);
    });
  };

  readonly #readLink: Procedure = (args, reply) => {
    this.#answers.reading(reply, readHandle(args), (link) => {
      if (!statOf(link).isSymbolicLink()) throw new NfsFailure(INVALID);
      const target = this.#syscalls.readLink(link.fd);
      reply.uint(OK);
      writeAttributesIfThere(reply, link);
      reply.opaque(target);
    });
  };

  readonly #read: Procedure = (args, reply, caller) => {
    const [handle, offset, count] = [readHandle(args), args.hyper(), args.uint()];
    this.#answers.reading(reply, handle, (file) => {
      const bytes = Buffer.allocUnsafe(Math.min(count, MAX_IO));
      const length = this.#files.withContents(file, O_RDONLY, caller, (fd) =>
        readSync(fd, bytes, 0, bytes.length, positionOf(offset)),
      );
      reply.uint(OK);
      writeAttributesIfThere(reply, file);
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
    this.#answers.changing(
      reply,
      [handle],
      ([file]) => {
        this.#files.withContents(file!, O_WRONLY, caller, (fd) => {
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
    this.#answers.making(reply, handle, name, caller, wanted, (folder) => {
      const flags = O_WRONLY | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC;
      const open = (more: number): void =>
        closeSync(this.#syscalls.openAt(folder.fd, name, flags | more, wanted.mode ?? 0o600));
      if (how === UNCHECKED) {
        const there = this.#files.isThere(folder, name, caller);
        if (!there) open(O_EXCL);
        return !there;
      }
      try {
        open(O_EXCL);
        return true;
      } catch (error) {
        // The same call again, of a client that has not seen the answer.
        if (how === GUARDED || !isErrno(error, 'EEXIST')) throw error;
        const found = this.#files.lookUp(folder, name, caller);
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
    this.#answers.making(reply, handle, name, caller, { ...wanted, size: undefined }, (folder) => {
      this.#syscalls.makeFolder(folder.fd, name, wanted.mode ?? 0o777);
      return true;
    });
  };

  readonly #makeLink: Procedure = (args, reply, caller) => {
    const [handle, name, wanted] = [readHandle(args), readName(args), readWanted(args)];
    const target = args.opaque(MAX_TARGET);
    // A link has no mode.
    this.#answers.making(reply, handle, name, caller, { ...wanted, mode: undefined, size: undefined }, (folder) => {
      if (target.includes(0)) throw new NfsFailure(INVALID);
      this.#syscalls.makeLink(folder.fd, name, target);
      return true;
    });
  };

  readonly #makeNode: Procedure = (args, reply, caller) => {
    const [handle, name, type] = [readHandle(args), readName(args), args.uint()];
    const kind = NODES.get(type);
    if (kind === undefined) {
      this.#answers.changing(reply, [handle], () => {
        throw new NfsFailure(BAD_TYPE);
      });
      return;
    }
    const wanted = readWanted(args);
    const [major, minor] = type < 5 ? [args.uint(), args.uint()] : [0, 0];
    this.#answers.making(reply, handle, name, caller, { ...wanted, size: undefined }, (folder) => {
      this.#syscalls.makeNode(folder.fd, name, kind | (wanted.mode ?? 0o600), major, minor);
      return true;
    });
  };

  #remove(args: XdrReader, reply: XdrWriter, caller: Caller, folder: boolean): void {
    const [handle, name] = [readHandle(args), readName(args)];
    this.#answers.changing(reply, [handle], ([parent]) => {
      demandName(name);
      this.#syscalls.as(caller, () => this.#syscalls.unlink(parent!.fd, name, folder));
    });
  }

  readonly #rename: Procedure = (args, reply, caller) => {
    const [from, fromName, to, toName] = [readHandle(args), readName(args), readHandle(args), readName(args)];
    this.#answers.changing(reply, [from, to], ([source, target]) => {
      demandName(fromName);
      demandName(toName);
      this.#syscalls.as(caller, () => this.#syscalls.rename(source!.fd, fromName, target!.fd, toName));
    });
  };

  readonly #link: Procedure = (args, reply, caller) => {
    const [handle, folder, name] = [readHandle(args), readHandle(args), readName(args)];
    const start = reply.length;
    this.#answers.changing(reply, [folder], ([parent]) => {
      demandName(name);
      this.#files.with(handle, (file) => {
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
    this.#answers.ifThere(reply, handle);
    reply.fixed(rest);
  };

  readonly #fileSystemState: Procedure = (args, reply) => {
    this.#answers.reading(reply, readHandle(args), (file) => {
      const state = statfsSync(pathOf(file), { bigint: true });
      reply.uint(OK);
      writeAttributesIfThere(reply, file);
      for (const blocks of [state.blocks, state.bfree, state.bavail]) reply.hyper(blocks * state.bsize);
      reply.hyper(state.files).hyper(state.ffree).hyper(state.ffree).uint(0);
    });
  };

  readonly #fileSystemFacts: Procedure = (args, reply) => {
    this.#answers.reading(reply, readHandle(args), (file) => {
      reply.uint(OK);
      writeAttributesIfThere(reply, file);
      for (const preferred of [PREFERRED_IO, PREFERRED_IO]) reply.uint(MAX_IO).uint(preferred).uint(4096);
      reply.uint(PREFERRED_FOLDER).hyper(0x7fff_ffff_ffff_ffffn).uint(0).uint(1).uint(PROPERTIES);
    });
  };

  readonly #pathFacts: Procedure = (args, reply) => {
    this.#answers.reading(reply, readHandle(args), (file) => {
      reply.uint(OK);
      writeAttributesIfThere(reply, file);
      reply.uint(65_000).uint(MAX_NAME).bool(true).bool(true).bool(false).bool(true);
    });
  };

  readonly #commit: Procedure = (args, reply) => {
    const handle = readHandle(args);
    args.hyper();
    args.uint();
    this.#answers.changing(
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
}

/** An exclusive create is known again by times that its client chose; it sets the true ones after. */
function markedBy(mark: Buffer): Wanted {
  const second = 1_000_000_000n;
  return {
    ...NOTHING_WANTED,
    accessed: BigInt(mark.readUInt32BE(0) & 0x7fff_ffff) * second,
    modified: BigInt(mark.readUInt32BE(4) & 0x7fff_ffff) * second,
  };
}

/** One name and never a way to somewhere: what is too long the kernel says. */
function readName(args: XdrReader): Buffer {
  const name = args.opaque(4 * MAX_NAME);
  if (name.includes(0) || name.includes(0x2f)) throw new XdrError('not a name');
  return name;
}
