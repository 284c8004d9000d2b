/**
 * Images in one file, named by the operator: a tar of OCI's layout, or what `docker save` writes, packed or not. It is read
 * once, in whatever order it is; its parts go to the blob store and are taken from there.
 */
import { posix } from 'node:path';
import { z } from 'zod';
import { CoppiceError } from '../../contract/errors.ts';
import type { BlobStore } from './blob-store.ts';
import { decompressed } from './decompress.ts';
import { collect, type Descriptor } from './digest.ts';
import { type ImageSource, LOCAL_SCOPE } from './image-source.ts';
import { pickFromLayout, readPlain } from './layout.ts';
import { DOCUMENT_BYTES, MEDIA_TYPES } from './manifest.ts';
import { readTar } from './tar-reader.ts';

export interface ArchiveOptions {
  /** Which image, where the archive holds several: a name as the archive has it. */
  readonly tag?: string;
  readonly signal?: AbortSignal;
  /** Bytes of all its parts. */
  readonly limit?: number;
}

const LIMIT = 16 * 2 ** 30;
const MOST_PARTS = 8_192;
const BLOB = /^blobs\/sha256\/([0-9a-f]{64})$/;
const DOCUMENTS = ['index.json', 'manifest.json'];
const name = z.string().min(1).max(4_096);
const saved = z.array(
  z.object({ Config: name, RepoTags: z.array(name).max(1_024).nullish(), Layers: z.array(name).max(256) }),
);

interface Parts {
  readonly documents: ReadonlyMap<string, Buffer>;
  readonly blobs: ReadonlyMap<string, Part>;
  readonly links: ReadonlyMap<string, string>;
}

type Part = Pick<Descriptor, 'digest' | 'size'> & { readonly path: string };

/** `store`: of LOCAL_SCOPE. Errors: bad_request (it is no image, is damaged or too large), aborted. */
export async function archiveSource(
  file: string,
  store: BlobStore,
  options: ArchiveOptions = {},
): Promise<ImageSource> {
  const parts = await readParts(file, store, options);
  const byDigest = new Map([...parts.blobs.values()].map((part) => [part.digest, part]));
  const open = async ({ digest }: Pick<Descriptor, 'digest'>) => {
    const part = byDigest.get(digest);
    if (part === undefined) throw new CoppiceError('bad_request', `${file} lacks a part of the image, ${digest}`);
    return readPlain(part.path);
  };
  const index = parts.documents.get('index.json');
  const list = parts.documents.get('manifest.json');
  const read = async (): Promise<Buffer> => {
    if (index !== undefined) {
      const digest = pickFromLayout(index, options.tag);
      return digest === undefined ? index : collect(await open({ digest }), DOCUMENT_BYTES, `the manifest of ${file}`);
    }
    if (list === undefined)
      throw new CoppiceError('bad_request', `${file} holds no image: no index.json, no manifest.json`);
    return manifestOfSaved(list, parts, options.tag);
  };
  return { name: file, scope: LOCAL_SCOPE, head: read, open, close: () => {} };
}

async function readParts(file: string, store: BlobStore, { signal, limit = LIMIT }: ArchiveOptions): Promise<Parts> {
  const documents = new Map<string, Buffer>();
  const blobs = new Map<string, Part>();
  const links = new Map<string, string>();
  let left = limit;
  let count = 0;
  for await (const { path: raw, type, target, size, body } of readTar(decompressed(readPlain(file)))) {
    const path = posix.normalize(raw);
    left -= size;
    if (left < 0 || ++count > MOST_PARTS) throw new CoppiceError('bad_request', `${file} is larger than an image is`);
    // A layer that two images share is there once.
    if (type === 'symlink') links.set(path, posix.join(posix.dirname(path), target));
    else if (type === 'hardlink') links.set(path, posix.normalize(target));
    if (type !== 'file') continue;
    const [, hex] = BLOB.exec(path) ?? [];
    if (DOCUMENTS.includes(path)) documents.set(path, await collect(body, DOCUMENT_BYTES, path));
    else if (hex !== undefined) {
      const blob = { digest: `sha256:${hex}`, size };
      blobs.set(path, { ...blob, path: await store.obtain(blob, async () => body, { signal }) });
    } else blobs.set(path, await store.adopt(body, left + size, signal));
  }
  return { documents, blobs, links };
}

/** The manifest that says what `docker save` says in a list of its own. */
function manifestOfSaved(list: Buffer, { blobs, links }: Parts, tag: string | undefined): Buffer {
  const part = (path: string, mediaType: string): Descriptor => {
    const found = blobs.get(posix.normalize(path)) ?? blobs.get(links.get(posix.normalize(path)) ?? '');
    if (found === undefined) throw new CoppiceError('bad_request', `the archive lacks '${path.slice(0, 200)}'`);
    return { mediaType, digest: found.digest, size: found.size };
  };
  const parsed = saved.safeParse(parseList(list));
  if (!parsed.success) throw new CoppiceError('bad_request', 'manifest.json of the archive is malformed');
  const meant = parsed.data.filter(({ RepoTags }) => tag === undefined || RepoTags?.includes(tag));
  const [image] = meant;
  if (image === undefined || meant.length > 1) {
    const names = parsed.data.flatMap(({ RepoTags }) => RepoTags ?? []).slice(0, 20);
    throw new CoppiceError(
      'bad_request',
      `the archive holds ${meant.length} such images; it names ${names.join(', ')}`,
    );
  }
  return Buffer.from(
    JSON.stringify({
      schemaVersion: 2,
      mediaType: MEDIA_TYPES.manifest[0],
      config: part(image.Config, 'application/vnd.oci.image.config.v1+json'),
      layers: image.Layers.map((path) => part(path, 'application/vnd.oci.image.layer.v1.tar')),
    }),
  );
}

function parseList(bytes: Buffer): unknown {
  try {
    return JSON.parse(bytes.toString('utf8'));
  } catch {
    return undefined;
  }
}
