/**
 * The root filesystem of an image, as an artifact beside those that are built from Debian's packages: `rootfs.ext4`, and
 * `image.json` with what the image says of itself. Known by the digest of the image's manifest, so that a name which means
 * the same image as before costs one question and no layer.
 */
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { CoppiceError } from '../../contract/errors.ts';
import { type Artifact, obtainArtifact } from '../artifact-store.ts';
import { IMAGE_TIME, makeExt4 } from '../ext4.ts';
import type { RootFacts } from '../guest-root.ts';
import { type BlobStore, openBlobStore } from './blob-store.ts';
import type { ImageConfig } from './image-config.ts';
import type { ImageSource } from './image-source.ts';
import { LAYER_LIMITS } from './layers.ts';
import { fetchLayers, type ResolvedImage, resolveImage } from './pull.ts';
import { unpackImage } from './unpack.ts';

/** Changes when the same image would give another filesystem. */
const IMAGE_ROOTFS_FORMAT = 1;
const LABEL = 'coppice-root';

export interface ImageRootfs {
  readonly artifact: Artifact;
  /** Absolute path of the ext4 image. */
  readonly rootfs: string;
  /** Digest of the image's manifest. */
  readonly digest: string;
  readonly config: ImageConfig;
  readonly facts: RootFacts;
}

export interface ImageRootfsOptions {
  /** <home>/images; made if need be. */
  readonly imagesFolder: string;
  readonly signal?: AbortSignal;
  /** What is being done, for a display. */
  readonly onStage?: (stage: string) => void;
  /** Build it even if it is there. */
  readonly force?: boolean;
  /** Bytes that its layers may have, packed and unpacked; images that are larger: bad_request. */
  readonly limits?: { readonly packed: number; readonly unpacked: number };
}

/**
 * Builds what is missing. Safe to run at the same time in any number of processes and to kill at any point. The caller
 * closes the source. Errors: bad_request (the image), unavailable (its registry), host_unfit (no root, no mke2fs), aborted.
 */
export async function obtainImageRootfs(source: ImageSource, options: ImageRootfsOptions): Promise<ImageRootfs> {
  const { signal, onStage, force = false } = options;
  const root = resolve(options.imagesFolder);
  await mkdir(root, { recursive: true, mode: 0o755 });
  onStage?.(`asking for ${source.name}`);
  const image = await resolveImage(source, { signal });
  const artifact = await obtainArtifact(root, {
    kind: 'rootfs',
    inputs: { format: IMAGE_ROOTFS_FORMAT, image: image.digest, scope: source.scope },
    force,
    signal,
    build: async (out, work) =>
      build(image, source, await openBlobStore(root, source.scope), { ...options, out, work }),
  });
  const { facts } = JSON.parse(await readFile(join(artifact.folder, 'image.json'), 'utf8')) as { facts: RootFacts };
  return { artifact, rootfs: join(artifact.folder, 'rootfs.ext4'), digest: image.digest, config: image.config, facts };
}

interface Build extends ImageRootfsOptions {
  readonly out: string;
  readonly work: string;
}

async function build(
  image: ResolvedImage,
  source: ImageSource,
  store: BlobStore,
  { out, work, signal, onStage, limits }: Build,
): Promise<Record<string, string>> {
  if (process.getuid?.() !== 0) {
    throw new CoppiceError(
      'host_unfit',
      'unpacking an image takes root, for the owners of its files; start Coppice as root, or use a template of its own',
    );
  }
  const options = { signal, onStage };
  const layers = await fetchLayers(image, source, store, { ...options, limit: limits?.packed });
  // Set-id programs of strangers: nobody else on this host may reach them.
  const folder = join(work, 'image');
  await mkdir(folder, { mode: 0o700 });
  const { root, facts, leftOut } = await unpackImage(
    {
      layers,
      work: folder,
      path: image.config.env.PATH,
      owners: 'image',
      timeMs: IMAGE_TIME * 1_000,
      ...(limits === undefined ? {} : { limits: { ...LAYER_LIMITS, bytes: limits.unpacked } }),
    },
    options,
  );
  onStage?.('writing the image');
  await makeExt4(root, join(out, 'rootfs.ext4'), { label: LABEL, signal });
  await writeFile(join(out, 'image.json'), `${JSON.stringify({ config: image.config, facts }, null, 2)}\n`);
  return { image: source.name, digest: image.digest, layers: String(layers.length), leftOut: String(leftOut) };
}
