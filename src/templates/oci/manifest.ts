/**
 * Manifests and indexes of images, as registries and archives give them: OCI's and Docker's second schema. What is read
 * here is a stranger's; only what is named here is believed.
 */
import { z } from 'zod';
import { CoppiceError } from '../../contract/errors.ts';
import { type Descriptor, parseDigest } from './digest.ts';

export const MEDIA_TYPES = {
  index: ['application/vnd.oci.image.index.v1+json', 'application/vnd.docker.distribution.manifest.list.v2+json'],
  manifest: ['application/vnd.oci.image.manifest.v1+json', 'application/vnd.docker.distribution.manifest.v2+json'],
} as const;

/** Bytes of a manifest, an index or an image's configuration. */
export const DOCUMENT_BYTES = 4 * 1024 * 1024;
/** Docker stops at 127. */
const MOST_LAYERS = 256;
const MOST_MANIFESTS = 1_024;

/** A root filesystem's layer, with whatever compression; how it is compressed is seen in its bytes. */
const LAYER =
  /^application\/vnd\.(?:oci\.image\.layer(?:\.nondistributable)?\.v1\.tar|docker\.image\.rootfs\.(?:foreign\.)?diff\.tar)(?:[.+](?:gzip|zstd))?$/;

export interface Platform {
  readonly os: string;
  readonly architecture: string;
  readonly variant?: string;
}

export interface PlatformManifest extends Descriptor {
  readonly platform?: Platform;
}

export interface ImageIndex {
  readonly kind: 'index';
  readonly manifests: readonly PlatformManifest[];
}

export interface ImageManifest {
  readonly kind: 'manifest';
  readonly config: Descriptor;
  readonly layers: readonly Descriptor[];
}

const descriptor = z.object({
  mediaType: z.string().max(255),
  digest: z.string().max(200),
  size: z.number().int().nonnegative(),
});
const platform = z.object({
  os: z.string().max(64),
  architecture: z.string().max(64),
  variant: z.string().max(64).optional(),
});
const index = z.object({
  schemaVersion: z.literal(2),
  manifests: z.array(descriptor.extend({ platform: platform.optional() })).max(MOST_MANIFESTS),
});
const manifest = z.object({
  schemaVersion: z.literal(2),
  config: descriptor,
  layers: z.array(descriptor).max(MOST_LAYERS),
});

/** Bytes of a manifest or an index. Anything that is neither, or could be taken for both: bad_request. */
export function parseManifest(bytes: Uint8Array): ImageIndex | ImageManifest {
  const value = parseJson(bytes, 'the manifest of the image');
  if (value.schemaVersion === 1) throw bad("Docker's first manifest schema, which Coppice does not read");
  const isIndex = value.manifests !== undefined;
  if (isIndex === (value.layers !== undefined)) throw bad('neither an image nor an index of images');
  // One reader's index and another's image under the same digest.
  const types: readonly string[] = isIndex ? MEDIA_TYPES.index : MEDIA_TYPES.manifest;
  if (value.mediaType !== undefined && !types.includes(String(value.mediaType)))
    throw bad(`of type ${JSON.stringify(value.mediaType).slice(0, 100)}, which is not what it holds`);
  if (isIndex) {
    const { manifests } = demand(index, value);
    return { kind: 'index', manifests: manifests.map((one) => ({ ...one, digest: parseDigest(one.digest) })) };
  }
  const { config, layers } = demand(manifest, value);
  for (const { mediaType } of layers)
    if (!LAYER.test(mediaType))
      throw bad(`one with a layer of type '${mediaType.slice(0, 100)}'; it is no root filesystem`);
  const checked = (one: Descriptor): Descriptor => ({ ...one, digest: parseDigest(one.digest) });
  return { kind: 'manifest', config: checked(config), layers: layers.map(checked) };
}

/** The entry for that platform. There is none: bad_request with those that there are. */
export function pickManifest({ manifests }: ImageIndex, wanted: Platform): PlatformManifest {
  const fits = ({ platform }: PlatformManifest) =>
    platform?.os === wanted.os && platform.architecture === wanted.architecture;
  const candidates = manifests.filter(fits);
  const best = candidates.find(({ platform }) => platform?.variant === wanted.variant) ?? candidates[0];
  if (best !== undefined) return best;
  // An index of one image that says nothing of its platform; its configuration will.
  if (manifests.length === 1 && manifests[0]!.platform === undefined) return manifests[0]!;
  const offered = manifests.flatMap(({ platform }) => (platform ? [`${platform.os}/${platform.architecture}`] : []));
  const list = [...new Set(offered)].filter((name) => !name.startsWith('unknown/')).slice(0, 20);
  throw new CoppiceError(
    'bad_request',
    `the image is not made for ${wanted.os}/${wanted.architecture}; it is for ${list.join(', ') || 'nothing'}`,
  );
}

/** The platform of this host's sandboxes. */
export function hostPlatform(arch: string = process.arch): Platform {
  if (arch === 'arm64') return { os: 'linux', architecture: 'arm64', variant: 'v8' };
  return { os: 'linux', architecture: arch === 'x64' ? 'amd64' : arch };
}

/** An object; anything else: bad_request. */
export function parseJson(bytes: Uint8Array, what: string): Record<string, unknown> {
  try {
    const value: unknown = JSON.parse(Buffer.from(bytes).toString('utf8'));
    if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as Record<string, unknown>;
  } catch {
    // Told below.
  }
  throw new CoppiceError('bad_request', `${what} is no JSON object`);
}

function demand<T>(schema: z.ZodType<T>, value: unknown): T {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const [issue] = result.error.issues;
  throw bad(`malformed at '${issue?.path.join('.')}': ${issue?.message}`);
}

function bad(what: string): CoppiceError {
  return new CoppiceError('bad_request', `the manifest of the image is ${what}`);
}
