/** manifest.json of a checkpoint: written last, checked before anything is restored from it. */
import { open, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { CoppiceError } from '../../../contract/errors.ts';
import {
  type Checkpoint,
  type CheckpointManifest,
  contentOf,
  type MachineShape,
  type OpenOptions,
} from '../../backend.ts';
import { hasHash, hashBlocks } from '../../block-hash.ts';
import { openPageFile } from '../page-file.ts';
import { OVERLAY_HEADER_BYTES, overlayFault } from '../qcow2.ts';
import { cpuName, machineName, sameCpu } from './config.ts';
import { BACKEND_NAME } from './machine.ts';
import type { QemuProbe } from './probe.ts';

export const MANIFEST_FILE = 'manifest.json';
/** Guest memory, device state, the written layer, and the empty overlay that each clone copies. */
export const GOLDEN_FILES = { memory: 'memory', state: 'state', layer: 'layer', overlay: 'overlay.qcow2' } as const;
/** The pages of memory that are not its base's, device state, and the overlay over its base's layer. */
export const OWN_FILES = { pages: 'pages', state: 'state', overlay: 'overlay.qcow2' } as const;
export const DISK_FILES = { overlay: 'overlay.qcow2' } as const;

const MIB = 2 ** 20;
const sha256 = z.string().regex(/^[0-9a-f]{64}$/);
const file = z.object({ bytes: z.number().int().nonnegative(), sha256 });
const common = {
  format: z.literal(2),
  backend: z.literal(BACKEND_NAME),
  imageHash: z.string().min(1).max(256),
  shape: z.object({
    cpuCount: z.number().int().positive(),
    memoryMB: z.number().int().positive(),
    diskSizeMB: z.number().int().positive(),
  }),
  accelerator: z.string(),
  vmm: z.object({ version: z.string(), machine: z.string(), cpu: z.string() }),
  createdAtMs: z.number(),
};
const manifest = z.discriminatedUnion('memory', [
  z.object({
    ...common,
    memory: z.literal('whole'),
    files: z.strictObject({ memory: file, state: file, layer: file, [GOLDEN_FILES.overlay]: file }),
  }),
  z.object({
    ...common,
    memory: z.literal('own'),
    base: sha256,
    files: z.strictObject({ pages: file, state: file, [OWN_FILES.overlay]: file }),
  }),
  z.object({
    ...common,
    memory: z.literal('none'),
    base: sha256,
    files: z.strictObject({ [DISK_FILES.overlay]: file }),
  }),
]);

/** What a manifest says besides the hashes. */
export interface About {
  readonly imageHash: string;
  readonly shape: MachineShape;
  readonly probe: QemuProbe;
  readonly memory: CheckpointManifest['memory'];
  readonly base?: string;
  /** Names of the files in its folder. */
  readonly files: readonly string[];
}

/** Hashes the files of a folder and tells what made them. */
export async function describe(folder: string, about: About, signal?: AbortSignal): Promise<CheckpointManifest> {
  const entries = await Promise.all(
    about.files.map(async (name) => {
      const path = join(folder, name);
      return [name, { bytes: (await stat(path)).size, sha256: await hashBlocks(path, signal) }] as const;
    }),
  );
  const { cpuCount, memoryMB, diskSizeMB } = about.shape;
  return {
    format: 2,
    backend: BACKEND_NAME,
    imageHash: about.imageHash,
    shape: { cpuCount, memoryMB, diskSizeMB },
    accelerator: about.probe.accelerator,
    vmm: { version: about.probe.version, machine: machineName, cpu: cpuName(about.probe) },
    createdAtMs: Date.now(),
    memory: about.memory,
    ...(about.base === undefined ? {} : { base: about.base }),
    files: Object.fromEntries(entries),
  };
}

/** Reads and checks a checkpoint folder. checkpoint_corrupt: it is not whole. */
export async function readCheckpoint(folder: string, options: OpenOptions = {}): Promise<Checkpoint> {
  const corrupt = (reason: string, cause?: unknown) =>
    new CoppiceError('checkpoint_corrupt', `checkpoint ${folder}: ${reason}`, { cause });
  const written = parse(await readText(folder, corrupt), corrupt);
  const found = options.use === 'disk' ? diskOf(written) : written;
  const { shape } = found;
  if (found.memory === 'whole') {
    if (found.files.memory.bytes !== shape.memoryMB * MIB) throw corrupt('memory has not the size of its shape');
    if (found.files.layer.bytes !== shape.diskSizeMB * MIB) throw corrupt('layer has not the size of its shape');
  } else {
    const fault = baseFault(found, options.base);
    if (fault !== undefined) throw corrupt(fault);
  }
  for (const [name, { bytes }] of Object.entries(found.files)) {
    const here = await stat(join(folder, name)).catch((cause) => {
      throw corrupt(`${name} is missing`, cause);
    });
    if (!here.isFile() || here.size !== bytes) throw corrupt(`${name} has ${here.size} bytes instead of ${bytes}`);
  }
  if (options.verify)
    for (const [name, { sha256 }] of Object.entries(found.files))
      if ((await hashBlocks(join(folder, name))) !== sha256) throw corrupt(`${name} has another hash`);
  // A VMM that its guest may have taken over wrote what a new one is to read.
  const fault = await faultOfOverlay(join(folder, GOLDEN_FILES.overlay), shape);
  if (fault !== undefined) throw corrupt(`${GOLDEN_FILES.overlay} ${fault}`);
  if (found.memory === 'own') await (await openPageFile(join(folder, OWN_FILES.pages), shape.memoryMB * MIB)).close();
  const base = found.memory === 'whole' ? undefined : options.base;
  return { folder, manifest: found, ...(base ? { base } : {}) };
}

/** checkpoint_corrupt: what a checkpoint has beyond its base is not what was published. */
export async function checkOwnData({ folder, manifest }: Checkpoint, signal?: AbortSignal): Promise<void> {
  // Golden ones are large, and asked with `verify`.
  if (manifest.memory === 'whole') return;
  for (const [name, { sha256 }] of Object.entries(manifest.files))
    if (!(await hasHash(join(folder, name), sha256, signal)))
      throw new CoppiceError('checkpoint_corrupt', `checkpoint ${folder}: ${name} has another hash`);
}

type Written = z.infer<typeof manifest>;

function diskOf(written: Written): Written {
  if (written.memory === 'whole')
    throw new CoppiceError('bad_request', 'a golden checkpoint is opened whole or as a base');
  return { ...written, memory: 'none', files: { [DISK_FILES.overlay]: written.files[DISK_FILES.overlay] } };
}

async function readText(folder: string, corrupt: (reason: string, cause?: unknown) => CoppiceError): Promise<string> {
  return readFile(join(folder, MANIFEST_FILE), 'utf8').catch((cause) => {
    throw corrupt(`${MANIFEST_FILE} cannot be read`, cause);
  });
}

function parse(text: string, corrupt: (reason: string, cause?: unknown) => CoppiceError): Written {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (cause) {
    throw corrupt(`${MANIFEST_FILE} is not JSON`, cause);
  }
  const parsed = manifest.safeParse(json);
  if (parsed.success) return parsed.data;
  const issue = parsed.error.issues[0];
  throw corrupt(`${MANIFEST_FILE}: ${issue?.path.join('.')}: ${issue?.message}`);
}

/** Why a checkpoint does not lie on `base`, if it does not. */
function baseFault(
  { base, shape, imageHash }: Pick<CheckpointManifest, 'base' | 'shape' | 'imageHash'>,
  given: Checkpoint | undefined,
): string | undefined {
  if (!given) return `lies on checkpoint ${base}, which is not there`;
  const content = contentOf(given.manifest);
  if (given.manifest.memory !== 'whole') return 'lies on a checkpoint that is not golden';
  if (content !== base) return `lies on checkpoint ${base}, and the one given is ${content}`;
  if (imageHash !== given.manifest.imageHash) return 'is of another image than its base';
  const differs = (['cpuCount', 'memoryMB', 'diskSizeMB'] as const).find(
    (field) => shape[field] !== given.manifest.shape[field],
  );
  return differs && `has another ${differs} than its base`;
}

/** What is wrong with an overlay of this shape; see overlayFault. */
export async function faultOfOverlay(path: string, { diskSizeMB }: MachineShape): Promise<string | undefined> {
  const handle = await open(path, 'r');
  try {
    const header = Buffer.alloc(OVERLAY_HEADER_BYTES);
    const { bytesRead } = await handle.read(header, 0, header.length, 0);
    return overlayFault(header.subarray(0, bytesRead), diskSizeMB * MIB);
  } finally {
    await handle.close();
  }
}

/** host_unfit, with the first thing that differs, when this host cannot restore it. A disk alone boots anywhere. */
export function checkHost(checkpoint: Checkpoint, probe: QemuProbe): void {
  const { accelerator, vmm, memory } = checkpoint.manifest;
  if (memory === 'none') return;
  const differs = (what: string, made: string, here: string) => {
    // Of a sandbox there is no other.
    const remedy = memory === 'whole' ? 'build its template again' : `use it where ${what} is ${made}`;
    return new CoppiceError('host_unfit', `checkpoint made with ${what} ${made}, and this host has ${here}: ${remedy}`);
  };
  if (accelerator !== probe.accelerator) throw differs('accelerator', accelerator, probe.accelerator);
  if (vmm.version !== probe.version) throw differs('QEMU', vmm.version, probe.version);
  if (vmm.machine !== machineName) throw differs('machine', vmm.machine, machineName);
  if (!sameCpu(vmm.cpu, cpuName(probe))) throw differs('CPU', vmm.cpu, cpuName(probe));
}
