/**
 * The system calls that copy a disk and Node does not offer, through koffi. Those that may wait for a disk run on a thread
 * of libuv's pool, and act on descriptors alone: whose mounts that thread sees does not matter.
 */
import { createRequire } from 'node:module';

/** linux/fs.h */
const FICLONE = 0x40049409;
const BLKFLSBUF = 0x1261;
/** linux/loop.h; struct loop_info64 begins with the backing file's device and inode, 64 bits each. */
const LOOP_GET_STATUS64 = 0x4c05;
const LOOP_INFO_BYTES = 232;
/** linux/falloc.h */
const PUNCH_HOLE_KEEP_SIZE = 3;
const SEEK_DATA = 3;
const SEEK_HOLE = 4;

export interface DiskCalls {
  /** Makes `to` share all of `from`'s blocks. False: their file system cannot, or they are on two. */
  share(from: number, to: number): Promise<boolean>;
  /**
   * Has the file system on an open block device write all that it holds back, then the device's own cache. Nothing is
   * asked of a path inside, which the jail could have changed.
   */
  flush(device: number): Promise<void>;
  /** The file behind an open loop device; undefined when there is none. */
  backing(device: number): { readonly device: bigint; readonly inode: bigint } | undefined;
  /** Makes a hole; true to say that the file system can. */
  punch(fd: number, at: number, bytes: number): boolean;
  /** Where the next data begins and ends from `at` on; undefined: only a hole is left. */
  dataFrom(fd: number, at: number): readonly [start: number, end: number] | undefined;
}

export function loadDiskCalls(): DiskCalls {
  const koffi = createRequire(import.meta.url)('koffi') as typeof import('koffi');
  const libc = koffi.load('libc.so.6');
  const ioctlNumber = libc.func('int ioctl(int fd, unsigned long request, long argument)');
  const ioctlBuffer = libc.func('int ioctl(int fd, unsigned long request, void *argument)');
  const lseek = libc.func('int64_t lseek(int fd, int64_t offset, int whence)');
  const fallocate = libc.func('int fallocate(int fd, int mode, int64_t offset, int64_t length)');
  const later = (fd: number, request: number, argument: number): Promise<number> =>
    new Promise((resolve, reject) => {
      ioctlNumber.async(fd, request, argument, (error: unknown, result: number) =>
        error ? reject(error as Error) : resolve(result),
      );
    });

  return {
    share: async (from, to) => (await later(to, FICLONE, from)) === 0,
    async flush(device) {
      if ((await later(device, BLKFLSBUF, 0)) !== 0) throw new Error('the layer cannot be written back');
    },
    backing(device) {
      const info = Buffer.alloc(LOOP_INFO_BYTES);
      if (ioctlBuffer(device, LOOP_GET_STATUS64, info) !== 0) return undefined;
      return { device: info.readBigUInt64LE(0), inode: info.readBigUInt64LE(8) };
    },
    punch: (fd, at, bytes) => fallocate(fd, PUNCH_HOLE_KEEP_SIZE, at, bytes) === 0,
    dataFrom(fd, at) {
      const start = Number(lseek(fd, at, SEEK_DATA));
      if (start < 0) return undefined;
      const end = Number(lseek(fd, start, SEEK_HOLE));
      return end > start ? [start, end] : undefined;
    },
  };
}
