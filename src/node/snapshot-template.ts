/** A snapshot as something to make machines from: shape, image and environment of what it was taken of. */
import { existsSync } from 'node:fs';
import { relative, resolve } from 'node:path';
import type { MachineImage } from '../isolation/backend.ts';
import { imageFiles, mapImageFiles } from '../templates/image-files.ts';
import type { Template } from './nursery.ts';
import { Rows } from './rows.ts';
import type { SnapshotRow } from './snapshot-rows.ts';

export function templateOf(row: SnapshotRow, folder: string): Template {
  const { templateID, buildID, tag, alias, isolation, shape, languages, env, createdAtMs } = row;
  return {
    templateID,
    buildID,
    tag,
    aliases: alias === undefined ? [] : [alias],
    isolation,
    family: templateID,
    shape,
    languages,
    env,
    image: absoluteImage(row.image, folder),
    createdAtMs,
  };
}

/**
 * The image files that snapshots in the node's database `file` lie on; `folder` is that of the snapshots. For a process
 * that is not the node.
 */
export function imageFilesOfSnapshots(file: string, folder: string): string[] {
  if (!existsSync(file)) return [];
  const rows = new Rows(file);
  try {
    return rows.snapshots
      .all()
      .flatMap((row) => (row.state === 'deleted' ? [] : imageFiles(absoluteImage(row.image, folder))));
  } finally {
    rows.close();
  }
}

/** As a row keeps it. */
export function relativeImage(image: MachineImage, folder: string): MachineImage {
  return mapImageFiles(image, (path) => relative(folder, path));
}

function absoluteImage(image: MachineImage, folder: string): MachineImage {
  return mapImageFiles(image, (path) => resolve(folder, path));
}
