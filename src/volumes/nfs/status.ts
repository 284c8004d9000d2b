/** Statuses of NFS version 3 (RFC 1813, 2.6). */
import { constants } from 'node:os';

export const OK = 0;
export const INVALID = 22;
export const STALE = 70;
export const BAD_HANDLE = 10_001;
export const NOT_SYNCHRONOUS = 10_002;
export const NOT_SUPPORTED = 10_004;
export const TOO_SMALL = 10_005;
const SERVER_FAULT = 10_006;
export const BAD_TYPE = 10_007;

const OF_NAME: Readonly<Record<string, number>> = {
  EPERM: 1,
  ENOENT: 2,
  EIO: 5,
  ENXIO: 6,
  EACCES: 13,
  EEXIST: 17,
  EXDEV: 18,
  ENODEV: 19,
  ENOTDIR: 20,
  EISDIR: 21,
  EINVAL: INVALID,
  EFBIG: 27,
  ENOSPC: 28,
  EROFS: 30,
  EMLINK: 31,
  ENAMETOOLONG: 63,
  ENOTEMPTY: 66,
  EDQUOT: 69,
  ESTALE: STALE,
  ELOOP: INVALID,
  ETXTBSY: 13,
  EOPNOTSUPP: NOT_SUPPORTED,
};

/** Node names no more of them than its event loop knows. */
const OF_ERRNO = new Map(
  Object.entries(constants.errno).map(([name, errno]) => [errno, OF_NAME[name] ?? SERVER_FAULT]),
);

/** Fails as a system call would, with this errno. */
export function errnoError(name: keyof typeof constants.errno): Error {
  return Object.assign(new Error(name), { errno: -constants.errno[name] });
}

/** Whether an act failed with this errno. */
export function isErrno(error: unknown, name: keyof typeof constants.errno): boolean {
  return (error as NodeJS.ErrnoException).errno === -constants.errno[name];
}

/** A procedure's refusal. */
export class NfsFailure extends Error {
  readonly status: number;

  constructor(status: number) {
    super(`NFS status ${status}`);
    this.status = status;
  }
}

/** The status that an act's failure is told as; undefined: it is none of the file system's. */
export function statusOf(error: unknown): number | undefined {
  if (error instanceof NfsFailure) return error.status;
  const { errno } = error as NodeJS.ErrnoException;
  return errno === undefined ? undefined : OF_ERRNO.get(-errno);
}
