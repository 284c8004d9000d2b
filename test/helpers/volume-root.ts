/** The root folder of an empty volume, mounted for as long as the descriptor is open. Needs root. */
import { execFileSync } from 'node:child_process';
import { constants, mkdirSync, openSync } from 'node:fs';
import { join } from 'node:path';
import { makeVolumeImage } from '../../src/volumes/image.ts';

export async function openVolumeRoot(folder: string, sizeMB: number): Promise<number> {
  const [image, at] = [join(folder, 'image'), join(folder, 'mnt')];
  mkdirSync(at);
  await makeVolumeImage(image, sizeMB);
  execFileSync('mount', ['-o', 'loop,nosuid,nodev', image, at]);
  try {
    return openSync(at, constants.O_RDONLY | constants.O_DIRECTORY);
  } finally {
    // The descriptor holds it.
    execFileSync('umount', ['--lazy', at]);
  }
}
