/**
 * Volumes: ext4 images that outlive the jails they are mounted in. One image has one loop device, whoever mounted it first and
 * in whatever process: two would be two file systems that know nothing of each other on the same blocks. The device goes with
 * its last mount.
 */
import { closeSync, constants, mkdirSync, openSync, realpathSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { CoppiceError } from '../../../contract/errors.ts';
import type { DiskCalls } from './disk-calls.ts';
import type { Birth } from './keeper-jobs.ts';
import { onLoop } from './layer.ts';
import { loopDevices } from './loop-devices.ts';
import { MS, type Syscalls } from './syscalls.ts';

export interface Volumes {
  /** Descriptor of its root folder, which stays mounted, privately, until that is closed. */
  open(image: string): number;
  /**
   * Makes the mount points in a jail's root and mounts each volume with the jail's ids beside it, for the runtime to put in
   * place. Adds to `mounted` what is to be unmounted.
   */
  mount(
    job: Birth,
    userNamespace: number,
    root: string,
    mounted: string[],
  ): readonly { readonly source: string; readonly path: string }[];
}

const FOLDER = constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW;

/** `folder`: that of all jails. */
export function createVolumes(folder: string, syscalls: Syscalls, calls: Pick<DiskCalls, 'backing'>): Volumes {
  const staging = join(folder, 'volume');
  mkdirSync(staging, { recursive: true, mode: 0o711 });

  const mountAt = (image: string, target: string): void => {
    const mount = (device: string): void =>
      // Its blocks go back to the host's disk when files go.
      syscalls.mount(device, target, 'ext4', MS.NOSUID | MS.NODEV | MS.NOATIME, 'discard,noinit_itable');
    const device = openDeviceOf(image, calls);
    if (device) {
      try {
        mount(device.path);
        return;
      } finally {
        closeSync(device.fd);
      }
    }
    const file = openSync(image, constants.O_RDWR | constants.O_NOFOLLOW);
    try {
      onLoop(file, false, syscalls, mount);
    } finally {
      closeSync(file);
    }
  };

  return {
    open(image) {
      mountAt(image, staging);
      try {
        return syscalls.openFolder(staging);
      } finally {
        // The descriptor holds it.
        syscalls.unmount(staging);
      }
    },

    mount({ folder: own, uid, volumes }, userNamespace, root, mounted) {
      return volumes.map(({ image, path }, index) => {
        const source = join(own, `volume${index}`);
        mkdirSync(source, { mode: 0o711 });
        mountAt(image, staging);
        try {
          syscalls.mountMapped(staging, source, userNamespace, { readOnly: false });
        } finally {
          syscalls.unmount(staging);
        }
        mounted.push(source);
        syscalls.asFileSystemUser(uid, () => makeMountPoint(root, path));
        return { source, path };
      });
    },
  };
}

/** The loop device that has the image, open, so that it stays: what counts is the file behind it, not what it is called. */
function openDeviceOf(
  image: string,
  calls: Pick<DiskCalls, 'backing'>,
): { readonly path: string; readonly fd: number } | undefined {
  const file = realpathSync(image);
  const { dev, ino } = statSync(file, { bigint: true });
  for (const { name, file: backing } of loopDevices()) {
    if (backing !== file) continue;
    const path = `/dev/${name}`;
    const fd = openSync(path, 'r');
    const found = calls.backing(fd);
    if (found?.device === dev && found.inode === ino) return { path, fd };
    closeSync(fd);
  }
  return undefined;
}

/** The root is a jail's own to arrange: each folder is opened by its last name alone, and nothing is followed. */
function makeMountPoint(root: string, path: string): void {
  let folder = openSync(root, FOLDER);
  try {
    for (const name of path.split('/').slice(1)) {
      const next = `/proc/self/fd/${folder}/${name}`;
      try {
        mkdirSync(next, { mode: 0o755 });
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw unfit(path, error);
      }
      let opened: number;
      try {
        opened = openSync(next, FOLDER);
      } catch (error) {
        throw unfit(path, error);
      }
      closeSync(folder);
      folder = opened;
    }
  } finally {
    closeSync(folder);
  }
}

function unfit(path: string, cause: unknown): CoppiceError {
  const { code } = cause as NodeJS.ErrnoException;
  return new CoppiceError(
    'bad_request',
    `volumeMounts: no volume can be mounted at ${path} of this sandbox (${code})`,
    {
      cause,
    },
  );
}
