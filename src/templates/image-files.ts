/** The files of a machine's image: which they are, and the same image with its paths told otherwise. */
import type { MachineImage } from '../isolation/backend.ts';

export function imageFiles({ kernel, initrd, rootfs, agentDrive }: MachineImage): string[] {
  return [kernel, initrd, rootfs, agentDrive];
}

/** Records keep paths relative to a folder of the home, so that the home can be moved as a whole. */
export function mapImageFiles(image: MachineImage, map: (path: string) => string): MachineImage {
  return {
    hash: image.hash,
    kernel: map(image.kernel),
    initrd: map(image.initrd),
    rootfs: map(image.rootfs),
    agentDrive: map(image.agentDrive),
  };
}
