/** How a checkpoint comes into being on disk: files that last, a manifest that says what they are, one rename. */
import { chmod, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { syncPath } from '../../../store/durable.ts';
import type { Checkpoint, CheckpointManifest } from '../../backend.ts';
import { publishFolder } from '../../publish.ts';
import { type About, describe, MANIFEST_FILE } from './manifest.ts';

/** Begins the name of a folder that is to become a checkpoint. */
export const PARTIAL_PREFIX = '.partial-';

/** QEMU opens the memory for writing even to map it privately: root may whatever the mode, another user only as it says. */
const MEMORY_MODE = process.getuid?.() === 0 ? 0o444 : 0o644;

/** Writes the manifest of the files in `work`, all of which may only be read from then on. */
export async function seal(work: string, about: About, signal?: AbortSignal): Promise<CheckpointManifest> {
  const settle = async (name: string): Promise<void> => {
    await chmod(join(work, name), name === 'memory' ? MEMORY_MODE : 0o444);
    await syncPath(join(work, name));
  };
  const [manifest] = await Promise.all([describe(work, about, signal), ...about.files.map(settle)]);
  await writeFile(join(work, MANIFEST_FILE), `${JSON.stringify(manifest, undefined, 2)}\n`, { mode: 0o444 });
  await syncPath(join(work, MANIFEST_FILE));
  return manifest;
}

/** Publishes a sealed folder at `out`. `conflict`: there is one. */
export async function publish(work: string, out: string, manifest: CheckpointManifest): Promise<Checkpoint> {
  await publishFolder(work, out);
  return { folder: out, manifest };
}
