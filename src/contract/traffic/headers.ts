/**
 * Which header fields cross a proxy hop, and how the body is framed on the far side (RFC 9110 section 7.6.1, RFC 9112
 * section 6). Framing is computed from what Node's parser accepted, never copied, so no field that a client names in
 * `Connection` can change where a body ends.
 */
import type { IncomingMessage } from 'node:http';

const HOP_BY_HOP = new Set([
  'connection',
  'proxy-connection',
  'keep-alive',
  'proxy-authenticate',
  'proxy-authorization',
  'te',
  'transfer-encoding',
  'content-length',
  'upgrade',
  'trailer',
]);

/** Never dropped because `Connection` names them: without them the request means something else. */
const UNDROPPABLE = new Set(['host', 'expect']);

/** Fields that would change routing or framing if they came as trailers. */
const FORBIDDEN_TRAILERS = new Set([...HOP_BY_HOP, 'host', 'expect', 'authorization', 'set-cookie', 'cookie', 'range']);

/** Methods whose request may be sent twice with the effect of one (RFC 9110 section 9.2.2). */
export const IDEMPOTENT: ReadonlySet<string> = new Set(['GET', 'HEAD', 'OPTIONS', 'TRACE', 'PUT', 'DELETE']);

const NO_BODY_BY_DEFAULT = new Set(['GET', 'HEAD', 'DELETE', 'OPTIONS', 'TRACE']);

/** Our own fields between edge and node; a client or guest that sends one is not believed. */
export const OWN_PREFIX = 'x-coppice-';

/** True if the message announces a body. */
export function announcesBody(req: IncomingMessage): boolean {
  const length = req.headers['content-length'];
  return req.headers['transfer-encoding'] !== undefined || (length !== undefined && length !== '0');
}

/** A transfer coding other than `chunked` cannot be carried: Node decodes chunks only. */
export function codingSupported(message: IncomingMessage): boolean {
  const coding = message.headers['transfer-encoding'];
  return coding === undefined || coding.trim().toLowerCase() === 'chunked';
}

/**
 * The request's fields for the next hop as a flat name/value array, in the client's order and spelling.
 * @param drop names (lower case) to leave out besides the hop-by-hop ones
 */
export function requestHeaders(req: IncomingMessage, drop: (name: string) => boolean): string[] {
  const named = connectionTokens(req);
  const chunked = req.headers['transfer-encoding'] !== undefined;
  const out: string[] = [];
  for (let i = 0; i + 1 < req.rawHeaders.length; i += 2) {
    const name = req.rawHeaders[i]!;
    const lower = name.toLowerCase();
    if (lower === 'trailer' && chunked) out.push(name, req.rawHeaders[i + 1]!);
    if (HOP_BY_HOP.has(lower) || (named.has(lower) && !UNDROPPABLE.has(lower)) || drop(lower)) continue;
    out.push(name, req.rawHeaders[i + 1]!);
  }
  if (req.headers.host === undefined) out.push('Host', 'localhost');
  if (/(^|,)\s*trailers\s*($|[,;])/i.test(String(req.headers.te ?? ''))) out.push('TE', 'trailers');
  if (chunked) out.push('Transfer-Encoding', 'chunked');
  else if (req.headers['content-length'] !== undefined) out.push('Content-Length', req.headers['content-length']);
  else if (!NO_BODY_BY_DEFAULT.has(req.method ?? 'GET')) out.push('Content-Length', '0');
  return out;
}

/**
 * The answer's fields for the client. Without a length or chunks upstream, Node frames the body itself.
 * @param chunksAllowed false for HTTP/1.0 clients and upgraded sockets: the body then ends with the connection
 */
export function responseHeaders(answer: IncomingMessage, method: string, chunksAllowed: boolean): string[] {
  const named = connectionTokens(answer);
  const status = answer.statusCode ?? 502;
  const bodyless = method === 'HEAD' || status === 204 || status === 304;
  const chunked = answer.headers['transfer-encoding'] !== undefined && chunksAllowed && !bodyless;
  const out: string[] = [];
  for (let i = 0; i + 1 < answer.rawHeaders.length; i += 2) {
    const name = answer.rawHeaders[i]!;
    const lower = name.toLowerCase();
    if (lower === 'trailer' && chunked) out.push(name, answer.rawHeaders[i + 1]!);
    if (HOP_BY_HOP.has(lower) || named.has(lower)) continue;
    out.push(name, answer.rawHeaders[i + 1]!);
  }
  const length = answer.headers['content-length'];
  if (chunked) out.push('Transfer-Encoding', 'chunked');
  else if (length !== undefined && status !== 204 && answer.headers['transfer-encoding'] === undefined)
    out.push('Content-Length', length);
  return out;
}

/** Trailers as pairs, without those that may not come after the body. */
export function trailerPairs(message: IncomingMessage): [string, string][] {
  const out: [string, string][] = [];
  for (let i = 0; i + 1 < message.rawTrailers.length; i += 2) {
    const name = message.rawTrailers[i]!;
    const lower = name.toLowerCase();
    if (!FORBIDDEN_TRAILERS.has(lower) && !lower.startsWith(OWN_PREFIX)) out.push([name, message.rawTrailers[i + 1]!]);
  }
  return out;
}

function connectionTokens(message: IncomingMessage): Set<string> {
  const value = message.headers.connection;
  if (value === undefined) return new Set();
  return new Set(value.split(',').map((token) => token.trim().toLowerCase()));
}
