/** What can be done to the files of a volume: the actions of E2B's content API. Nothing in it is ever followed out of it. */
import { randomUUID } from 'node:crypto';
import type { FileHandle } from 'node:fs/promises';
import { CoppiceError } from '../contract/errors.ts';
import { type Folder, type LinkAt, within } from './beneath.ts';
import { entryOf, namesOf, type VolumeEntry } from './entry.ts';
import { OWNER } from './image.ts';
import { loadLinkAt } from './link-at.ts';

/** Members that are not there: of what is made, the defaults; of what is changed, what it has. */
export interface Metadata {
  readonly uid?: number | undefined;
  readonly gid?: number | undefined;
  readonly mode?: number | undefined;
}

const FILE_MODE = 0o644;
const FOLDER_MODE = 0o755;
/** Entries of one list. */
const MOST_ENTRIES = 10_000;

/** Every error is a CoppiceError. `root`: open descriptor of the volume's root folder. */
export class VolumeContent {
  readonly #root: number;
  static #linkAt: LinkAt | undefined;

  constructor(root: number) {
    this.#root = root;
  }

  stat(path: string | undefined): Promise<VolumeEntry> {
    return this.#act(path, async (folder, name, names) =>
      name === undefined ? entryOf(names, await folder.stat()) : entryIn(folder, name, names),
    );
  }

  /** `depth`: 1 is the folder's own entries. By name, each folder before what is in it. */
  async list(path: string | undefined, depth: number): Promise<readonly VolumeEntry[]> {
    const found: VolumeEntry[] = [];
    const walk = async (folder: Folder, names: readonly string[], left: number): Promise<void> => {
      for (const name of await folder.names()) {
        if (found.length === MOST_ENTRIES)
          throw new CoppiceError('bad_request', `more than ${MOST_ENTRIES} entries; list with less depth`);
        const at = [...names, name];
        const entry = await entryIn(folder, name, at).catch(unlessGone);
        if (!entry) continue;
        found.push(entry);
        if (left <= 1 || entry.type !== 'directory') continue;
        const inner = await folder.folder(name).catch(unlessGone);
        if (!inner) continue;
        try {
          await walk(inner, at, left - 1);
        } finally {
          await inner.close();
        }
      }
    };
    await this.#within(namesOf(path), path, (folder, names) => walk(folder, names, depth));
    return found;
  }

  /** `parents`: missing folders on the way are made, and one that is there is as good as made. */
  async makeFolder(path: string | undefined, wish: Metadata, parents: boolean): Promise<VolumeEntry> {
    const make = async (folder: Folder, name: string): Promise<void> => {
      await folder.mkdir(name, 0o700);
      const made = await folder.folder(name);
      try {
        await made.change(ownerOf(wish), wish.mode ?? FOLDER_MODE);
      } finally {
        await made.close();
      }
    };
    if (parents) {
      const names = namesOf(path);
      for (let length = 1; length <= names.length; length++) {
        const part = `/${names.slice(0, length).join('/')}`;
        await this.#act(part, (folder, name) => make(folder, name!).catch(unlessThere));
      }
      const entry = await this.stat(path);
      if (entry.type !== 'directory') throw new CoppiceError('conflict', `${entry.path} exists and is no directory`);
      return entry;
    }
    return this.#act(path, async (folder, name, names) => {
      if (name === undefined) throw new CoppiceError('conflict', '/ exists');
      await make(folder, name);
      return entryIn(folder, name, names);
    });
  }

  /** `replace`: false, when a file that is there must stay. It appears whole or not at all. */
  write(
    path: string | undefined,
    wish: Metadata,
    body: AsyncIterable<Uint8Array>,
    replace: boolean,
  ): Promise<VolumeEntry> {
    return this.#act(path, async (folder, name, names) => {
      if (name === undefined) throw new CoppiceError('bad_request', 'path: / is a directory');
      const there = await folder.lstat(name).catch(unlessGone);
      if (there?.isDirectory()) throw new CoppiceError('bad_request', `path: ${path} is a directory`);
      if (there && !replace) throw new CoppiceError('conflict', `${path} exists`);
      const file = await folder.nameless();
      try {
        await pour(body, file);
        const { uid, gid } = ownerOf(wish, there);
        await file.chown(uid, gid);
        await file.chmod(wish.mode ?? (there?.isFile() ? there.mode & 0o7777 : FILE_MODE));
        VolumeContent.#linkAt ??= loadLinkAt();
        if (replace) await folder.publish(file, name, `.${randomUUID()}`, VolumeContent.#linkAt);
        else folder.publishNew(file, name, VolumeContent.#linkAt);
        return entryOf(names, await file.stat());
      } finally {
        await file.close();
      }
    });
  }

  /** An open regular file; the caller's to close. */
  read(path: string | undefined): Promise<{ readonly file: FileHandle; readonly size: number }> {
    return this.#act(path, async (folder, name) => {
      if (name === undefined) throw new CoppiceError('bad_request', 'path: / is a directory');
      const file = await folder.file(name);
      const stats = await file.stat();
      if (stats.isFile()) return { file, size: stats.size };
      await file.close();
      throw new CoppiceError('bad_request', `path: ${path} is ${stats.isDirectory() ? 'a directory' : 'no file'}`);
    });
  }

  change(path: string | undefined, wish: Metadata): Promise<VolumeEntry> {
    return this.#act(path, async (folder, name, names) => {
      const file = name === undefined ? undefined : await folder.file(name);
      try {
        const stats = await (file ?? folder).stat();
        const { uid, gid } = ownerOf(wish, stats);
        const mode = wish.mode ?? stats.mode & 0o7777;
        if (file) {
          await file.chown(uid, gid);
          await file.chmod(mode);
        } else await folder.change({ uid, gid }, mode);
        return entryOf(names, await (file ?? folder).stat());
      } finally {
        await file?.close();
      }
    });
  }

  /** A folder with all that is in it. */
  remove(path: string | undefined): Promise<void> {
    return this.#act(path, async (folder, name) => {
      if (name === undefined) throw new CoppiceError('bad_request', 'path: / cannot be removed');
      await folder.remove(name);
    });
  }

  /** In the folder that has the last name; `name` undefined: it is the root that is spoken of. */
  #act<T>(
    path: string | undefined,
    work: (folder: Folder, name: string | undefined, names: readonly string[]) => Promise<T>,
  ): Promise<T> {
    const names = namesOf(path);
    return this.#within(names.slice(0, -1), path, (folder) => work(folder, names.at(-1), names));
  }

  async #within<T>(
    names: readonly string[],
    path: string | undefined,
    work: (folder: Folder, names: readonly string[]) => Promise<T>,
  ): Promise<T> {
    try {
      return await within(this.#root, names, (folder) => work(folder, names));
    } catch (error) {
      throw toCoppiceError(error, path);
    }
  }
}

async function entryIn(folder: Folder, name: string, names: readonly string[]): Promise<VolumeEntry> {
  const stats = await folder.lstat(name);
  return entryOf(names, stats, stats.isSymbolicLink() ? await folder.readlink(name) : undefined);
}

function ownerOf(
  wish: Metadata,
  there: { readonly uid: number; readonly gid: number } = OWNER,
): { readonly uid: number; readonly gid: number } {
  return { uid: wish.uid ?? there.uid, gid: wish.gid ?? there.gid };
}

async function pour(body: AsyncIterable<Uint8Array>, file: FileHandle): Promise<void> {
  for await (const bytes of body) {
    for (let at = 0; at < bytes.length; ) at += (await file.write(bytes, at)).bytesWritten;
  }
}

/** Others remove things meanwhile. */
function unlessGone(error: NodeJS.ErrnoException): undefined {
  if (error.code === 'ENOENT' || error.code === 'ENOTDIR' || error.code === 'ELOOP') return undefined;
  throw error;
}

function unlessThere(error: NodeJS.ErrnoException): void {
  if (error.code !== 'EEXIST') throw error;
}

const FAILURES: Readonly<Record<string, readonly [ConstructorParameters<typeof CoppiceError>[0], string]>> = {
  ENOENT: ['path_not_found', 'not found'],
  ENOTDIR: ['path_not_found', 'a name on the way is no directory'],
  ELOOP: ['bad_request', 'is a symbolic link or too deep, and links are not followed'],
  ENXIO: ['bad_request', 'is no file and no directory'],
  EEXIST: ['conflict', 'exists'],
  EISDIR: ['conflict', 'is a directory'],
  ENOTEMPTY: ['conflict', 'is being written to'],
  ENOSPC: ['volume_full', 'the volume is full'],
  EDQUOT: ['volume_full', 'the volume is full'],
  EMLINK: ['volume_full', 'the volume is full'],
};

function toCoppiceError(error: unknown, path: string | undefined): unknown {
  const known = FAILURES[(error as NodeJS.ErrnoException).code ?? ''];
  return error instanceof CoppiceError || !known
    ? error
    : new CoppiceError(known[0], `${path}: ${known[1]}`, { cause: error });
}
