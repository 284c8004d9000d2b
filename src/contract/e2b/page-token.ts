/**
 * E2B's opaque page token: base64url of `<RFC 3339 time>__<id>`, with `__asc` behind it when the list ascends. The page
 * begins after that position.
 */

export interface PagePosition {
  readonly startedAtMs: number;
  readonly sandboxID: string;
}

const TOKEN = /^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z)__([A-Za-z0-9_.-]{1,128}?)(__asc)?$/;

export function encodePageToken(position: PagePosition, order: 'asc' | 'desc'): string {
  const text = `${new Date(position.startedAtMs).toISOString()}__${position.sandboxID}${order === 'asc' ? '__asc' : ''}`;
  return Buffer.from(text).toString('base64url');
}

/** Undefined if the text is no token of ours, or is the token of a list in the other order. */
export function decodePageToken(token: string, order: 'asc' | 'desc'): PagePosition | undefined {
  if (!/^[A-Za-z0-9_-]{1,512}={0,2}$/.test(token)) return undefined;
  const match = TOKEN.exec(Buffer.from(token, 'base64url').toString('latin1'));
  if (match === null || (match[3] !== undefined) !== (order === 'asc')) return undefined;
  const startedAtMs = Date.parse(match[1]!);
  return Number.isNaN(startedAtMs) ? undefined : { startedAtMs, sandboxID: match[2]! };
}
