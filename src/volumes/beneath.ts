/**
 * Files below a folder in which somebody else, now, may put a link under any name: each folder on the way is opened by its last
 * name alone and without following, and what is done is done to a name in an open folder, or to an open file. The kernel finds
 * open folders by /proc/self/fd, which reaches mounts that are in no table of this process' too.
 */
import { constants, type Stats } from 'node:fs';
import { type FileHandle, lstat, mkdir, open, readdir, readlink, rename, rmdir, unlink } from 'node:fs/promises';

const FOLDER = constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW;
/** A pipe does not keep us waiting. */
const FILE = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK;
/** asm-generic/fcntl.h, with O_DIRECTORY; equal on x86-64 and arm64 but for that one. */
const O_TMPFILE = 0o20000000 | constants.O_DIRECTORY;
/** Folders in folders; each takes a descriptor while what is in it is removed. */
const DEEPEST = 256;

/** An open folder. */
export class Folder {
  readonly #handle: FileHandle;

  constructor(handle: FileHandle) {
    this.#handle = handle;
  }

  /** The one behind an open descriptor, which stays the caller's. */
  static async of(fd: number): Promise<Folder> {
    return new Folder(await open(`/proc/self/fd/${fd}`, constants.O_RDONLY | constants.O_DIRECTORY));
  }

  #at(name: string): string {
    return `/proc/self/fd/${this.#handle.fd}/${name}`;
  }

  /** ENOENT, ENOTDIR. A link is ENOTDIR or ELOOP. */
  async folder(name: string): Promise<Folder> {
    return new Folder(await open(this.#at(name), FOLDER));
  }

  /** For reading, or for a change of what it is; of whatever kind it is. A link is ELOOP, a socket ENXIO. */
  file(name: string): Promise<FileHandle> {
    return open(this.#at(name), FILE);
  }

  /** Of itself. */
  stat(): Promise<Stats> {
    return this.#handle.stat();
  }

  lstat(name: string): Promise<Stats> {
    return lstat(this.#at(name));
  }

  readlink(name: string): Promise<string> {
    return readlink(this.#at(name));
  }

  async names(): Promise<readonly string[]> {
    return (await readdir(`/proc/self/fd/${this.#handle.fd}`)).toSorted();
  }

  mkdir(name: string, mode: number): Promise<unknown> {
    return mkdir(this.#at(name), { mode });
  }

  /** Changes itself. */
  async change(owner: { readonly uid: number; readonly gid: number }, mode: number): Promise<void> {
    await this.#handle.chown(owner.uid, owner.gid);
    await this.#handle.chmod(mode);
  }

  /** A file without a name, which is gone with its handle unless it is given one. */
  nameless(): Promise<FileHandle> {
    return open(`/proc/self/fd/${this.#handle.fd}`, O_TMPFILE | constants.O_RDWR, 0o600);
  }

  /** `linkAt` gives a name to the open file. It takes the place of what has that name, unless that is a folder: EISDIR. */
  async publish(file: FileHandle, name: string, spare: string, linkAt: LinkAt): Promise<void> {
    linkAt(file.fd, this.#at(spare));
    try {
      await rename(this.#at(spare), this.#at(name));
    } catch (error) {
      await unlink(this.#at(spare)).catch(() => {});
      throw error;
    }
  }

  /** EEXIST when something has that name. */
  publishNew(file: FileHandle, name: string, linkAt: LinkAt): void {
    linkAt(file.fd, this.#at(name));
  }

  /** A file, a link, or a folder with all that is in it; on no other file system, since nothing is mounted below. */
  async remove(name: string, depth = 0): Promise<void> {
    const found = await this.lstat(name);
    if (!found.isDirectory()) return unlink(this.#at(name));
    if (depth === DEEPEST) throw Object.assign(new Error('folders are too deep'), { code: 'ELOOP' });
    const inner = await this.folder(name);
    try {
      for (const one of await inner.names()) await inner.remove(one, depth + 1);
    } finally {
      await inner.close();
    }
    await rmdir(this.#at(name));
  }

  close(): Promise<void> {
    return this.#handle.close();
  }
}

/** Gives a name to an open file that has none. */
export type LinkAt = (fd: number, path: string) => void;

/** Runs `work` in the folder to which the names lead from an open descriptor, and closes what it took. */
export async function within<T>(
  fd: number,
  names: readonly string[],
  work: (folder: Folder) => Promise<T>,
): Promise<T> {
  let folder = await Folder.of(fd);
  try {
    for (const name of names) {
      const next = await folder.folder(name);
      await folder.close();
      folder = next;
    }
    return await work(folder);
  } finally {
    await folder.close();
  }
}
