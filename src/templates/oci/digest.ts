/** Content addresses of images, and streams that are what their address says. */
import { createHash } from 'node:crypto';
import { CoppiceError } from '../../contract/errors.ts';

/** What a registry promises of a blob: its address and its exact length in bytes. */
export interface Descriptor {
  readonly mediaType: string;
  /** `sha256:` and 64 hex digits. */
  readonly digest: string;
  readonly size: number;
}

const SHA256 = /^sha256:[0-9a-f]{64}$/;

/** The text, when it is an address that is understood. Anything else: bad_request. */
export function parseDigest(text: unknown): string {
  if (typeof text === 'string' && SHA256.test(text)) return text;
  const shown = JSON.stringify(text)?.slice(0, 100);
  throw new CoppiceError('bad_request', `${shown} is no digest that Coppice reads: sha256 and 64 hex digits`);
}

export function digestOf(bytes: Uint8Array): string {
  return `sha256:${createHash('sha256').update(bytes).digest('hex')}`;
}

/** The hex digits alone: a file name. */
export function hexOf(digest: string): string {
  return digest.slice('sha256:'.length);
}

/** Passes the chunks on. One byte too many, too few, or other bytes than promised: bad_request, before the last is used. */
export async function* verified(
  source: AsyncIterable<Uint8Array>,
  { digest, size }: Pick<Descriptor, 'digest' | 'size'>,
): AsyncGenerator<Uint8Array> {
  const hash = createHash('sha256');
  let seen = 0;
  for await (const chunk of source) {
    seen += chunk.length;
    if (seen > size) throw new CoppiceError('bad_request', `${digest} is longer than the ${size} bytes it should have`);
    hash.update(chunk);
    yield chunk;
  }
  if (seen < size) throw new CoppiceError('bad_request', `${digest} ended after ${seen} of ${size} bytes`);
  const got = `sha256:${hash.digest('hex')}`;
  if (got !== digest) throw new CoppiceError('bad_request', `the bytes of ${digest} are those of ${got}`);
}

/** All of a stream. More than `limit` bytes: bad_request, naming `what`. */
export async function collect(source: AsyncIterable<Uint8Array>, limit: number, what: string): Promise<Buffer> {
  const chunks: Uint8Array[] = [];
  let bytes = 0;
  for await (const chunk of source) {
    bytes += chunk.length;
    if (bytes > limit) throw new CoppiceError('bad_request', `${what} is longer than ${limit} bytes`);
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
}
