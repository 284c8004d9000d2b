/** A snapshot as something to make machines from: shape, image and environment of what it was taken of. */
import { existsSync } from 'node:fs';
import { join, relative, resolve } from 'node:path';
import type { MachineImage } from '../isolation/backend.ts';
import { imageFiles, mapImageFiles } from '../templates/image-files.ts';
import type { Template } from './nursery.ts';
import { Rows } from './rows.ts';
import type { SnapshotRow } from './snapshot-rows.ts';

export function templateOf(row: SnapshotRow, folder: string): Template {
  const { templateID, buildID, baseID, tag, alias, isolation, shape, languages, env, createdAtMs } = row;
  return {
    templateID,
    buildID,
    baseID,
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
 * What sandboxes and snapshots in the node's database `file` are made of; `folder` is that of the snapshots. For a process
 * that is not the node.
 */
export function inUse(
  file: string,
  folder: string,
): { readonly builds: ReadonlySet<string>; readonly images: readonly string[] } {
  if (!existsSync(file)) return { builds: new Set(), images: [] };
  const rows = new Rows(file);
  try {
    const images = rows.snapshots
      .all()
      .flatMap((row) => (row.state === 'deleted' ? [] : imageFiles(absoluteImage(row.image, folder))));
    return { builds: rows.bases(), images: [...images, ...imagesOfBuilds(rows, folder)] };
  } finally {
    rows.close();
  }
}

/** Those of what teams have built, and what results of build steps lie on. Folders of a home are beside each other. */
function imagesOfBuilds(rows: Rows, snapshotsFolder: string): string[] {
  const beside = (name: string): string => join(snapshotsFolder, '..', name);
  const built = rows.builds.withFiles().flatMap(({ result }) => (result ? [result.image] : []));
  return [
    ...built.flatMap((image) => imageFiles(absoluteImage(image, beside('builds')))),
    ...rows.steps.all().map(({ rootfs }) => resolve(beside('steps'), rootfs)),
  ];
}

/** As a row keeps it. */
export function relativeImage(image: MachineImage, folder: string): MachineImage {
  return mapImageFiles(image, (path) => relative(folder, path));
}

function absoluteImage(image: MachineImage, folder: string): MachineImage {
  return mapImageFiles(image, (path) => resolve(folder, path));
}
