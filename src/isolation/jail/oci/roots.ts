/** The root file systems of jails: a template under a layer of the jail's own, mounted in this thread's namespace. */
import { createHash } from 'node:crypto';
import { closeSync, constants, mkdirSync, openSync } from 'node:fs';
import { join } from 'node:path';
import type { DiskCalls } from './disk-calls.ts';
import { checkMountPoints, renewIdentity, writeIdentity } from './identity-files.ts';
import type { Birth } from './keeper-jobs.ts';
import { type Blank, createLayer, onLoop, openLayer, readBlank } from './layer.ts';
import { LAYER_FILE } from './names.ts';
import { MS, type Syscalls } from './syscalls.ts';

export interface Roots {
  /** Mounts a jail's root at `root`, its layer over the template's; returns what is to be unmounted, in order. */
  mount(job: Birth, userNamespace: number, root: string): readonly string[];
  /** Last first. Who has a copy of them in a namespace of its own keeps it. */
  unmount(targets: readonly string[]): void;
  /** Where an image is mounted, read-only, for all jails of this process. */
  shared(image: string): string;
}

/** `folder`: that of all jails. */
export function createRoots(folder: string, syscalls: Syscalls, calls: DiskCalls): Roots {
  const sharedFolder = join(folder, 'shared');
  const mountedImages = new Map<string, string>();
  const blanks = new Map<number, Blank>();
  mkdirSync(sharedFolder, { recursive: true, mode: 0o711 });

  const blankOf = (sizeMB: number): Blank => {
    let blank = blanks.get(sizeMB);
    if (!blank) {
      blank = readBlank(folder, sizeMB, calls);
      blanks.set(sizeMB, blank);
    }
    return blank;
  };

  const roots: Roots = {
    mount(job, userNamespace, root) {
      const { shape } = job;
      const at = (name: string): string => {
        const path = join(job.folder, name);
        mkdirSync(path, { recursive: true, mode: 0o711 });
        return path;
      };
      const [lower, layer, mapped] = [at('lower'), at('layer'), at('mapped')];
      mkdirSync(root, { recursive: true, mode: 0o711 });
      const file = join(job.folder, LAYER_FILE);
      const image = job.filled
        ? openLayer(file, shape.diskSizeMB)
        : createLayer(file, shape.diskSizeMB, blankOf(shape.diskSizeMB));
      const mounted: string[] = [];
      try {
        onLoop(image, false, syscalls, (device) =>
          // nobarrier: what is not to outlive the host's boot need not be on its disk for a jail's fsync to return.
          syscalls.mount(device, layer, 'ext4', MS.NODEV | MS.NOATIME, 'discard,noinit_itable,nobarrier'),
        );
        mounted.push(layer);
        const template = roots.shared(job.rootfs);
        if (!job.filled) {
          for (const name of ['upper', 'work']) mkdirSync(join(layer, name), { mode: 0o755 });
          writeIdentity(template, join(layer, 'upper'), job);
        }
        syscalls.mountMapped(template, lower, userNamespace, { readOnly: true });
        mounted.push(lower);
        syscalls.mountMapped(layer, mapped, userNamespace, { readOnly: false });
        mounted.push(mapped);
        mountOverlay(syscalls, { lower, upper: join(mapped, 'upper'), work: join(mapped, 'work') }, root, job.uid);
        mounted.push(root);
        if (job.filled) {
          checkMountPoints(root);
          syscalls.asFileSystemUser(job.uid, () => renewIdentity(root, job));
        }
        return mounted;
      } catch (error) {
        roots.unmount(mounted);
        throw error;
      } finally {
        closeSync(image);
      }
    },

    unmount(targets) {
      for (const target of targets.toReversed()) syscalls.unmount(target);
    },

    shared(image) {
      const known = mountedImages.get(image);
      if (known !== undefined) return known;
      const target = join(sharedFolder, createHash('sha256').update(image).digest('hex').slice(0, 16));
      mkdirSync(target, { recursive: true, mode: 0o755 });
      const fd = openSync(image, 'r');
      try {
        onLoop(fd, true, syscalls, (device) =>
          syscalls.mount(device, target, 'ext4', MS.RDONLY | MS.NODEV | MS.NOATIME, 'noload'),
        );
      } finally {
        closeSync(fd);
      }
      mountedImages.set(image, target);
      return target;
    },
  };
  return roots;
}

/** By descriptors: a jail reads in its table of mounts what the overlay was told, and our paths are not its business. */
export function mountOverlay(
  syscalls: Syscalls,
  folders: { readonly lower: string; readonly upper: string; readonly work: string },
  root: string,
  uid: number,
): void {
  const opened = Object.entries(folders).map(
    ([name, path]) => [name, openSync(path, constants.O_RDONLY | constants.O_DIRECTORY)] as const,
  );
  try {
    const options = ['redirect_dir=on', ...opened.map(([name, fd]) => `${name}dir=/proc/self/fd/${fd}`)].join(',');
    // As a user of the jail's: what the overlay does in the layer is done with its mounter's ids, which must be mapped.
    syscalls.asFileSystemUser(uid, () => syscalls.mount('overlay', root, 'overlay', MS.NODEV | MS.NOATIME, options));
  } finally {
    for (const [, fd] of opened) closeSync(fd);
  }
}
