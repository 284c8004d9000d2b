/** A client of NFS version 3 for tests: says each call as bytes, and reads the parts of an answer that tests ask for. */
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { RecordReader, recordMark } from '../../src/volumes/nfs/rpc.ts';
import { XdrReader, XdrWriter } from '../../src/volumes/nfs/xdr.ts';

export const NFS = 100_003;
export const MOUNT = 100_005;

export interface User {
  readonly uid: number;
  readonly gid: number;
  readonly groups?: readonly number[];
}
export const ROOT: User = { uid: 0, gid: 0 };
export const USER: User = { uid: 1000, gid: 1000 };

let xid = 1;

/** A whole message, without its length. */
export function callOf(program: number, procedure: number, user: User, args: Uint8Array, version = 3): Buffer {
  const credential = new XdrWriter().uint(0).opaque(Buffer.from('guest')).uint(user.uid).uint(user.gid);
  const groups = user.groups ?? [];
  credential.uint(groups.length);
  for (const group of groups) credential.uint(group);
  const call = new XdrWriter().uint(xid++).uint(0).uint(2).uint(program).uint(version).uint(procedure);
  call.uint(1).opaque(credential.bytes()).uint(0).uint(0).fixed(args);
  return Buffer.from(call.bytes());
}

export interface Attributes {
  readonly type: number;
  readonly mode: number;
  readonly nlink: number;
  readonly uid: number;
  readonly gid: number;
  readonly size: bigint;
  readonly inode: bigint;
}

export function readAttributes(reply: XdrReader): Attributes {
  const [type, mode, nlink, uid, gid] = [reply.uint(), reply.uint(), reply.uint(), reply.uint(), reply.uint()];
  const size = reply.hyper();
  reply.fixed(8 + 8 + 8);
  const inode = reply.hyper();
  reply.fixed(24);
  return { type, mode, nlink, uid, gid, size, inode };
}

export const readOptional = (reply: XdrReader): Attributes | undefined =>
  reply.bool() ? readAttributes(reply) : undefined;

/** wcc_data: the size before, and what it is after. */
export function readChange(reply: XdrReader): { before: bigint | undefined; after: Attributes | undefined } {
  let before: bigint | undefined;
  if (reply.bool()) {
    before = reply.hyper();
    reply.fixed(16);
  }
  return { before, after: readOptional(reply) };
}

/** sattr3 */
export function wanted(
  more: { mode?: number; uid?: number; gid?: number; size?: number; mtime?: number } = {},
): Buffer {
  const set = new XdrWriter();
  for (const value of [more.mode, more.uid, more.gid]) {
    set.bool(value !== undefined);
    if (value !== undefined) set.uint(value);
  }
  set.bool(more.size !== undefined);
  if (more.size !== undefined) set.hyper(more.size);
  set.uint(0).uint(more.mtime === undefined ? 0 : 2);
  if (more.mtime !== undefined) set.uint(more.mtime).uint(5);
  return Buffer.from(set.bytes());
}

export class NfsClient {
  readonly #socket: Socket;
  readonly #records = new RecordReader(4 << 20);
  readonly #messages: Buffer[] = [];
  #wake: () => void = () => {};
  #closed = false;

  private constructor(socket: Socket) {
    this.#socket = socket;
    socket.on('data', (bytes) => {
      this.#messages.push(...this.#records.push(bytes)!.map((message) => Buffer.from(message)));
      this.#wake();
    });
    socket.on('error', () => {});
    socket.on('close', () => {
      this.#closed = true;
      this.#wake();
    });
  }

  /** `localPort`: from where, for servers that care. */
  static async open(port: number, localPort?: number): Promise<NfsClient> {
    const socket = connect({ port, host: '127.0.0.1', ...(localPort === undefined ? {} : { localPort }) });
    await once(socket, 'connect');
    return new NfsClient(socket);
  }

  raw(bytes: Uint8Array): void {
    this.#socket.write(bytes);
  }

  /** The next message; undefined: it was cut off. */
  async next(): Promise<Buffer | undefined> {
    while (this.#messages.length === 0 && !this.#closed)
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    return this.#messages.shift();
  }

  async send(message: Buffer): Promise<Buffer | undefined> {
    this.raw(Buffer.concat([recordMark(message), message]));
    return this.next();
  }

  /** At the results of a call that was accepted; a number: why it was not (accept_stat). */
  async call(program: number, procedure: number, user: User, args: Uint8Array): Promise<XdrReader | number> {
    const reply = await this.send(callOf(program, procedure, user, args));
    if (!reply) throw new Error('the server has cut the connection');
    const reader = new XdrReader(reply);
    reader.fixed(8);
    if (reader.uint() !== 0) throw new Error('denied');
    reader.fixed(8);
    const state = reader.uint();
    return state === 0 ? reader : state;
  }

  /** Status, and at what follows it. */
  async nfs(
    procedure: number,
    user: User,
    ...parts: readonly Uint8Array[]
  ): Promise<{ status: number; reply: XdrReader }> {
    const reply = await this.call(NFS, procedure, user, Buffer.concat(parts));
    if (typeof reply === 'number') throw new Error(`accepted with ${reply}`);
    return { status: reply.uint(), reply };
  }

  async mount(path: string): Promise<Buffer | undefined> {
    const reply = await this.call(MOUNT, 1, ROOT, opaque(path));
    if (typeof reply === 'number') throw new Error(`accepted with ${reply}`);
    return reply.uint() === 0 ? Buffer.from(reply.opaque(64)) : undefined;
  }

  /** Says nothing more. */
  end(): void {
    this.#socket.end();
  }

  close(): void {
    this.#socket.destroy();
  }
}

export const opaque = (bytes: string | Uint8Array): Buffer =>
  Buffer.from(new XdrWriter().opaque(Buffer.from(bytes)).bytes());
export const uint = (...values: number[]): Buffer => {
  const writer = new XdrWriter();
  for (const value of values) writer.uint(value);
  return Buffer.from(writer.bytes());
};
export const hyper = (value: number | bigint): Buffer => Buffer.from(new XdrWriter().hyper(value).bytes());
