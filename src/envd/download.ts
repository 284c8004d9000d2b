/** GET /files: one file of the sandbox, streamed. */
import type { IncomingMessage, ServerResponse } from 'node:http';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { constants, createGzip } from 'node:zlib';
import type { AgentClient } from '../channel/agent.ts';
import type { FileEntry } from '../channel/protocol.ts';
import { chooseEncoding } from './accept-encoding.ts';
import { type ByteRange, parseRange } from './byte-range.ts';
import { contentTypeOf, SNIFF_BYTES } from './content-type.ts';
import { HttpFailure } from './failures.ts';
import { filePath, fileUser } from './file-query.ts';
import type { EnvdSandbox } from './sandbox.ts';

/** Serves the file that the query names. Rejects with AgentError or HttpFailure; the reply may then have begun. */
export async function serveDownload(
  sandbox: EnvdSandbox,
  req: IncomingMessage,
  res: ServerResponse,
  query: URLSearchParams,
  signal: AbortSignal,
): Promise<void> {
  const path = filePath(query.get('path') ?? '');
  const user = fileUser(sandbox, query);
  const encoding = chooseEncoding(req.headers['accept-encoding']?.toString());
  if (encoding === undefined) throw new HttpFailure(406, 'neither identity nor gzip is accepted');
  const agent = await sandbox.agent();

  res.setHeader('Vary', 'Accept-Encoding');
  const selective = ['range', 'if-modified-since', 'if-unmodified-since'].some(
    (name) => req.headers[name] !== undefined,
  );
  const range = selective ? await selectPart(agent, path, user, req, res) : undefined;
  if (res.writableEnded) return;

  const file = await agent.read(path, {
    user,
    signal,
    ...(range ? { start: range.start, length: range.end - range.start + 1 } : {}),
  });
  try {
    describe(file.entry, res);
    // A part keeps the encoding of the whole, and offsets count its bytes: both only make sense uncompressed.
    if (range) await sendPart(file, range, res, signal);
    else await sendWhole(file, selective ? 'identity' : encoding, res, signal);
  } finally {
    file.cancel();
  }
}

type OpenFile = Awaited<ReturnType<AgentClient['read']>>;

/** Judges the conditions and the range. Ends the reply where nothing is to be sent. */
async function selectPart(
  agent: AgentClient,
  path: string,
  user: string,
  req: IncomingMessage,
  res: ServerResponse,
): Promise<ByteRange | undefined> {
  const entry = await agent.stat(path, user);
  if (entry.type === 'directory') return undefined;
  const modified = Math.floor(entry.modifiedMs / 1_000) * 1_000;
  const date = (name: string): number => Date.parse(String(req.headers[name] ?? ''));
  const lastModified = { 'Last-Modified': new Date(modified).toUTCString() };

  if (modified > date('if-unmodified-since')) throw new HttpFailure(412, `path '${entry.path}' was modified`);
  if (modified <= date('if-modified-since')) {
    res.writeHead(304, lastModified);
    res.end();
    return undefined;
  }
  // Entity tags are not given out, so an If-Range that is not our date cannot match.
  if (req.headers['if-range'] !== undefined && date('if-range') !== modified) return undefined;
  const range = parseRange(req.headers.range, entry.size);
  if (range === 'unsatisfiable') {
    res.setHeader('Content-Range', `bytes */${entry.size}`);
    const body = JSON.stringify({ code: 416, message: `the range is outside of the ${entry.size} bytes of the file` });
    res.writeHead(416, {
      'Content-Type': 'application/json; charset=utf-8',
      'Content-Length': Buffer.byteLength(body),
    });
    res.end(body);
    return undefined;
  }
  return range;
}

function describe(entry: FileEntry, res: ServerResponse): void {
  res.setHeader('Content-Disposition', inlineDisposition(entry.name));
  res.setHeader('Last-Modified', new Date(entry.modifiedMs).toUTCString());
  res.setHeader('Accept-Ranges', 'bytes');
}

/** `inline; filename=…` (RFC 6266), with the extended form for names that a plain parameter cannot hold. */
export function inlineDisposition(name: string): string {
  if (/^[\w!#$&+.^`|~-]+$/.test(name)) return `inline; filename=${name}`;
  if (/^[\x20-\x7e]*$/.test(name)) return `inline; filename="${name.replace(/[\\"]/g, '\\$&')}"`;
  const encoded = encodeURIComponent(name.toWellFormed()).replace(/['()*]/g, (c) => `%${c.charCodeAt(0).toString(16)}`);
  return `inline; filename*=utf-8''${encoded}`;
}

async function sendPart(file: OpenFile, range: ByteRange, res: ServerResponse, signal: AbortSignal): Promise<void> {
  const length = range.end - range.start + 1;
  const whole = Math.max(file.entry.size, range.end + 1);
  res.writeHead(206, {
    // A part shows nothing of the file's first bytes: the name decides, and a NUL byte for a head means binary.
    'Content-Type': contentTypeOf(file.entry.name, new Uint8Array(1)),
    'Content-Range': `bytes ${range.start}-${range.end}/${whole}`,
    'Content-Length': length,
  });
  await pipeline(Readable.from(exactly(file.body[Symbol.asyncIterator](), length), { objectMode: false }), res, {
    signal,
  });
}

async function sendWhole(
  file: OpenFile,
  encoding: 'identity' | 'gzip',
  res: ServerResponse,
  signal: AbortSignal,
): Promise<void> {
  const source = file.body[Symbol.asyncIterator]();
  const head = await readHead(source);
  res.setHeader('Content-Type', contentTypeOf(file.entry.name, head));
  if (head.byteLength === 0) {
    res.setHeader('Content-Length', 0);
    res.writeHead(200);
    res.end();
    return;
  }
  // Files of the kernel say size 0 and have content: those go out without a length.
  const { size } = file.entry;
  const bytes = size > 0 ? exactly(source, size, head) : everything(source, head);
  const body = Readable.from(bytes, { objectMode: false });
  if (encoding === 'gzip') {
    res.writeHead(200, { 'Content-Encoding': 'gzip' });
    await pipeline(body, createGzip({ level: constants.Z_BEST_SPEED }), res, { signal });
    return;
  }
  res.writeHead(200, size > 0 ? { 'Content-Length': size } : {});
  await pipeline(body, res, { signal });
}

async function readHead(source: AsyncIterator<Uint8Array>): Promise<Uint8Array> {
  const chunks: Uint8Array[] = [];
  let bytes = 0;
  while (bytes < SNIFF_BYTES) {
    const { done, value } = await source.next();
    if (done) break;
    chunks.push(value);
    bytes += value.byteLength;
  }
  return chunks.length === 1 ? chunks[0]! : Buffer.concat(chunks);
}

async function* everything(source: AsyncIterator<Uint8Array>, head: Uint8Array): AsyncGenerator<Uint8Array> {
  yield head;
  for (;;) {
    const { done, value } = await source.next();
    if (done) return;
    yield value;
  }
}

/** The promised number of bytes: what a growing file has more is left out, and a file that shrank breaks the reply off. */
async function* exactly(
  source: AsyncIterator<Uint8Array>,
  length: number,
  head?: Uint8Array,
): AsyncGenerator<Uint8Array> {
  let left = length;
  const cut = (chunk: Uint8Array): Uint8Array => {
    const piece = chunk.byteLength > left ? chunk.subarray(0, left) : chunk;
    left -= piece.byteLength;
    return piece;
  };
  if (head && head.byteLength > 0) yield cut(head);
  while (left > 0) {
    const { done, value } = await source.next();
    if (done) throw new HttpFailure(503, 'the file became shorter while it was read');
    if (value.byteLength > 0) yield cut(value);
  }
}
