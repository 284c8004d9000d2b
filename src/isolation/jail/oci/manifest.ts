/**
 * manifest.json of what jails are made from. There is no memory to keep: of a template it says only what its jails are made
 * of, of a captured disk it has the layer that they begin with.
 */
import { mkdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { CoppiceError } from '../../../contract/errors.ts';
import { syncPath } from '../../../store/durable.ts';
import type { Checkpoint, CheckpointManifest, MachineImage, MachineShape } from '../../backend.ts';
import { hasHash, hashBlocks } from '../../block-hash.ts';
import { publishFolder } from '../../publish.ts';
import { BACKEND_NAME, GOLDEN_LAYER } from './names.ts';

const MANIFEST_FILE = 'manifest.json';
const MIB = 2 ** 20;
const whole = z.number().int().positive();
const file = z.object({ bytes: whole, sha256: z.string().regex(/^[0-9a-f]{64}$/) });
const manifest = z
  .object({
    format: z.literal(2),
    backend: z.literal(BACKEND_NAME),
    imageHash: z.string().min(1).max(256),
    shape: z.object({ cpuCount: whole, memoryMB: whole, diskSizeMB: whole }),
    accelerator: z.string(),
    vmm: z.object({ version: z.string(), machine: z.string(), cpu: z.string() }),
    createdAtMs: z.number(),
    memory: z.literal('none'),
    files: z.record(z.literal(GOLDEN_LAYER), file).or(z.strictObject({})),
  })
  .refine(({ files, shape }) => sizeOf(files) === undefined || sizeOf(files) === shape.diskSizeMB * MIB, {
    path: ['files', GOLDEN_LAYER, 'bytes'],
    message: 'is not the size of its shape',
  });

export function manifestOf(
  image: MachineImage,
  { cpuCount, memoryMB, diskSizeMB }: MachineShape,
  files: CheckpointManifest['files'],
): CheckpointManifest {
  return {
    format: 2,
    backend: BACKEND_NAME,
    imageHash: image.hash,
    shape: { cpuCount, memoryMB, diskSizeMB },
    accelerator: 'native',
    vmm: { version: '', machine: '', cpu: '' },
    createdAtMs: Date.now(),
    memory: 'none',
    files,
  };
}

/** A checkpoint that is its manifest alone. */
export async function writeManifest(out: string, image: MachineImage, shape: MachineShape): Promise<Checkpoint> {
  const fresh = `${out}.new`;
  await rm(fresh, { recursive: true, force: true });
  await mkdir(fresh, { recursive: true });
  return publish(fresh, out, manifestOf(image, shape, {}));
}

/** Writes the manifest beside what is in `work` and publishes it whole at `out`, by one rename. */
export async function publish(work: string, out: string, content: CheckpointManifest): Promise<Checkpoint> {
  await writeFile(join(work, MANIFEST_FILE), `${JSON.stringify(content, null, 2)}\n`);
  await syncPath(join(work, MANIFEST_FILE));
  await publishFolder(work, out);
  return { folder: out, manifest: content };
}

/** checkpoint_corrupt with the file and the reason. The hash is compared when `verify`. */
export async function readManifest(
  folder: string,
  { verify = false }: { readonly verify?: boolean } = {},
): Promise<Checkpoint> {
  const path = join(folder, MANIFEST_FILE);
  let json: unknown;
  try {
    json = JSON.parse(await readFile(path, 'utf8'));
  } catch (cause) {
    throw new CoppiceError('checkpoint_corrupt', `${path} cannot be read`, { cause });
  }
  const parsed = manifest.safeParse(json);
  if (!parsed.success) {
    const issue = parsed.error.issues[0];
    throw new CoppiceError('checkpoint_corrupt', `${path}: ${issue?.path.join('.')}: ${issue?.message}`);
  }
  const golden: Checkpoint = { folder, manifest: parsed.data };
  const layer = await layerOf(golden);
  if (layer && verify && (await hashBlocks(layer)) !== golden.manifest.files[GOLDEN_LAYER]!.sha256)
    throw new CoppiceError('checkpoint_corrupt', `${layer} has another hash`);
  return golden;
}

/** checkpoint_corrupt: its layer is not what was published. */
export async function checkLayer(golden: Checkpoint, signal?: AbortSignal): Promise<void> {
  const layer = await layerOf(golden);
  if (layer && !(await hasHash(layer, golden.manifest.files[GOLDEN_LAYER]!.sha256, signal)))
    throw new CoppiceError('checkpoint_corrupt', `${layer} has another hash`);
}

/** Path of the layer that jails begin with, whole by its size; undefined: they begin with a blank one. */
export async function layerOf({ folder, manifest }: Checkpoint): Promise<string | undefined> {
  const bytes = sizeOf(manifest.files);
  if (bytes === undefined) return undefined;
  const path = join(folder, GOLDEN_LAYER);
  const found = await stat(path).catch((cause) => {
    throw new CoppiceError('checkpoint_corrupt', `${path} is missing`, { cause });
  });
  if (!found.isFile() || found.size !== bytes)
    throw new CoppiceError('checkpoint_corrupt', `${path} has ${found.size} bytes instead of ${bytes}`);
  return path;
}

function sizeOf(files: CheckpointManifest['files']): number | undefined {
  return files[GOLDEN_LAYER]?.bytes;
}
