/** Serves volumes by NFS version 3 over TCP: to each client those that are its own, and nothing to anybody else. */
import { createServer, type Server, type Socket } from 'node:net';
import { type Export, Exports } from './exports.ts';
import { createMountProgram, MOUNT_PROGRAM, MOUNT_VERSION } from './mount.ts';
import { createNfsProgram, MAX_IO, NFS_PROGRAM, NFS_VERSION } from './procedures.ts';
import { LastReplies } from './replies.ts';
import { answer, type Program, type Programs, RecordReader, recordMark } from './rpc.ts';
import type { Syscalls } from './syscalls.ts';

export interface ServerOptions {
  /** What the machine with this address has mounted, for as long as its connection lasts. undefined: nothing. */
  readonly exportsOf: (address: string) => Promise<Held | undefined>;
  readonly syscalls: Syscalls;
  readonly verifier: Buffer;
  readonly log: (message: string) => void;
  /** Default 1024: in a guest only its root, which is to say its kernel, has a port below. For tests. */
  readonly portsBelow?: number;
}

export interface Held {
  readonly exports: readonly Export[];
  readonly release: () => void;
}

/** A WRITE and what stands before its bytes. */
const MAX_MESSAGE = MAX_IO + 4096;
/** A client that does not take its answers is not read any more. */
const MAX_UNSENT = 8 << 20;
/** A guest's kernel has one for each mount, and few of those. */
const MAX_CONNECTIONS = 32;
/** A machine that is gone says nothing: after this and ten seconds of silence its connection is too. */
const KEEPALIVE_MS = 15_000;
/** SETATTR, CREATE to LINK: what is not the same when it is done twice. */
const ONCE = new Set([2, 8, 9, 10, 11, 12, 13, 14, 15]);
/** Where a call's procedure stands: after its number, kind, version, program and that one's version. */
const PROCEDURE_AT = 20;
const PROGRAM_AT = 12;

export function createNfsServer(options: ServerOptions): Server {
  const { exportsOf, log, portsBelow = 1024 } = options;
  const connections = new Map<string, number>();
  const replies = new LastReplies();

  const serve = async (socket: Socket, address: string): Promise<void> => {
    const held = await exportsOf(address);
    if (!held) {
      socket.destroy();
      return;
    }
    if (socket.destroyed) return held.release();
    socket.once('close', held.release);
    const programs = programsFor(new Exports(held.exports), options);
    const records = new RecordReader(MAX_MESSAGE);
    const failed = (error: unknown): void =>
      log(`a call of ${address} failed: ${error instanceof Error ? error.stack : error}`);
    socket.on('data', (bytes) => {
      try {
        const messages = records.push(bytes);
        if (!messages) throw new Error('a message is too long');
        for (const message of messages) {
          const act = (): Buffer => answer(message, programs, failed);
          const reply = isOnce(message) ? replies.answer(address, message, act) : act();
          socket.cork();
          socket.write(recordMark(reply));
          socket.write(reply);
          socket.uncork();
        }
      } catch (error) {
        log(`${address} is cut off: ${(error as Error).message}`);
        socket.destroy();
      }
      if (socket.writableLength > MAX_UNSENT) socket.pause();
    });
    socket.on('drain', () => socket.resume());
  };

  return createServer({ keepAlive: true, keepAliveInitialDelay: KEEPALIVE_MS, noDelay: true }, (socket) => {
    const address = socket.remoteAddress?.replace(/^::ffff:/, '');
    socket.on('error', () => socket.destroy());
    const count = address === undefined ? 0 : (connections.get(address) ?? 0);
    if (address === undefined || count >= MAX_CONNECTIONS || (socket.remotePort ?? 0) >= portsBelow) {
      socket.destroy();
      return;
    }
    connections.set(address, count + 1);
    socket.once('close', () => {
      const left = connections.get(address)! - 1;
      if (left > 0) connections.set(address, left);
      else connections.delete(address);
    });
    serve(socket, address).catch((error) => {
      log(`${address} is not served: ${error instanceof Error ? error.message : error}`);
      socket.destroy();
    });
  });
}

function programsFor(exports: Exports, { syscalls, verifier }: ServerOptions): Programs {
  const of = (version: number, program: Program) => new Map([[version, program]]);
  return new Map([
    [MOUNT_PROGRAM, of(MOUNT_VERSION, createMountProgram(exports, syscalls))],
    [NFS_PROGRAM, of(NFS_VERSION, createNfsProgram({ exports, syscalls, verifier }))],
  ]);
}

function isOnce(message: Buffer): boolean {
  return (
    message.length >= PROCEDURE_AT + 4 &&
    message.readUInt32BE(PROGRAM_AT) === NFS_PROGRAM &&
    ONCE.has(message.readUInt32BE(PROCEDURE_AT))
  );
}
