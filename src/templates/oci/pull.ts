/** From an image's name to its layers in the blob store. */
import { setTimeout as sleep } from 'node:timers/promises';
import { CoppiceError, isCoppiceError } from '../../contract/errors.ts';
import { throwIfAborted } from '../run.ts';
import type { BlobStore } from './blob-store.ts';
import { collect, type Descriptor, digestOf, verified } from './digest.ts';
import { type ImageConfig, parseImageConfig } from './image-config.ts';
import type { ImageSource } from './image-source.ts';
import type { LayerFile } from './layers.ts';
import {
  DOCUMENT_BYTES,
  hostPlatform,
  type ImageManifest,
  type Platform,
  parseManifest,
  pickManifest,
} from './manifest.ts';

export interface ResolvedImage {
  /** Of the manifest for this platform: names the image's content. */
  readonly digest: string;
  readonly config: ImageConfig;
  readonly layers: readonly (Descriptor & { readonly diffID: string })[];
  /** Bytes of all layers, packed. */
  readonly size: number;
}

export interface FetchOptions {
  readonly signal?: AbortSignal;
  /** For a person: which part, how far. */
  readonly onStage?: (stage: string) => void;
  /** Bytes of all layers, packed, at most. */
  readonly limit?: number;
}

/** An index may lead to another. */
const MOST_INDEXES = 3;
const LIMIT = 16 * 2 ** 30;
/** Layers fetched at the same time. */
const SIDE_BY_SIDE = 3;
const TRIES = 3;
const RETRY_MS = 1_000;

/** Errors: bad_request (there is no such image, or none that Coppice runs), unavailable, aborted. */
export async function resolveImage(
  source: ImageSource,
  options: { readonly platform?: Platform; readonly signal?: AbortSignal } = {},
): Promise<ResolvedImage> {
  const { platform = hostPlatform(), signal } = options;
  const document = async (part: Descriptor, kind: 'manifest' | 'blob') => {
    if (part.size > DOCUMENT_BYTES)
      throw new CoppiceError('bad_request', `${part.digest} of ${source.name} is longer than ${DOCUMENT_BYTES} bytes`);
    return patiently(signal, async () =>
      collect(verified(await source.open(part, kind, signal), part), DOCUMENT_BYTES, part.digest),
    );
  };
  let bytes = await patiently(signal, () => source.head(signal));
  let manifest = parseManifest(bytes);
  for (let depth = 0; manifest.kind === 'index'; depth++) {
    if (depth === MOST_INDEXES) throw new CoppiceError('bad_request', `the indexes of ${source.name} lead to no image`);
    bytes = await document(pickManifest(manifest, platform), 'manifest');
    manifest = parseManifest(bytes);
  }
  const { config, diffIDs } = parseImageConfig(await document(manifest.config, 'blob'), platform);
  return { digest: digestOf(bytes), config, ...layersOf(manifest, diffIDs) };
}

function layersOf({ layers }: ImageManifest, diffIDs: readonly string[]): Pick<ResolvedImage, 'layers' | 'size'> {
  if (layers.length !== diffIDs.length || layers.length === 0) {
    throw new CoppiceError(
      'bad_request',
      `the image has ${layers.length} layers, and its configuration knows ${diffIDs.length}`,
    );
  }
  const size = layers.reduce((sum, layer) => sum + layer.size, 0);
  return { layers: layers.map((layer, at) => ({ ...layer, diffID: diffIDs[at]! })), size };
}

/** Fetches what is not there. Errors as above. */
export async function fetchLayers(
  image: ResolvedImage,
  source: ImageSource,
  store: BlobStore,
  { signal, onStage, limit = LIMIT }: FetchOptions = {},
): Promise<readonly LayerFile[]> {
  if (image.size > limit)
    throw new CoppiceError(
      'bad_request',
      `${source.name} has layers of ${image.size} bytes; at most ${limit} are fetched`,
    );
  // One failure ends the others: nobody waits for parts of what cannot be used.
  const failure = new AbortController();
  const both = AbortSignal.any([failure.signal, ...(signal === undefined ? [] : [signal])]);
  const files: LayerFile[] = [];
  const come = new Map<string, number>();
  let shown = '';
  const show = () => {
    const bytes = [...come.values()].reduce((sum, part) => sum + part, 0);
    const stage = `downloading ${image.layers.length} layers, ${Math.floor((bytes / Math.max(image.size, 1)) * 100)} %`;
    if (stage !== shown) onStage?.(stage);
    shown = stage;
  };
  const left = [...image.layers.entries()];
  const fetchNext = async (): Promise<void> => {
    for (let next = left.shift(); next !== undefined; next = left.shift()) {
      const [at, layer] = next;
      const path = await patiently(both, () =>
        store.obtain(layer, () => source.open(layer, 'blob', both), {
          signal: both,
          onBytes: (bytes) => {
            come.set(layer.digest, bytes);
            show();
          },
        }),
      );
      come.set(layer.digest, layer.size);
      files[at] = { path, diffID: layer.diffID };
    }
  };
  const workers = Array.from({ length: SIDE_BY_SIDE }, async () => {
    try {
      await fetchNext();
    } catch (error) {
      failure.abort(error);
      throw error;
    }
  });
  const results = await Promise.allSettled(workers);
  throwIfAborted(signal);
  if (failure.signal.aborted) throw failure.signal.reason;
  const failed = results.find((result) => result.status === 'rejected');
  if (failed !== undefined) throw failed.reason;
  return files;
}

/** Tries again what the network may have spoilt. */
async function patiently<T>(signal: AbortSignal | undefined, work: () => Promise<T>): Promise<T> {
  for (let tried = 1; ; tried++) {
    try {
      return await work();
    } catch (error) {
      if (tried === TRIES || !isCoppiceError(error, 'unavailable')) throw error;
      await sleep(RETRY_MS * tried, undefined, { signal }).catch(() => {});
      throwIfAborted(signal);
    }
  }
}
