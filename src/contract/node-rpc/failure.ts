/** A CoppiceError across the node RPC: its code, message and details travel as one error detail, whole. */
import { Code, ConnectError } from '@connectrpc/connect';
import { CoppiceError, ERRORS, type ErrorCode } from '../errors.ts';
import { FailureSchema } from '../gen/node_pb.js';

/** Characters; longer texts are cut, since a Connect error goes into one JSON body. */
const MAX_MESSAGE = 8_192;
const MAX_DETAILS = 16_384;

/** What Connect's own code says to a reader of the wire; our client reads the detail instead. */
const CONNECT_CODES: Readonly<Record<number, Code>> = {
  400: Code.InvalidArgument,
  401: Code.Unauthenticated,
  403: Code.PermissionDenied,
  404: Code.NotFound,
  405: Code.Unimplemented,
  409: Code.Aborted,
  413: Code.ResourceExhausted,
  499: Code.Canceled,
  501: Code.Unimplemented,
  503: Code.Unavailable,
};

/** For the server. Anything that is not a CoppiceError becomes `internal` without its text. */
export function toConnectError(error: unknown): ConnectError {
  const known = error instanceof CoppiceError ? error : new CoppiceError('internal', 'internal error');
  const message = known.message.toWellFormed().slice(0, MAX_MESSAGE).toWellFormed();
  return new ConnectError(message, CONNECT_CODES[known.status] ?? Code.Internal, undefined, [
    { desc: FailureSchema, value: { code: known.code, message, details: detailsToJson(known.details) } },
  ]);
}

/** For the client: every way in which a call can fail, as a CoppiceError. */
export function fromConnectError(error: unknown): CoppiceError {
  if (error instanceof CoppiceError) return error;
  const failure = ConnectError.from(error);
  const [sent] = failure.findDetails(FailureSchema);
  if (sent !== undefined && Object.hasOwn(ERRORS, sent.code))
    return new CoppiceError(sent.code as ErrorCode, sent.message, { details: detailsFromJson(sent.details) });
  if (brokenConnection(error)) return new CoppiceError('unavailable', 'the node does not answer', { cause: error });
  switch (failure.code) {
    case Code.Canceled:
      return new CoppiceError('aborted', 'the call was cancelled', { cause: error });
    case Code.DeadlineExceeded:
      return new CoppiceError('aborted', 'the node did not answer in time', { cause: error });
    case Code.ResourceExhausted:
      return new CoppiceError('payload_too_large', 'the message is too large for the node RPC', { cause: error });
    case Code.Unavailable:
    case Code.Aborted:
    case Code.Unknown:
      return new CoppiceError('unavailable', 'the node does not answer', { cause: error });
    default:
      return new CoppiceError('internal', 'the node RPC failed', { cause: error });
  }
}

const BROKEN = new Set(['ECONNREFUSED', 'ECONNRESET', 'ENOENT', 'EPIPE', 'EACCES', 'ENOTSOCK', 'ENOTCONN']);

/** Connect maps only some of the ways in which a unix socket fails; the system's own code is down the chain of causes. */
function brokenConnection(error: unknown): boolean {
  let at: unknown = error;
  for (let depth = 0; depth < 8 && at instanceof Error; depth++) {
    if (BROKEN.has(String((at as NodeJS.ErrnoException).code))) return true;
    at = at.cause;
  }
  return false;
}

function detailsToJson(details: Readonly<Record<string, unknown>>): string {
  try {
    const text = JSON.stringify(details).toWellFormed();
    return text.length <= MAX_DETAILS ? text : '{}';
  } catch {
    return '{}';
  }
}

function detailsFromJson(text: string): Record<string, unknown> {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === 'object' && value !== null && !Array.isArray(value)
      ? (value as Record<string, unknown>)
      : {};
  } catch {
    return {};
  }
}
