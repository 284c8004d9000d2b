/** OCI's image layout (`index.json`, `blobs/sha256/`): which image is meant, and its files. */
import { constants } from 'node:fs';
import { open } from 'node:fs/promises';
import { CoppiceError } from '../../contract/errors.ts';
import { parseDigest } from './digest.ts';
import { parseJson } from './manifest.ts';

/** Names of an image in a layout's index: OCI's own, and containerd's whole one. */
const NAMES = ['org.opencontainers.image.ref.name', 'io.containerd.image.name'];
const MOST_MANIFESTS = 1_024;

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
