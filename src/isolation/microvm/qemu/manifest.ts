/** manifest.json of a golden checkpoint: written last, checked before anything is restored from it. */
import { open, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { CoppiceError } from '../../../contract/errors.ts';
import type { GoldenCheckpoint, GoldenManifest, MachineShape } from '../../backend.ts';
import { hashBlocks } from '../../block-hash.ts';
import { cpuName, machineName, sameCpu } from './config.ts';
import { BACKEND_NAME } from './machine.ts';
import type { QemuProbe } from './probe.ts';

export const MANIFEST_FILE = 'manifest.json';
/** Guest memory, device state, the written layer, and the empty overlay that each clone copies. */
export const GOLDEN_FILES = { memory: 'memory', state: 'state', layer: 'layer', overlay: 'overlay.qcow2' } as const;

const file = z.object({ bytes: z.number().int().nonnegative(), sha256: z.string().regex(/^[0-9a-f]{64}$/) });
const manifest = z.object({
  format: z.literal(1),
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
  files: z.object({ memory: file, state: file, layer: file, [GOLDEN_FILES.overlay]: file }),
});

/** Hashes the files of a folder and tells what made them. */
export async function describeGolden(
  folder: string,
  about: { readonly imageHash: string; readonly shape: MachineShape; readonly probe: QemuProbe },
  signal?: AbortSignal,
): Promise<GoldenManifest> {
  const entries = await Promise.all(
    Object.values(GOLDEN_FILES).map(async (name) => {
      const path = join(folder, name);
      return [name, { bytes: (await stat(path)).size, sha256: await hashBlocks(path, signal) }] as const;
    }),
  );
  const { cpuCount, memoryMB, diskSizeMB } = about.shape;
  return {
    format: 1,
    backend: BACKEND_NAME,
    imageHash: about.imageHash,
    shape: { cpuCount, memoryMB, diskSizeMB },
    accelerator: about.probe.accelerator,
    vmm: { version: about.probe.version, machine: machineName, cpu: cpuName(about.probe) },
    createdAtMs: Date.now(),
    files: Object.fromEntries(entries),
  };
}

/** Reads and checks a checkpoint folder. checkpoint_corrupt: it is not whole; host_unfit: made for another host or VMM. */
export async function readGolden(
  folder: string,
  probe: QemuProbe,
  options: { readonly verify?: boolean; readonly signal?: AbortSignal } = {},
): Promise<GoldenCheckpoint> {
  const corrupt = (reason: string, cause?: unknown) =>
    new CoppiceError('checkpoint_corrupt', `golden checkpoint ${folder}: ${reason}`, { cause });
  const text = await readFile(join(folder, MANIFEST_FILE), 'utf8').catch((cause) => {
    throw corrupt(`${MANIFEST_FILE} cannot be read`, cause);
  });
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (cause) {
    throw corrupt(`${MANIFEST_FILE} is not JSON`, cause);
  }
  const parsed = manifest.safeParse(json);
  if (!parsed.success) {
    const issue = parsed.error.issues[0];
    throw corrupt(`${MANIFEST_FILE}: ${issue?.path.join('.')}: ${issue?.message}`);
  }
  const { files, shape } = parsed.data;
  if (files.memory.bytes !== shape.memoryMB * 2 ** 20) throw corrupt('memory has not the size of its shape');
  if (files.layer.bytes !== shape.diskSizeMB * 2 ** 20) throw corrupt('layer has not the size of its shape');
  for (const [name, { bytes, sha256 }] of Object.entries(files)) {
    const path = join(folder, name);
    const found = await stat(path).catch((cause) => {
      throw corrupt(`${name} is missing`, cause);
    });
    if (!found.isFile() || found.size !== bytes) throw corrupt(`${name} has ${found.size} bytes instead of ${bytes}`);
    if (options.verify && (await hashBlocks(path, options.signal)) !== sha256)
      throw corrupt(`${name} has another hash`);
  }
  const golden: GoldenCheckpoint = { folder, manifest: parsed.data };
  checkHost(golden, probe);
  return golden;
}

/** host_unfit, with the first thing that differs, when this host cannot restore it. */
export function checkHost(golden: GoldenCheckpoint, probe: QemuProbe): void {
  const { accelerator, vmm } = golden.manifest;
  const differs = (what: string, made: string, here: string) =>
    new CoppiceError(
      'host_unfit',
      `golden checkpoint made with ${what} ${made}, and this host has ${here}: build it again`,
    );
  if (accelerator !== probe.accelerator) throw differs('accelerator', accelerator, probe.accelerator);
  if (vmm.version !== probe.version) throw differs('QEMU', vmm.version, probe.version);
  if (vmm.machine !== machineName) throw differs('machine', vmm.machine, machineName);
  if (!sameCpu(vmm.cpu, cpuName(probe))) throw differs('CPU', vmm.cpu, cpuName(probe));
}

/** Makes what was written to a file or folder last through a crash of the host. */
export async function syncPath(path: string): Promise<void> {
  const handle = await open(path, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}
