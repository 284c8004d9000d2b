/** What answers have in common: what became of the files that a procedure was about, before and after. */
import { type BigIntStats, closeSync } from 'node:fs';
import { NOTHING_WANTED, type Wanted, writeAttributes, writeChangeMarks } from './attributes.ts';
import { handleIn } from './exports.ts';
import { demandFolder, demandName, type Files, type Opened, statOf } from './files.ts';
import type { Caller } from './rpc.ts';
import { OK, statusOf } from './status.ts';
import type { Syscalls } from './syscalls.ts';
import { XdrWriter } from './xdr.ts';

export class Answers {
  readonly #files: Files;
  readonly #syscalls: Pick<Syscalls, 'as'>;

  constructor(files: Files, syscalls: Pick<Syscalls, 'as'>) {
    this.#files = files;
    this.#syscalls = syscalls;
  }

  /** `act` writes the whole answer. What it throws is told as a status, followed by `otherwise`. */
  answer(reply: XdrWriter, act: () => void, otherwise: () => void = () => {}): void {
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

  /** post_op_attr of what may be gone by now. */
  ifThere(reply: XdrWriter, handle: Buffer): void {
    try {
      this.#files.with(handle, (file) => writeAttributesIfThere(reply, file));
    } catch (error) {
      if (statusOf(error) === undefined) throw error;
      reply.bool(false);
    }
  }

  /** A procedure that changes nothing; a failure tells no attributes. */
  reading(reply: XdrWriter, handle: Buffer, act: (file: Opened) => void): void {
    this.answer(
      reply,
      () => this.#files.with(handle, act),
      () => reply.bool(false),
    );
  }

  /** A procedure that changes these. After the status come their attributes before and after, then what `more` writes. */
  changing(
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
          const file = this.#files.open(handle);
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
      for (const [index] of handles.entries()) writeChange(reply, opened[index], before[index]);
      if (status === OK) more();
    } finally {
      for (const { fd } of opened) closeSync(fd);
    }
  }

  /** A procedure that makes `name` in a folder. `make` says whether it was not there before. */
  making(
    reply: XdrWriter,
    handle: Buffer,
    name: Buffer,
    caller: Caller,
    wanted: Wanted,
    make: (folder: Opened) => boolean,
  ): void {
    const start = reply.length;
    const made = new XdrWriter();
    this.changing(reply, [handle], ([folder]) => {
      demandName(name);
      demandFolder(folder!);
      const fresh = this.#syscalls.as(caller, () => make(folder!));
      const found = this.#files.lookUp(folder!, name, caller);
      try {
        // Of one that was there, its size alone: it is emptied.
        this.#files.set(found, fresh ? wanted : { ...NOTHING_WANTED, size: wanted.size }, caller);
        made.bool(true).opaque(handleIn(found.volume, found.file)).bool(true);
        writeAttributesOf(made, found);
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
}

/** fattr3 */
export function writeAttributesOf(reply: XdrWriter, file: Opened): void {
  // The volume's id tells it from others.
  writeAttributes(reply, statOf(file), file.volume.readBigUInt64BE(0));
}

/** post_op_attr */
export function writeAttributesIfThere(reply: XdrWriter, file: Opened): void {
  reply.bool(true);
  writeAttributesOf(reply, file);
}

/** wcc_data */
function writeChange(reply: XdrWriter, file: Opened | undefined, before: BigIntStats | undefined): void {
  reply.bool(before !== undefined);
  if (before) writeChangeMarks(reply, before);
  if (file) writeAttributesIfThere(reply, file);
  else reply.bool(false);
}
