/**
 * The writable layer of a jail: a sparse ext4 image of its own, on a loop device, so that what one jail writes is bounded,
 * costs the host's disk only what it holds, and gives it back when it goes. Blank ones are copies of a few kilobytes.
 */
import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import {
  closeSync,
  constants,
  existsSync,
  fstatSync,
  ftruncateSync,
  openSync,
  readSync,
  renameSync,
  rmSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import type { DiskCalls } from './disk-calls.ts';
import type { Syscalls } from './syscalls.ts';

const BLOCK_BYTES = 4096;
/** One inode for 16 KiB, mke2fs' own ratio. */
const BYTES_PER_INODE = 16_384;
/** linux/loop.h */
const LOOP_CONFIGURE = 0x4c0a;
const LOOP_CTL_GET_FREE = 0x4c82;
const LO_FLAGS_READ_ONLY = 1;
const LO_FLAGS_AUTOCLEAR = 4;
/** struct loop_config: fd, block size, struct loop_info64 (lo_flags at 52 of it), reserved. */
const LOOP_CONFIG_BYTES = 304;
const LOOP_FLAGS_AT = 8 + 52;
/** Another process may take the free device that we were told of. */
const LOOP_TRIES = 16;

/** The parts of a blank image that are not zeros. */
export type Blank = readonly { readonly at: number; readonly bytes: Buffer }[];

/**
 * Makes an empty file system of that size once, and reads back what makes it one. No journal: a layer does not outlive its
 * host's boot. Nothing is initialised later in the background: what is a hole reads as zeros already.
 */
export function readBlank(folder: string, sizeMB: number, calls: Pick<DiskCalls, 'dataFrom'>): Blank {
  const file = join(folder, `blank-${sizeMB}.ext4`);
  if (!existsSync(file)) {
    const fresh = `${file}.${randomBytes(8).toString('hex')}.new`;
    const size = sizeMB * 2 ** 20;
    const fd = openSync(fresh, 'w', 0o600);
    ftruncateSync(fd, size);
    closeSync(fd);
    const make = (extended: string) =>
      execFileSync(
        'mke2fs',
        // -G: all groups' tables in one place, so that few blocks are not holes.
        [
          '-t',
          'ext4',
          '-b',
          String(BLOCK_BYTES),
          '-q',
          '-F',
          '-m',
          '0',
          '-O',
          '^has_journal,^resize_inode',
          '-E',
          extended,
        ].concat(['-N', String(Math.ceil(size / BYTES_PER_INODE)), '-G', '4096', fresh]),
        { stdio: ['ignore', 'ignore', 'pipe'] },
      );
    try {
      try {
        make('nodiscard,lazy_itable_init=1,assume_storage_prezeroed=1');
      } catch {
        // e2fsprogs before 1.47 has no word for it.
        make('nodiscard,lazy_itable_init=1');
      }
      renameSync(fresh, file);
    } catch (error) {
      rmSync(fresh, { force: true });
      throw error;
    }
  }
  const fd = openSync(file, 'r');
  try {
    const blank: { at: number; bytes: Buffer }[] = [];
    for (let found = calls.dataFrom(fd, 0); found; found = calls.dataFrom(fd, found[1])) {
      const [start, end] = found;
      for (let at = start; at < end; at += BLOCK_BYTES) {
        const bytes = Buffer.alloc(BLOCK_BYTES);
        readSync(fd, bytes, 0, BLOCK_BYTES, at);
        if (bytes.some((byte) => byte !== 0)) blank.push({ at, bytes });
      }
    }
    return blank;
  } finally {
    closeSync(fd);
  }
}

/** Writes a fresh image at `path` and gives its open descriptor. */
export function createLayer(path: string, sizeMB: number, blank: Blank): number {
  const fd = openSync(path, constants.O_RDWR | constants.O_CREAT | constants.O_EXCL, 0o600);
  try {
    ftruncateSync(fd, sizeMB * 2 ** 20);
    for (const { at, bytes } of blank) writeSync(fd, bytes, 0, bytes.length, at);
    return fd;
  } catch (error) {
    closeSync(fd);
    rmSync(path, { force: true });
    throw error;
  }
}

/** Opens an image that is there already. Its file system was written by this host's kernel, whoever chose what is in it. */
export function openLayer(path: string, sizeMB: number): number {
  const fd = openSync(path, constants.O_RDWR | constants.O_NOFOLLOW);
  const { size } = fstatSync(fd);
  if (size === sizeMB * 2 ** 20) return fd;
  closeSync(fd);
  throw new Error(`${path} has ${size} bytes instead of ${sizeMB} MiB`);
}

/** Path of a loop device on the open file, which goes when its last mount does; `use` mounts it. */
export function onLoop(fd: number, readOnly: boolean, syscalls: Syscalls, use: (device: string) => void): void {
  const control = openSync('/dev/loop-control', 'r+');
  try {
    for (let attempt = 1; ; attempt++) {
      const path = `/dev/loop${syscalls.ioctl(control, LOOP_CTL_GET_FREE, 0)}`;
      const device = openSync(path, readOnly ? 'r' : 'r+');
      try {
        const config = Buffer.alloc(LOOP_CONFIG_BYTES);
        config.writeUInt32LE(fd, 0);
        config.writeUInt32LE(BLOCK_BYTES, 4);
        config.writeUInt32LE(LO_FLAGS_AUTOCLEAR | (readOnly ? LO_FLAGS_READ_ONLY : 0), LOOP_FLAGS_AT);
        try {
          syscalls.ioctl(device, LOOP_CONFIGURE, config);
        } catch (error) {
          if ((error as NodeJS.ErrnoException).code !== 'EBUSY' || attempt === LOOP_TRIES) throw error;
          continue;
        }
        use(path);
        return;
      } finally {
        closeSync(device);
      }
    }
  } finally {
    closeSync(control);
  }
}
