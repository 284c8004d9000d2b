/** How a failure below is told to a client: over Connect by its code, over REST by its status. */
import { Code, ConnectError } from '@connectrpc/connect';
import { AgentError } from '../channel/agent.ts';
import type { AgentFailure } from '../channel/protocol.ts';
import { isCoppiceError } from '../contract/errors.ts';

const CONNECT_CODES: Readonly<Record<AgentFailure['code'], Code>> = {
  invalid_argument: Code.InvalidArgument,
  not_found: Code.NotFound,
  already_exists: Code.AlreadyExists,
  failed_precondition: Code.FailedPrecondition,
  unauthenticated: Code.Unauthenticated,
  resource_exhausted: Code.ResourceExhausted,
  unimplemented: Code.Unimplemented,
  unavailable: Code.Unavailable,
  internal: Code.Internal,
};

/** 502: the sandbox is not there to answer. */
const HTTP_STATUS: Readonly<Record<AgentFailure['code'], number>> = {
  invalid_argument: 400,
  not_found: 404,
  already_exists: 409,
  failed_precondition: 400,
  unauthenticated: 401,
  resource_exhausted: 429,
  unimplemented: 501,
  unavailable: 502,
  internal: 500,
};

/** A refusal of a REST route; its message is for the client. */
export class HttpFailure extends Error {
  override readonly name = 'HttpFailure';
  readonly status: number;
  constructor(status: number, message: string, options?: ErrorOptions) {
    super(message, options);
    this.status = status;
  }
}

/** Expected failures become a ConnectError with their own words; anything else is `internal error` and is the log's. */
export function toConnectError(error: unknown): ConnectError {
  if (error instanceof ConnectError) return error;
  if (error instanceof AgentError)
    return new ConnectError(error.message, CONNECT_CODES[error.code], undefined, undefined, error);
  if (isCoppiceError(error, 'sandbox_not_found') || isCoppiceError(error, 'guest_unresponsive')) {
    return new ConnectError(error.message, Code.Unavailable, undefined, undefined, error);
  }
  if (isAbort(error)) return new ConnectError('the call was cancelled', Code.Canceled, undefined, undefined, error);
  return new ConnectError('internal error', Code.Internal, undefined, undefined, error);
}

/**
 * The status and words of a failed REST call. `known` is false for what should not have happened. `writes`: what ran out
 * is the disk (507).
 */
export function toHttpFailure(
  error: unknown,
  call: { readonly writes: boolean },
): { readonly status: number; readonly message: string; readonly known: boolean } {
  if (error instanceof HttpFailure) return { status: error.status, message: error.message, known: true };
  if (error instanceof AgentError) {
    const status = error.code === 'resource_exhausted' && call.writes ? 507 : HTTP_STATUS[error.code];
    return { status, message: error.message, known: error.code !== 'internal' };
  }
  if (isCoppiceError(error, 'sandbox_not_found') || isCoppiceError(error, 'guest_unresponsive')) {
    return { status: 502, message: error.message, known: true };
  }
  return { status: 500, message: 'internal error', known: false };
}

/** True when the caller left or envd was closed: nothing went wrong. */
export function isAbort(error: unknown): boolean {
  return error instanceof Error && error.name === 'AbortError';
}
