/** Failures that the host is told about, and what the kernel's errors become. */
import type { AgentFailure } from '../../src/channel/protocol.ts';

type Code = AgentFailure['code'];

export class Failure extends Error {
  readonly code: Code;
  constructor(code: Code, message: string) {
    super(message);
    this.code = code;
  }
}

const BY_ERRNO: Readonly<Record<string, Code>> = {
  ENOENT: 'not_found',
  ESRCH: 'not_found',
  EEXIST: 'already_exists',
  ENOSPC: 'resource_exhausted',
  EDQUOT: 'resource_exhausted',
  EFBIG: 'resource_exhausted',
  EMFILE: 'resource_exhausted',
  ENFILE: 'resource_exhausted',
  ENOMEM: 'resource_exhausted',
  EAGAIN: 'resource_exhausted',
  EISDIR: 'invalid_argument',
  ENOTDIR: 'invalid_argument',
  EINVAL: 'invalid_argument',
  E2BIG: 'invalid_argument',
  ENAMETOOLONG: 'invalid_argument',
  ENXIO: 'invalid_argument',
  ERR_INVALID_ARG_VALUE: 'invalid_argument',
  ERR_INVALID_ARG_TYPE: 'invalid_argument',
  ERR_OUT_OF_RANGE: 'invalid_argument',
  EACCES: 'failed_precondition',
  EPERM: 'failed_precondition',
  EROFS: 'failed_precondition',
  EBUSY: 'failed_precondition',
  ELOOP: 'failed_precondition',
  ENOTEMPTY: 'failed_precondition',
  ETXTBSY: 'failed_precondition',
  EOPNOTSUPP: 'failed_precondition',
  ENOTSUP: 'failed_precondition',
  ECONNREFUSED: 'unavailable',
  ECONNRESET: 'unavailable',
  EPIPE: 'unavailable',
};

export function failureOf(error: unknown): AgentFailure {
  if (error instanceof Failure) return { code: error.code, message: error.message };
  const { code, message } = error as NodeJS.ErrnoException;
  return { code: (code && BY_ERRNO[code]) || 'internal', message: String(message ?? error) };
}

export function isErrno(error: unknown, ...codes: string[]): boolean {
  return codes.includes((error as NodeJS.ErrnoException)?.code ?? '');
}
