/** The root filesystem that a build leaves, as an artifact beside the one that it began with. */
import { mkdir } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { type Artifact, obtainArtifact } from './artifact-store.ts';
import { makeExt4 } from './ext4.ts';

/** Changes when the same parts would give another filesystem. */
const FORMAT = 1;
const LABEL = 'coppice-root';

export interface MergedRootfsOptions {
  /** <home>/images */
  readonly imagesFolder: string;
  /** Names what is merged: the same parts give the same filesystem. */
  readonly parts: readonly string[];
  /** A command to put before each tool, which then sees it at this folder. */
  readonly through: (folder: string) => Promise<readonly string[]>;
  readonly signal?: AbortSignal;
}

/** Holds `rootfs.ext4`. Safe to kill at any point. Errors as those of makeExt4. */
export async function obtainMergedRootfs(options: MergedRootfsOptions): Promise<Artifact> {
  const { parts, signal } = options;
  return obtainArtifact(resolve(options.imagesFolder), {
    kind: 'rootfs',
    inputs: { merged: FORMAT, parts },
    signal,
    build: async (out, work) => {
      const folder = join(work, 'root');
      await mkdir(folder, { mode: 0o700 });
      const through = await options.through(folder);
      await makeExt4(folder, join(out, 'rootfs.ext4'), { label: LABEL, signal, through });
      return {};
    },
  });
}
