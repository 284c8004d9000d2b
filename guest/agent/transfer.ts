/** Bytes of files in and out: read, write, compose. */
import fs from 'node:fs';
import path from 'node:path';
import { KIND, MAX_PAYLOAD } from '../../src/channel/protocol.ts';
import type { Context } from './context.ts';
import { entryAt, METADATA_PREFIX } from './entry.ts';
import { Failure, failureOf, isErrno } from './failure.ts';
import { ensureFolder } from './files.ts';
import type { AgentStream } from './stream.ts';
import type { Account } from './users.ts';

// NONBLOCK: opening a named pipe must not hold a thread for ever.
const { O_RDONLY, O_WRONLY, O_CREAT, O_TRUNC, O_NONBLOCK, O_NOCTTY } = fs.constants;

export async function read(
  context: Context,
  file: string,
  range: { readonly start?: number; readonly length?: number },
  stream: AgentStream,
): Promise<void> {
  const { start = 0, length = Number.MAX_SAFE_INTEGER } = range;
  if (!Number.isSafeInteger(start) || start < 0 || !Number.isSafeInteger(length) || length < 0)
    throw new Failure('invalid_argument', 'start and length must be whole numbers, not negative');
  const entry = entryAt(context, file);
  const fd = openRegular(file, O_RDONLY | O_NONBLOCK | O_NOCTTY);
  try {
    // A link is answered with its own entry, but with the size of what is sent.
    stream.reply({ entry: { ...entry, size: fs.fstatSync(fd).size } });
    let left = length;
    for (let at = start; left > 0 && !stream.closed; ) {
      const buffer = Buffer.allocUnsafeSlow(Math.min(MAX_PAYLOAD, left));
      const count = await readAt(fd, buffer, at);
      if (count === 0) break;
      at += count;
      left -= count;
      if (!stream.data(KIND.RAW, count === buffer.length ? buffer : buffer.subarray(0, count))) await stream.drained();
    }
    stream.end();
  } finally {
    fs.closeSync(fd);
  }
}

export function write(
  context: Context,
  file: string,
  account: Account,
  metadata: Readonly<Record<string, string>>,
  stream: AgentStream,
): void {
  ensureFolder(path.dirname(file), account);
  const fd = openRegular(file, O_WRONLY | O_CREAT | O_TRUNC | O_NONBLOCK | O_NOCTTY);
  let queue: Buffer[] = [];
  let busy = false;
  let ended = false;
  let closed = false;

  const close = (): void => {
    if (closed) return;
    closed = true;
    fs.closeSync(fd);
  };
  const settle = (): void => {
    if (busy || closed) return;
    if (stream.closed) {
      close();
      return;
    }
    if (queue.length > 0) {
      const pieces = queue;
      queue = [];
      busy = true;
      writeAll(fd, pieces).then(
        () => {
          busy = false;
          for (const piece of pieces) stream.consumed(piece.length);
          settle();
        },
        (error) => {
          busy = false;
          close();
          stream.fail(failureOf(error));
        },
      );
      return;
    }
    if (!ended) return;
    close();
    try {
      context.powers.writeAttributes(file, METADATA_PREFIX, metadata);
      stream.event({ entry: entryAt(context, file) });
      stream.end();
    } catch (error) {
      stream.fail(failureOf(error));
    }
  };

  try {
    fs.fchownSync(fd, account.uid, account.gid);
  } catch (error) {
    close();
    throw error;
  }
  stream.onData = (bytes) => {
    queue.push(bytes);
    settle();
  };
  stream.onEnd = () => {
    ended = true;
    settle();
  };
  stream.onClose = settle;
  stream.reply({});
}

const COMPOSE_BYTES = 1_048_576;

export async function compose(
  context: Context,
  sources: readonly string[],
  destination: string,
  account: Account,
): Promise<void> {
  if (sources.length === 0) throw new Failure('invalid_argument', 'there is nothing to compose');
  if (sources.includes(destination)) throw new Failure('invalid_argument', 'the destination is one of the sources');
  for (const source of sources) entryAt(context, source);
  ensureFolder(path.dirname(destination), account);
  const target = openRegular(destination, O_WRONLY | O_CREAT | O_TRUNC | O_NONBLOCK | O_NOCTTY);
  try {
    fs.fchownSync(target, account.uid, account.gid);
    const buffer = Buffer.allocUnsafeSlow(COMPOSE_BYTES);
    for (const source of sources) {
      const fd = openRegular(source, O_RDONLY | O_NONBLOCK | O_NOCTTY);
      try {
        for (let at = 0; ; ) {
          const count = await readAt(fd, buffer, at);
          if (count === 0) break;
          at += count;
          await writeAll(target, [buffer.subarray(0, count)]);
        }
      } finally {
        fs.closeSync(fd);
      }
    }
  } finally {
    fs.closeSync(target);
  }
  for (const source of sources) fs.unlinkSync(source);
}

function openRegular(file: string, flags: number): number {
  let fd: number;
  try {
    fd = fs.openSync(file, flags, 0o644);
  } catch (error) {
    if (isErrno(error, 'EISDIR')) throw new Failure('invalid_argument', `path is a directory: '${file}'`);
    if (isErrno(error, 'ENOENT')) throw new Failure('not_found', `path '${file}' does not exist`);
    throw error;
  }
  const stat = fs.fstatSync(fd);
  if (stat.isFile()) return fd;
  fs.closeSync(fd);
  throw new Failure(
    'invalid_argument',
    `path is ${stat.isDirectory() ? 'a directory' : 'not a regular file'}: '${file}'`,
  );
}

function readAt(fd: number, buffer: Buffer, at: number): Promise<number> {
  return new Promise((resolve, reject) => {
    fs.read(fd, buffer, 0, buffer.length, at, (error, count) => (error ? reject(error) : resolve(count)));
  });
}

async function writeAll(fd: number, pieces: readonly Buffer[]): Promise<void> {
  for (const piece of pieces) {
    for (let at = 0; at < piece.length; ) {
      at += await new Promise<number>((resolve, reject) => {
        fs.write(fd, piece, at, piece.length - at, null, (error, count) => (error ? reject(error) : resolve(count)));
      });
    }
  }
}
