/** POST /files: files into the sandbox, as multipart parts named `file` or as one raw body, streamed. */
import type { IncomingMessage, ServerResponse } from 'node:http';
import { posix } from 'node:path';
import { Readable } from 'node:stream';
import { createGunzip } from 'node:zlib';
import busboy from 'busboy';
import type { AgentClient } from '../channel/agent.ts';
import type { FileEntry } from '../channel/protocol.ts';
import { writtenFile } from './entry-info.ts';
import { HttpFailure } from './failures.ts';
import { fileMetadata } from './file-metadata.ts';
import { filePath, fileUser } from './file-query.ts';
import { replyJSON } from './reply.ts';
import type { EnvdSandbox } from './sandbox.ts';

export interface UploadLimits {
  /** ms without a byte from the client before the upload is given up (408). */
  readonly idleMs: number;
  /** Bytes that one gzip body may grow to (413); memory is constant whatever it is. */
  readonly decodedBytes: number;
  /** Files in one multipart body (400). */
  readonly files: number;
}

const UPLOAD_LIMITS: UploadLimits = { idleMs: 60_000, decodedBytes: 64 * 1024 ** 3, files: 10_000 };

/** Parts written at once: one network chunk may hold hundreds of small ones, and each takes a stream of the channel. */
const PARALLEL_WRITES = 8;
/** Bytes of a part that has no file name and is therefore taken whole. */
const MAX_FIELD = 4 * 1024 * 1024;

interface Upload {
  readonly agent: AgentClient;
  readonly user: string;
  /** Empty: each part's file name is its path. */
  readonly path: string;
  readonly metadata: Readonly<Record<string, string>>;
  readonly limits: UploadLimits;
  readonly signal: AbortSignal;
}

/** Replies 200 with what was written. Rejects with AgentError or HttpFailure; files written before the failure stay. */
export async function serveUpload(
  sandbox: EnvdSandbox,
  req: IncomingMessage,
  res: ServerResponse,
  query: URLSearchParams,
  signal: AbortSignal,
  limits: UploadLimits = UPLOAD_LIMITS,
): Promise<void> {
  const path = filePath(query.get('path') ?? '');
  const user = fileUser(sandbox, query);
  const metadata = fileMetadata(req.headers);
  const type = (req.headers['content-type'] ?? '').split(';', 1)[0]!.trim().toLowerCase();
  if (type !== 'application/octet-stream' && type !== 'multipart/form-data') {
    throw new HttpFailure(400, 'Content-Type must be multipart/form-data or application/octet-stream');
  }
  if (type === 'application/octet-stream' && path === '')
    throw new HttpFailure(400, 'the query parameter path is missing');
  const body = decoded(req, limits);
  const upload: Upload = { agent: await sandbox.agent(), user, path, metadata, limits, signal };
  const entries =
    type === 'multipart/form-data'
      ? await writeParts(upload, req, body)
      : [await upload.agent.write(path, body, { user, metadata, signal })];
  replyJSON(res, 200, entries.map(writtenFile));
}

/** The body as it was before Content-Encoding. Throws HttpFailure at once for an encoding that is not known. */
function decoded(req: IncomingMessage, limits: UploadLimits): AsyncIterable<Uint8Array> {
  const encoding = (req.headers['content-encoding'] ?? 'identity').trim().toLowerCase();
  const raw = received(req, limits.idleMs);
  if (encoding === 'identity' || encoding === '') return raw;
  if (encoding === 'gzip' || encoding === 'x-gzip') return gunzipped(raw, limits.decodedBytes);
  throw new HttpFailure(400, `Content-Encoding '${encoding.slice(0, 64)}' is not supported, use gzip`);
}

/** The bytes as they come; stopping early leaves the connection alone, so that a reply can still be sent on it. */
async function* received(req: IncomingMessage, idleMs: number): AsyncGenerator<Uint8Array> {
  const source = req.iterator({ destroyOnReturn: false }) as AsyncIterableIterator<Uint8Array>;
  try {
    for (;;) {
      const next = source.next();
      const { promise, reject } = Promise.withResolvers<never>();
      const timer = setTimeout(() => reject(new HttpFailure(408, `no data for ${idleMs / 1_000} s`)), idleMs);
      const { done, value } = await Promise.race([next, promise]).finally(() => clearTimeout(timer));
      if (done) return;
      yield value;
    }
  } catch (error) {
    if (error instanceof HttpFailure) throw error;
    throw new HttpFailure(400, 'the upload was cut off', { cause: error });
  } finally {
    // Not awaited: while a read is pending this settles only with the next byte or the end of the connection.
    void source.return?.()?.then(undefined, () => {});
  }
}

async function* gunzipped(raw: AsyncIterable<Uint8Array>, limit: number): AsyncGenerator<Uint8Array> {
  const gunzip = createGunzip();
  const source = Readable.from(raw, { objectMode: false });
  source.on('error', (error) => gunzip.destroy(error));
  source.pipe(gunzip);
  let bytes = 0;
  try {
    for await (const chunk of gunzip as AsyncIterable<Buffer>) {
      bytes += chunk.byteLength;
      if (bytes > limit) throw new HttpFailure(413, `the body decodes to more than ${limit} bytes`);
      yield chunk;
    }
  } catch (error) {
    const broken = error instanceof Error && 'code' in error && String(error.code).startsWith('Z_');
    throw broken ? new HttpFailure(400, 'the body is not valid gzip', { cause: error }) : error;
  } finally {
    source.unpipe(gunzip);
    source.destroy();
    gunzip.destroy();
  }
}

async function writeParts(
  upload: Upload,
  req: IncomingMessage,
  body: AsyncIterable<Uint8Array>,
): Promise<readonly FileEntry[]> {
  const parser = openParser(req, upload.limits);
  const named = new Set<string>();
  const written = new Set<string>();
  const writes: Promise<FileEntry>[] = [];
  const failed = Promise.withResolvers<never>();
  failed.promise.catch(() => {});

  const write = async (path: string, content: AsyncIterable<Uint8Array>): Promise<FileEntry> => {
    const { user, metadata, signal } = upload;
    const entry = await upload.agent.write(path, content, { user, metadata, signal });
    // Two names of one file (`a`, `./a`, its absolute path) show only here, where the agent has resolved them.
    if (written.has(entry.path)) throw new HttpFailure(400, `path '${entry.path}' was uploaded twice`);
    written.add(entry.path);
    return entry;
  };
  /** The next part begins after this one's bytes were read; its reply may still be on the way. */
  const accept = (filename: string | undefined, content: AsyncIterable<Uint8Array>): void => {
    try {
      const path = filePath(upload.path !== '' ? upload.path : (filename ?? ''));
      if (path === '') throw new HttpFailure(400, 'a file without a name, and no path in the query');
      const key = posix.normalize(path);
      if (named.has(key)) throw new HttpFailure(400, `path '${path}' was uploaded twice`);
      named.add(key);
      const before = writes.at(-PARALLEL_WRITES);
      const writing = before ? before.then(() => write(path, content)) : write(path, content);
      writing.catch(failed.reject);
      writes.push(writing);
    } catch (error) {
      failed.reject(error);
    }
  };

  parser.on('file', (name, content, { filename }) => {
    // An error of the part reaches whoever reads it; one that nobody reads any more must not end the process.
    content.on('error', () => {});
    if (name === 'file') accept(filename, content);
    else content.resume();
  });
  parser.on('field', (name, value, { valueTruncated }) => {
    if (name !== 'file') return;
    if (valueTruncated) failed.reject(new HttpFailure(413, `a part without a file name may have ${MAX_FIELD} bytes`));
    else accept(undefined, Readable.from([Buffer.from(value, 'latin1')], { objectMode: false }));
  });
  parser.on('filesLimit', () => failed.reject(new HttpFailure(400, `more than ${upload.limits.files} files`)));

  const parsed = Promise.withResolvers<void>();
  parser.on('close', parsed.resolve);
  parser.on('error', (error: Error) => {
    parsed.reject(
      error instanceof HttpFailure ? error : new HttpFailure(400, `error parsing multipart form: ${error.message}`),
    );
  });
  const source = Readable.from(body, { objectMode: false });
  source.on('error', (error) => parser.destroy(error));
  source.pipe(parser);
  try {
    await Promise.race([parsed.promise, failed.promise]);
    return await Promise.race([Promise.all(writes), failed.promise]);
  } finally {
    parsed.promise.catch(() => {});
    source.unpipe(parser);
    source.destroy();
    parser.destroy();
  }
}

function openParser(req: IncomingMessage, limits: UploadLimits): busboy.Busboy {
  try {
    return busboy({
      headers: req.headers,
      preservePath: true,
      defParamCharset: 'utf8',
      // A part without a file name is text to the parser: latin1 keeps each byte as it is.
      defCharset: 'latin1',
      limits: { files: limits.files, fields: limits.files, fieldSize: MAX_FIELD, fieldNameSize: 256 },
    });
  } catch (error) {
    throw new HttpFailure(400, `error parsing multipart form: ${error instanceof Error ? error.message : error}`);
  }
}
