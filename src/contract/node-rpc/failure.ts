/** A CoppiceError across the node RPC: its code, message and details travel as one message, whole. */
import { create, fromBinary, toBinary } from '@bufbuild/protobuf';
import { CoppiceError, ERRORS, type ErrorCode } from '../errors.ts';
import { FailureSchema } from '../gen/node_pb.js';

/** Characters; longer texts are cut. */
const MAX_MESSAGE = 8_192;
const MAX_DETAILS = 16_384;

/** What file systems and the database say of a full disk. */
const DISK_FULL = /\b(ENOSPC|EDQUOT)\b|database or disk is full/;

/** For the server. Anything that is not a CoppiceError becomes `internal` without its text; a full disk is told. */
export function encodeFailure(error: unknown): Uint8Array {
  const known = error instanceof CoppiceError ? error : told(error);
  const { code, details } = known;
  return toBinary(
    FailureSchema,
    create(FailureSchema, { code, message: failureText(known.message), details: detailsToJson(details) }),
  );
}

function told(error: unknown): CoppiceError {
  if (error instanceof Error && DISK_FULL.test(error.message))
    return new CoppiceError('capacity', "no space on the host's disk: delete snapshots or paused sandboxes");
  return new CoppiceError('internal', 'internal error');
}

/** An error's message as it travels: bounded, and text that UTF-8 can carry. */
export function failureText(message: string): string {
  return message.toWellFormed().slice(0, MAX_MESSAGE).toWellFormed();
}

/** For the client. */
export function decodeFailure(payload: Uint8Array): CoppiceError {
  const { code, message, details } = fromBinary(FailureSchema, payload);
  if (!Object.hasOwn(ERRORS, code)) return new CoppiceError('internal', 'the node RPC failed');
  return new CoppiceError(code as ErrorCode, message, { details: detailsFromJson(details) });
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
