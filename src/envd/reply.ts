/** Plain replies: JSON bodies, cross-origin headers, and what to do with a request body that nobody read. */
import type { IncomingMessage, ServerResponse } from 'node:http';
import { HttpFailure } from './failures.ts';

/** Bytes and ms that a caller may still send after its reply before the connection is cut. */
const LEFTOVER_BYTES = 32 * 1024 * 1024;
const LEFTOVER_MS = 20_000;

const EXPOSED_HEADERS = [
  'Grpc-Status',
  'Grpc-Message',
  'Grpc-Status-Details-Bin',
  'Connect-Content-Encoding',
  'Content-Encoding',
  'Content-Disposition',
  'Content-Length',
  'Content-Range',
  'Accept-Ranges',
  'Last-Modified',
  'Location',
  'Cache-Control',
  'X-Content-Type-Options',
].join(', ');

/** Any page may call: the token, not the origin, is what protects a sandbox. */
export function allowAnyOrigin(res: ServerResponse): void {
  res.setHeader('Access-Control-Allow-Origin', '*');
  res.setHeader('Access-Control-Expose-Headers', EXPOSED_HEADERS);
}

/** Answers a preflight. The wanted headers are named back, because `*` would not cover Authorization. */
export function replyPreflight(req: IncomingMessage, res: ServerResponse): void {
  const wanted = req.headers['access-control-request-headers'];
  res.writeHead(204, {
    'Access-Control-Allow-Methods': 'HEAD, GET, POST, PUT, PATCH, DELETE',
    'Access-Control-Allow-Headers': wanted === undefined || wanted === '' ? '*' : wanted,
    'Access-Control-Max-Age': '7200',
    Vary: 'Access-Control-Request-Headers',
  });
  res.end();
}

export function replyJSON(res: ServerResponse, status: number, body: unknown): void {
  const text = Buffer.from(JSON.stringify(body));
  res.writeHead(status, { 'Content-Type': 'application/json; charset=utf-8', 'Content-Length': text.byteLength });
  res.end(text);
}

/** E2B's error body. Once a reply has begun nothing can be said any more: the connection is cut, so that it shows. */
export function replyError(res: ServerResponse, status: number, message: string): void {
  if (res.headersSent) {
    res.destroy();
    return;
  }
  for (const name of ['Content-Length', 'Content-Encoding', 'Content-Disposition', 'Content-Range', 'Last-Modified']) {
    res.removeHeader(name);
  }
  replyJSON(res, status, { code: status, message });
}

/** What the sandbox proxy says of an id that is not running; the SDKs read a dead sandbox from this and nothing else. */
export function replyGone(res: ServerResponse, sandboxID: string): void {
  if (res.headersSent) {
    res.destroy();
    return;
  }
  replyJSON(res, 502, { sandboxId: sandboxID, message: 'The sandbox was not found', code: 502 });
}

/**
 * Lets a caller finish sending after its reply, within bounds: cutting at once would often destroy the reply as well,
 * and leaving the rest unread would block the next request on the connection.
 */
export function drainLeftovers(req: IncomingMessage): void {
  if (req.complete || req.destroyed) return;
  let left = LEFTOVER_BYTES;
  const cut = (): void => {
    req.socket.destroy();
  };
  const timer = setTimeout(cut, LEFTOVER_MS);
  timer.unref();
  req.once('close', () => clearTimeout(timer));
  req.once('end', () => clearTimeout(timer));
  req.on('data', (chunk: Buffer) => {
    left -= chunk.byteLength;
    if (left < 0) cut();
  });
  req.resume();
}

/** The whole body, at most `limit` bytes (413). */
export async function readBody(req: IncomingMessage, limit: number): Promise<Buffer> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of req.iterator({ destroyOnReturn: false }) as AsyncIterable<Buffer>) {
    bytes += chunk.byteLength;
    if (bytes > limit) throw new HttpFailure(413, `the body is larger than ${limit} bytes`);
    chunks.push(chunk);
  }
  return Buffer.concat(chunks, bytes);
}
