/** What NFS says of a file, and what a client wants of one (RFC 1813, 2.3.5 and 2.5.2 ff.). */
import type { BigIntStats } from 'node:fs';
import type { XdrReader, XdrWriter } from './xdr.ts';

const KINDS = new Map([
  [0o100000n, 1],
  [0o040000n, 2],
  [0o060000n, 3],
  [0o020000n, 4],
  [0o120000n, 5],
  [0o140000n, 6],
  [0o010000n, 7],
]);
const KIND = 0o170000n;
const PERMISSIONS = 0o7777n;
const NANOSECONDS = 1_000_000_000n;
const BLOCK = 512n;

/** fattr3. `fsid`: tells volumes apart. */
export function writeAttributes(reply: XdrWriter, stats: BigIntStats, fsid: bigint): void {
  reply
    .uint(KINDS.get(stats.mode & KIND) ?? 1)
    .uint(Number(stats.mode & PERMISSIONS))
    .uint(Number(stats.nlink))
    .uint(Number(stats.uid))
    .uint(Number(stats.gid))
    .hyper(stats.size)
    .hyper(stats.blocks * BLOCK)
    .uint(Number(((stats.rdev >> 8n) & 0xfffn) | ((stats.rdev >> 32n) & ~0xfffn)))
    .uint(Number((stats.rdev & 0xffn) | ((stats.rdev >> 12n) & ~0xffn)))
    .hyper(fsid)
    .hyper(stats.ino);
  for (const time of [stats.atimeNs, stats.mtimeNs, stats.ctimeNs]) writeTime(reply, time);
}

/** wcc_attr: what tells a client whether anybody else has changed it. */
export function writeChangeMarks(reply: XdrWriter, stats: BigIntStats): void {
  reply.hyper(stats.size);
  writeTime(reply, stats.mtimeNs);
  writeTime(reply, stats.ctimeNs);
}

function writeTime(reply: XdrWriter, nanoseconds: bigint): void {
  reply.uint(Number(BigInt.asUintN(32, nanoseconds / NANOSECONDS))).uint(Number(nanoseconds % NANOSECONDS));
}

export type WantedTime = bigint | 'now' | 'keep';

/** sattr3: what is to be set. */
export interface Wanted {
  readonly mode: number | undefined;
  readonly uid: number | undefined;
  readonly gid: number | undefined;
  readonly size: bigint | undefined;
  readonly accessed: WantedTime;
  readonly modified: WantedTime;
}

const SET_TO_SERVER_TIME = 1;
const SET_TO_CLIENT_TIME = 2;

export const NOTHING_WANTED: Wanted = {
  mode: undefined,
  uid: undefined,
  gid: undefined,
  size: undefined,
  accessed: 'keep',
  modified: 'keep',
};

export function readWanted(args: XdrReader): Wanted {
  const optional = (): number | undefined => (args.bool() ? args.uint() : undefined);
  const [mode, uid, gid] = [optional(), optional(), optional()];
  const size = args.bool() ? args.hyper() : undefined;
  const time = (): WantedTime => {
    const how = args.uint();
    if (how === SET_TO_CLIENT_TIME) return readTime(args);
    return how === SET_TO_SERVER_TIME ? 'now' : 'keep';
  };
  return {
    mode: mode === undefined ? undefined : mode & Number(PERMISSIONS),
    uid,
    gid,
    size,
    accessed: time(),
    modified: time(),
  };
}

/** Nanoseconds since the epoch. */
export function readTime(args: XdrReader): bigint {
  const seconds = BigInt(args.uint());
  return seconds * NANOSECONDS + (BigInt(args.uint()) % NANOSECONDS);
}
