/** From layers to a folder that is the root of a sandbox: what a thread of its own does (unpack-thread.ts). */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { planGuestRoot, type RootFacts } from '../guest-root.ts';
import { applyChanges, viewOf } from './furnish.ts';
import { type LayerFile, type LayerLimits, readLayers } from './layers.ts';
import { type PlaceOptions, placeTree } from './place.ts';

export interface UnpackJob extends PlaceOptions {
  readonly layers: readonly LayerFile[];
  /** Empty folder, mode 0700 and on one file system; `root` is made in it. */
  readonly work: string;
  /** PATH of the image's environment. */
  readonly path?: string;
  /** Date of what is added to the image, in milliseconds since the epoch. */
  readonly timeMs: number;
  readonly limits?: LayerLimits;
}

export interface Unpacked {
  /** The folder. */
  readonly root: string;
  readonly facts: RootFacts;
  /** Devices and pipes of the image that were left out. */
  readonly leftOut: number;
}

/** Errors as those of readLayers and planGuestRoot. Waits for the disk on this thread. */
export async function unpackHere(job: UnpackJob, onStage: (stage: string) => void = () => {}): Promise<Unpacked> {
  const [content, root] = ['content', 'root'].map((name) => join(job.work, name)) as [string, string];
  for (const folder of [content, root]) mkdirSync(folder, { mode: 0o700 });
  const { tree, leftOut } = await readLayers(job.layers, content, {
    limits: job.limits,
    onLayer: (place) => onStage(`unpacking layer ${place} of ${job.layers.length}`),
  });
  const { changes, facts } = planGuestRoot(viewOf(tree), job.path);
  applyChanges(tree, changes, job.timeMs);
  onStage('laying the files out');
  placeTree(tree, root, job);
  return { root, facts, leftOut };
}
