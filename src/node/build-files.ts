/**
 * Archives that builds copy from, as clients upload them: of each template its own, by the hash that the client has computed.
 * Whoever has a ticket may upload one file for a while, without a key: E2B's clients send none there.
 *
 *     <folder>/<templateID>/<hash>.tar
 */
import { createHmac, randomUUID, timingSafeEqual } from 'node:crypto';
import { createWriteStream } from 'node:fs';
import { mkdir, open, readdir, rename, rm, stat, statfs } from 'node:fs/promises';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { CoppiceError, isCoppiceError } from '../contract/errors.ts';
import { refuse } from '../contract/traffic/answers.ts';
import type { Log } from '../telemetry/log.ts';

export interface BuildFilesOptions {
  /** Exists. */
  readonly folder: string;
  /** What tickets are made with. */
  readonly seed: Buffer;
  /** Bytes of one archive, and of all of one template. */
  readonly most?: { readonly file: number; readonly template: number };
  readonly log: Log;
}

const TEMPLATE_ID = /^[a-z0-9]{20}$/;
const HASH = /^[0-9a-f]{64}$/;
const TICKET = /^(\d{1,12})-([0-9a-f]{64})$/;
const VALID_SECONDS = 3_600;
const MOST = { file: 4 * 2 ** 30, template: 32 * 2 ** 30 } as const;
/** No upload leaves less than this on the disk: the node's own database is there too. */
const LEAST_FREE_BYTES = 1024 * 2 ** 20;
const AT_ONCE = 16;
/** Of silence. */
const IDLE_MS = 60_000;

export class BuildFiles {
  readonly #options: BuildFilesOptions;
  #active = 0;

  constructor(options: BuildFilesOptions) {
    this.#options = options;
  }

  /** bad_request: no archive goes by that. */
  path(templateID: string, hash: string): string {
    if (!TEMPLATE_ID.test(templateID)) throw new CoppiceError('bad_request', 'invalid template id');
    if (!HASH.test(hash)) throw new CoppiceError('bad_request', 'invalid files hash: it must be 64 hex digits');
    return join(this.#options.folder, templateID, `${hash}.tar`);
  }

  /** Its size; undefined: it is not there. */
  async size(templateID: string, hash: string): Promise<number | undefined> {
    const found = await stat(this.path(templateID, hash)).catch(() => undefined);
    return found?.size;
  }

  ticket(templateID: string, hash: string): string {
    this.path(templateID, hash);
    const until = Math.floor(Date.now() / 1000) + VALID_SECONDS;
    return `${until}-${this.#sign(templateID, hash, until)}`;
  }

  #sign(templateID: string, hash: string, until: number): string {
    return createHmac('sha256', this.#options.seed).update(`upload:${templateID}:${hash}:${until}`).digest('hex');
  }

  /** `what`: as of TRAFFIC_UPLOAD_HEADER. Answers; a body that is not wanted is not read. */
  async receive(what: string, req: IncomingMessage, res: ServerResponse): Promise<void> {
    try {
      const [templateID = '', hash = '', ticket = ''] = what.split('/');
      await this.#receive(templateID, hash, ticket, req);
      res.writeHead(200, { 'content-length': 0 }).end();
    } catch (error) {
      const failure = isCoppiceError(error)
        ? error
        : new CoppiceError('internal', 'the upload failed', { cause: error });
      if (failure.status >= 500) this.#options.log.warn({ error }, 'an upload failed');
      refuse(res, { status: failure.status, message: failure.message });
    }
  }

  async #receive(templateID: string, hash: string, ticket: string, req: IncomingMessage): Promise<void> {
    const { folder, most = MOST } = this.#options;
    const path = this.path(templateID, hash);
    this.#demandTicket(templateID, hash, ticket);
    if (req.method !== 'PUT') throw new CoppiceError('method_not_allowed', 'archives are uploaded by PUT');
    const length = req.headers['content-length'];
    if (length === undefined || req.headers['transfer-encoding'] !== undefined)
      throw new CoppiceError('bad_request', 'the upload needs a Content-Length');
    const bytes = Number(length);
    const tooLarge = (limit: number, what: string) =>
      new CoppiceError('payload_too_large', `${what} may have ${limit / 2 ** 20} MiB`);
    if (!(bytes <= most.file)) throw tooLarge(most.file, 'an archive');
    if (bytes + (await bytesIn(join(folder, templateID))) > most.template)
      throw tooLarge(most.template, 'all archives of a template');
    const { bavail, bsize } = await statfs(folder);
    if (bavail * bsize - bytes < LEAST_FREE_BYTES)
      throw new CoppiceError('capacity', 'the disk of this host has no room for the archive');
    if (this.#active >= AT_ONCE) throw new CoppiceError('too_many_builds', 'too many uploads at once; try again');
    this.#active++;
    try {
      await this.#write(path, bytes, req);
    } finally {
      this.#active--;
    }
  }

  #demandTicket(templateID: string, hash: string, ticket: string): void {
    const [, until = '', signature = ''] = TICKET.exec(ticket) ?? [];
    const expected = Buffer.from(this.#sign(templateID, hash, Number(until)));
    const given = Buffer.from(signature);
    if (given.length !== expected.length || !timingSafeEqual(given, expected))
      throw new CoppiceError('forbidden', 'the signature of the upload URL is wrong');
    if (Number(until) * 1000 < Date.now()) throw new CoppiceError('forbidden', 'the upload URL has expired');
  }

  /** Appears whole, by one rename; what breaks off is gone. */
  async #write(path: string, bytes: number, req: IncomingMessage): Promise<void> {
    const folder = join(path, '..');
    const partial = join(folder, `.${randomUUID()}.part`);
    await mkdir(folder, { recursive: true, mode: 0o700 });
    const idle = new AbortController();
    const timer = setTimeout(() => idle.abort(), IDLE_MS);
    req.on('data', () => timer.refresh());
    try {
      await pipeline(req, createWriteStream(partial, { flags: 'wx', mode: 0o600 }), { signal: idle.signal });
      const { size } = await stat(partial);
      if (size !== bytes) throw new CoppiceError('bad_request', `the upload ended after ${size} of ${bytes} bytes`);
      await rename(partial, path);
    } catch (error) {
      await rm(partial, { force: true });
      if (idle.signal.aborted) throw new CoppiceError('aborted', 'the upload stood still', { cause: error });
      throw error;
    } finally {
      clearTimeout(timer);
    }
  }

  /** The bytes of an archive. bad_request: it was not uploaded. */
  async *read(templateID: string, hash: string): AsyncGenerator<Uint8Array> {
    const file = await open(this.path(templateID, hash), 'r').catch((cause: unknown) => {
      throw new CoppiceError('bad_request', `the files of hash ${hash} were not uploaded`, { cause });
    });
    yield* file.createReadStream({ highWaterMark: 256 * 1024 });
  }

  /** What broke off goes, and what is of no template. */
  async tidy(isTemplate: (templateID: string) => boolean): Promise<void> {
    const { folder } = this.#options;
    for (const name of await readdir(folder))
      if (!isTemplate(name)) await rm(join(folder, name), { recursive: true, force: true });
  }

  /** Nothing is being uploaded yet. */
  async atStart(): Promise<void> {
    const { folder } = this.#options;
    for (const name of await readdir(folder))
      for (const file of await readdir(join(folder, name)).catch(() => [] as string[]))
        if (file.endsWith('.part')) await rm(join(folder, name, file), { force: true });
  }
}

async function bytesIn(folder: string): Promise<number> {
  let bytes = 0;
  for (const name of await readdir(folder).catch(() => [] as string[]))
    bytes += (await stat(join(folder, name)).catch(() => ({ size: 0 }))).size;
  return bytes;
}
