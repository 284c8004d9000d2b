/** ONC RPC version 2 over TCP (RFC 5531): calls out of a byte stream, and replies to them. */
import type { User } from './syscalls.ts';
import { XdrError, XdrReader, XdrWriter } from './xdr.ts';

/** Who a caller says it is: AUTH_SYS. What a guest's kernel says of its processes is theirs to know. */
export type Caller = User;

export interface Call {
  readonly procedure: number;
  /** undefined: AUTH_NONE. */
  readonly caller: Caller | undefined;
  /** At the arguments. */
  readonly args: XdrReader;
}

/** A program's answer to one of its procedures, written to `reply`; `false`: it has no such procedure. */
export type Program = (call: Call, reply: XdrWriter) => boolean;

/** By number, then by version. */
export type Programs = ReadonlyMap<number, ReadonlyMap<number, Program>>;

const CALL = 0;
const REPLY = 1;
const RPC_VERSION = 2;
const AUTH_NONE = 0;
const AUTH_SYS = 1;
const MAX_AUTH = 400;
const MAX_GROUPS = 16;
const MAX_MACHINE_NAME = 255;
const ACCEPTED = 0;
const DENIED = 1;
const RPC_MISMATCH = 0;
const AUTH_ERROR = 1;
const AUTH_TOO_WEAK = 5;
const SUCCESS = 0;
const PROGRAM_UNAVAILABLE = 1;
const PROGRAM_MISMATCH = 2;
const PROCEDURE_UNAVAILABLE = 3;
const GARBAGE_ARGUMENTS = 4;
const SYSTEM_ERROR = 5;
/** To the kernel it means that nothing is to be changed: nobody is called that. */
const NO_ID = 0xffff_ffff;

/** Answers one message; throws XdrError when it is no call at all. `failed` hears of what no program should throw. */
export function answer(message: Buffer, programs: Programs, failed: (error: unknown) => void): Buffer {
  const reader = new XdrReader(message);
  const reply = new XdrWriter();
  reply.uint(reader.uint()).uint(REPLY);
  if (reader.uint() !== CALL || reader.uint() !== RPC_VERSION)
    return reply.uint(DENIED).uint(RPC_MISMATCH).uint(RPC_VERSION).uint(RPC_VERSION).bytes();
  const [program, version, procedure] = [reader.uint(), reader.uint(), reader.uint()];
  const caller = callerOf(reader);
  reader.uint();
  reader.opaque(MAX_AUTH);
  if (caller === 'unknown') return reply.uint(DENIED).uint(AUTH_ERROR).uint(AUTH_TOO_WEAK).bytes();
  reply.uint(ACCEPTED).uint(AUTH_NONE).uint(0);
  const versions = programs.get(program);
  if (!versions) return reply.uint(PROGRAM_UNAVAILABLE).bytes();
  const act = versions.get(version);
  if (!act) {
    const known = [...versions.keys()];
    return reply
      .uint(PROGRAM_MISMATCH)
      .uint(Math.min(...known))
      .uint(Math.max(...known))
      .bytes();
  }
  const start = reply.length;
  reply.uint(SUCCESS);
  try {
    if (act({ procedure, caller, args: reader }, reply)) return reply.bytes();
    reply.cut(start);
    return reply.uint(PROCEDURE_UNAVAILABLE).bytes();
  } catch (error) {
    reply.cut(start);
    if (error instanceof XdrError) return reply.uint(GARBAGE_ARGUMENTS).bytes();
    failed(error);
    return reply.uint(SYSTEM_ERROR).bytes();
  }
}

function callerOf(reader: XdrReader): Caller | undefined | 'unknown' {
  const flavor = reader.uint();
  const body = new XdrReader(reader.opaque(MAX_AUTH));
  if (flavor === AUTH_NONE) return undefined;
  if (flavor !== AUTH_SYS) return 'unknown';
  body.uint();
  body.opaque(MAX_MACHINE_NAME);
  const [uid, gid, count] = [body.uint(), body.uint(), body.uint()];
  const groups = Array.from({ length: Math.min(count, MAX_GROUPS) }, () => body.uint());
  return [uid, gid, ...groups].includes(NO_ID) ? 'unknown' : { uid, gid, groups };
}

const LAST_FRAGMENT = 0x8000_0000;

/** Takes messages out of a stream: each one or more fragments, with a length before each. */
export class RecordReader {
  readonly #most: number;
  #waiting: Buffer[] = [];
  #have = 0;
  #message: Buffer[] = [];
  #length = 0;

  /** @param most bytes of a message */
  constructor(most: number) {
    this.#most = most;
  }

  /** The messages that are whole with these bytes. undefined: one is too long, and nothing after it can be found. */
  push(bytes: Buffer): Buffer[] | undefined {
    this.#waiting.push(bytes);
    this.#have += bytes.length;
    const messages: Buffer[] = [];
    for (;;) {
      if (this.#have < 4) return messages;
      const head = this.#peek().readUInt32BE(0);
      const last = head >= LAST_FRAGMENT;
      const length = head % LAST_FRAGMENT;
      if (this.#length + length > this.#most || this.#message.length > 64) return undefined;
      if (this.#have < 4 + length) return messages;
      this.#message.push(this.#take(4 + length).subarray(4));
      this.#length += length;
      if (!last) continue;
      messages.push(this.#message.length === 1 ? this.#message[0]! : Buffer.concat(this.#message));
      this.#message = [];
      this.#length = 0;
    }
  }

  /** At least four bytes in one. */
  #peek(): Buffer {
    if (this.#waiting[0]!.length < 4) this.#waiting = [Buffer.concat(this.#waiting)];
    return this.#waiting[0]!;
  }

  #take(length: number): Buffer {
    if (this.#waiting[0]!.length < length) this.#waiting = [Buffer.concat(this.#waiting)];
    const first = this.#waiting[0]!;
    this.#have -= length;
    if (first.length === length) this.#waiting.shift();
    else this.#waiting[0] = first.subarray(length);
    return first.subarray(0, length);
  }
}

/** The length that goes before a message sent as one fragment. */
export function recordMark(message: Buffer): Buffer {
  const mark = Buffer.allocUnsafe(4);
  mark.writeUInt32BE((LAST_FRAGMENT + message.length) >>> 0, 0);
  return mark;
}
