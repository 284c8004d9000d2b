/** Images on this host: a folder in OCI's image layout (`index.json`, `blobs/sha256/`), named by the operator. */
import { constants } from 'node:fs';
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { CoppiceError } from '../../contract/errors.ts';
import { collect, type Descriptor, hexOf, parseDigest } from './digest.ts';
import { type ImageSource, LOCAL_SCOPE } from './image-source.ts';
import { DOCUMENT_BYTES, parseJson } from './manifest.ts';

/** Names of an image in a layout's index: OCI's own, and containerd's whole one. */
const NAMES = ['org.opencontainers.image.ref.name', 'io.containerd.image.name'];
const MOST_MANIFESTS = 1_024;

/** `tag`: which image, where the layout holds several. */
export function layoutSource(folder: string, tag?: string): ImageSource {
  const blob = ({ digest }: Pick<Descriptor, 'digest'>) => readPlain(join(folder, 'blobs', 'sha256', hexOf(digest)));
  return {
    name: folder,
    scope: LOCAL_SCOPE,
    close: () => {},
    open: async (part) => blob(part),
    async head() {
      const index = await collect(readPlain(join(folder, 'index.json')), DOCUMENT_BYTES, 'index.json');
      const digest = pickFromLayout(index, tag);
      return digest === undefined ? index : collect(blob({ digest }), DOCUMENT_BYTES, `the manifest of ${folder}`);
    },
  };
}

/**
 * Digest of the manifest or index in a layout's index.json that is meant. undefined: the index itself, whose manifests are
 * one image for several platforms. None, or several and no `tag` to choose by: bad_request.
 */
export function pickFromLayout(bytes: Uint8Array, tag: string | undefined): string | undefined {
  const { manifests } = parseJson(bytes, 'index.json');
  const all = Array.isArray(manifests) ? manifests.slice(0, MOST_MANIFESTS).filter(isRecord) : [];
  const namesOf = ({ annotations }: Record<string, unknown>) =>
    isRecord(annotations)
      ? NAMES.flatMap((key) => (typeof annotations[key] === 'string' ? [annotations[key]] : []))
      : [];
  const meant = tag === undefined ? all : all.filter((one) => namesOf(one).includes(tag));
  if (meant.length === 1) return parseDigest(meant[0]!.digest);
  if (tag === undefined && meant.length > 1 && meant.every(({ platform }) => isRecord(platform))) return undefined;
  const names = all.flatMap(namesOf).slice(0, 20);
  throw new CoppiceError(
    'bad_request',
    `the layout holds ${meant.length} images${tag === undefined ? '' : ` named '${tag}'`}; it names ${names.join(', ') || 'none'}`,
  );
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** Of a plain file, which no link leads to. Missing or another thing: bad_request. */
export async function* readPlain(path: string): AsyncGenerator<Uint8Array> {
  const handle = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK).catch((cause) => {
    throw new CoppiceError('bad_request', `${path} cannot be read: ${(cause as Error).message}`, { cause });
  });
  try {
    if (!(await handle.stat()).isFile()) throw new CoppiceError('bad_request', `${path} is no file`);
    yield* handle.createReadStream({ autoClose: false });
  } finally {
    await handle.close();
  }
}
