/**
 * The content API over HTTP, behind the edge: `<volumeID>/<kind>` in a header, the rest as the client sent it. Bodies stream
 * both ways. An error is JSON whose `code` is a word here, not a number: so says E2B's contract of this API alone.
 */
import type { IncomingMessage, ServerResponse } from 'node:http';
import { pipeline } from 'node:stream/promises';
import { z } from 'zod';
import { CoppiceError, isCoppiceError } from '../contract/errors.ts';
import { linger } from '../contract/traffic/answers.ts';
import type { Log } from '../telemetry/log.ts';
import { VolumeContent } from './content.ts';

export interface ContentServerOptions {
  /**
   * The root folder of a volume whose token this is, for `release` to give back. unauthorized: it is another's token;
   * volume_not_found.
   */
  readonly open: (volumeID: string, token: string) => Promise<{ readonly root: number; readonly release: () => void }>;
  readonly log: Log;
}

/** Exchanges at once; each may hold a file. */
const AT_ONCE = 128;
/** Of silence. */
const IDLE_MS = 60_000;
const MOST_JSON_BYTES = 4096;
const DEEPEST_LIST = 64;

const id = z.coerce.number().int().min(0).max(0xffff_fffe);
const mode = z.coerce.number().int().min(0).max(0o7777);
const flag = z.enum(['true', 'false', '1', '0']).transform((text) => text === 'true' || text === '1');
const metadata = z.strictObject({ uid: id.optional(), gid: id.optional(), mode: mode.optional() });
const pathQuery = z.strictObject({ path: z.string() });
const listQuery = pathQuery.extend({ depth: z.coerce.number().int().min(1).max(DEEPEST_LIST).default(1) });
const makeQuery = pathQuery.extend({ ...metadata.shape, force: flag.optional() });

interface Exchange {
  readonly content: VolumeContent;
  readonly query: Readonly<Record<string, string>>;
  readonly req: IncomingMessage;
  readonly res: ServerResponse;
}

/** By method and kind. */
const VERBS: Readonly<Record<string, (exchange: Exchange) => Promise<void>>> = {
  'GET path': async ({ content, query, res }) => answer(res, 200, await content.stat(demand(pathQuery, query).path)),
  'PATCH path': async ({ content, query, req, res }) => {
    const { path } = demand(pathQuery, query);
    answer(res, 200, await content.change(path, demand(metadata, await readJson(req))));
  },
  'DELETE path': async ({ content, query, res }) => {
    await content.remove(demand(pathQuery, query).path);
    res.writeHead(204).end();
  },
  'GET dir': async ({ content, query, res }) => {
    const { path, depth } = demand(listQuery, query);
    answer(res, 200, await content.list(path, depth));
  },
  'POST dir': async ({ content, query, res }) => {
    const { path, force = false, ...wish } = demand(makeQuery, query);
    answer(res, 201, await content.makeFolder(path, wish, force));
  },
  'GET file': async ({ content, query, res }) => {
    const { file, size } = await content.read(demand(pathQuery, query).path);
    res.writeHead(200, { 'content-type': 'application/octet-stream', 'content-length': size });
    // No more than was announced, also of a file that grows.
    const end = size - 1;
    if (size === 0) {
      await file.close();
      res.end();
    } else await pipeline(file.createReadStream({ start: 0, end, highWaterMark: 256 * 1024 }), res);
  },
  'PUT file': async ({ content, query, req, res }) => {
    const { path, force = true, ...wish } = demand(makeQuery, query);
    answer(res, 201, await content.write(path, wish, lively(req), force));
  },
};
const KINDS = new Set(['path', 'dir', 'file']);

/** `what`: as of TRAFFIC_VOLUME_HEADER. Answers; never rejects. */
export type ContentServer = (what: string, req: IncomingMessage, res: ServerResponse) => Promise<void>;

export function createContentServer({ open, log }: ContentServerOptions): ContentServer {
  let active = 0;
  const serve = async (what: string, req: IncomingMessage, res: ServerResponse): Promise<void> => {
    const [volumeID = '', kind = ''] = what.split('/');
    const token = /^Bearer +(\S+)$/i.exec(req.headers.authorization ?? '')?.[1] ?? '';
    const { root, release } = await open(volumeID, token);
    try {
      const act = VERBS[`${req.method} ${kind}`];
      if (!KINDS.has(kind)) throw new CoppiceError('route_not_found', 'route not found');
      if (!act) throw new CoppiceError('method_not_allowed', `method ${req.method} is not allowed here`);
      await act({ content: new VolumeContent(root), query: queryOf(req), req, res });
    } finally {
      release();
    }
  };
  return async (what, req, res) => {
    if (active >= AT_ONCE)
      return fail(req, res, new CoppiceError('unavailable', 'too many requests at once; try again'));
    active++;
    try {
      await serve(what, req, res);
    } catch (error) {
      const known = isCoppiceError(error) ? error : new CoppiceError('internal', 'internal error', { cause: error });
      // A client that went away is no failure of ours.
      if (known.code === 'internal' && !req.destroyed) log.warn({ error }, 'a request for a volume failed');
      fail(req, res, known);
    } finally {
      active--;
    }
  };
}

/** The body, broken off when it stands still. */
async function* lively(req: IncomingMessage): AsyncGenerator<Buffer> {
  const timer = setTimeout(() => req.destroy(new CoppiceError('aborted', 'the upload stood still')), IDLE_MS);
  try {
    for await (const chunk of req) {
      timer.refresh();
      yield chunk as Buffer;
    }
  } finally {
    clearTimeout(timer);
  }
}

/** Every member once. */
function queryOf(req: IncomingMessage): Readonly<Record<string, string>> {
  const query: Record<string, string> = {};
  for (const [name, value] of new URLSearchParams((req.url ?? '').split('?')[1] ?? '')) {
    if (Object.hasOwn(query, name)) throw new CoppiceError('bad_request', `${name}: given several times`);
    query[name] = value;
  }
  return query;
}

function demand<T>(schema: z.ZodType<T>, value: unknown): T {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const [issue] = result.error.issues;
  throw new CoppiceError('bad_request', `${issue?.path.join('.') || 'request'}: ${issue?.message ?? 'invalid'}`);
}

async function readJson(req: IncomingMessage): Promise<unknown> {
  let bytes = Buffer.alloc(0);
  for await (const chunk of req) {
    bytes = Buffer.concat([bytes, chunk as Buffer]);
    if (bytes.length > MOST_JSON_BYTES) throw new CoppiceError('payload_too_large', 'the body is too large');
  }
  try {
    return bytes.length === 0 ? {} : JSON.parse(bytes.toString());
  } catch (error) {
    throw new CoppiceError('bad_request', `malformed JSON: ${(error as Error).message}`, { cause: error });
  }
}

function answer(res: ServerResponse, status: number, body: unknown): void {
  const text = JSON.stringify(body);
  res
    .writeHead(status, {
      'content-type': 'application/json; charset=utf-8',
      'content-length': Buffer.byteLength(text),
    })
    .end(text);
}

function fail(req: IncomingMessage, res: ServerResponse, error: CoppiceError): void {
  if (res.headersSent) {
    res.destroy();
    return;
  }
  answer(res, error.status, { code: error.code, message: error.message });
  linger(req);
}
