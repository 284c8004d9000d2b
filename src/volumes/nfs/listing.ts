/** READDIR and READDIRPLUS: a folder's entries, as many as a client has room for. */
import { closeSync, constants, openSync } from 'node:fs';
import { type Answers, writeAttributesIfThere, writeAttributesOf } from './answers.ts';
import { handleIn, readHandle } from './exports.ts';
import { demandFolder, type Files, isDots, type Opened, pathOf } from './files.ts';
import type { Caller } from './rpc.ts';
import { NfsFailure, OK, STALE, statusOf, TOO_SMALL } from './status.ts';
import type { FolderEntry, Syscalls } from './syscalls.ts';
import type { XdrReader, XdrWriter } from './xdr.ts';

const MAX_FOLDER = 128 << 10;
const VERIFIER_BYTES = 8;
const { O_RDONLY, O_DIRECTORY } = constants;

export class Listing {
  readonly #files: Files;
  readonly #answers: Answers;
  readonly #syscalls: Syscalls;

  constructor(files: Files, answers: Answers, syscalls: Syscalls) {
    this.#files = files;
    this.#answers = answers;
    this.#syscalls = syscalls;
  }

  /** `plus`: with what is known of each entry. */
  answer(args: XdrReader, reply: XdrWriter, caller: Caller, plus: boolean): void {
    const [handle, cookie] = [readHandle(args), args.hyper()];
    args.fixed(VERIFIER_BYTES);
    const names = args.uint();
    const most = Math.min(plus ? args.uint() : names, MAX_FOLDER);
    this.#answers.reading(reply, handle, (file) => {
      demandFolder(file);
      const fd = this.#syscalls.as(caller, () => openSync(pathOf(file), O_RDONLY | O_DIRECTORY));
      try {
        const start = reply.length;
        reply.uint(OK);
        writeAttributesIfThere(reply, file);
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
      const found = this.#files.entry(folder, name);
      try {
        reply.bool(true);
        writeAttributesOf(reply, found);
      } finally {
        closeSync(found.fd);
      }
      reply.bool(true).opaque(handleIn(folder.volume, found.file));
    } catch (error) {
      if (statusOf(error) === undefined) throw error;
      reply.cut(before);
      reply.bool(false).bool(false);
    }
  }
}
