/**
 * The file system that the layers of an image add up to, in memory: names, attributes, and where each file's bytes are kept.
 * Nothing on disk has a name of the image's choice while layers are read, so no link of theirs can lead anywhere: links are
 * followed here, within the image, as they will be in a sandbox. Names are bytes, one character each.
 *
 * A layer is a list of changes over those below it: an entry replaces what has its name (a folder joins a folder), `.wh.x`
 * hides the x below, `.wh..wh..opq` hides all that is below its folder. What the layer itself brings is never hidden by it,
 * in whatever order it comes.
 */
import { CoppiceError } from '../../contract/errors.ts';

export interface Attributes {
  /** Permissions, set-id bits and the sticky bit. */
  mode: number;
  uid: number;
  gid: number;
  /** Milliseconds since the epoch. */
  mtimeMs: number;
  xattrs: ReadonlyMap<string, Buffer>;
}

/** A file's bytes: on disk under a name of ours, or in memory when they are ours. */
export type Content = { readonly file: string; readonly size: number } | { readonly bytes: Buffer };

export interface Folder extends Attributes {
  readonly kind: 'folder';
  readonly children: Map<string, Named>;
  /** Bytes of its path, without the slash at its end. */
  readonly pathBytes: number;
  readonly depth: number;
  /** Layer that has hidden what lies below. */
  hiddenBy: number;
}

export interface RegularFile extends Attributes {
  readonly kind: 'file';
  readonly content: Content;
  /** Under how many names it is in the tree. */
  names: number;
}

export interface SymbolicLink extends Attributes {
  readonly kind: 'symlink';
  readonly target: string;
}

export type TreeNode = Folder | RegularFile | SymbolicLink;

/** A node under a name, and the layer that put it there. */
export interface Named {
  readonly node: TreeNode;
  layer: number;
}

export interface LayerChange {
  readonly path: string;
  readonly attributes: Attributes;
}

const MOST_LINKS = 40;
/** Names of one file: ext4 takes 65,000. */
const MOST_NAMES = 60_000;
const LONGEST_NAME = 255;
/** Of a path within the image; where it is unpacked comes before it. */
const LONGEST_PATH = 3_500;
const DEEPEST = 256;
const WHITEOUT = '.wh.';
const OPAQUE = '.wh..wh..opq';
/** What aufs kept for itself. */
const AUFS = '.wh..wh.';

export class ImageTree {
  readonly root: Folder = newFolder(undefined, '');
  readonly #onDropped: (content: Content) => void;
  #layer = 0;

  /** `onDropped` hears of bytes that no name leads to any more. */
  constructor(onDropped: (content: Content) => void = () => {}) {
    this.#onDropped = onDropped;
  }

  /** What comes from here on lies over all that came before. */
  beginLayer(): void {
    this.#layer += 1;
  }

  /** True when the name stands for something to hide, which is then done. */
  hide(path: string): boolean {
    const { above, name } = split(path);
    if (name === undefined || !name.startsWith(WHITEOUT)) return false;
    if (name === OPAQUE) this.#hideAll(above);
    if (name.startsWith(AUFS)) return true;
    const hidden = name.slice(WHITEOUT.length);
    if (hidden === '' || hidden === '.' || hidden === '..') throw bad(path, 'hides what is no name');
    const folder = this.#find(above);
    if (folder?.kind === 'folder') this.#purgeNamed(folder, hidden);
    return true;
  }

  /** Its children stay when it is a folder already. */
  addFolder({ path, attributes }: LayerChange): void {
    const { above, name } = split(path);
    if (name === undefined) {
      Object.assign(this.root, attributes);
      return;
    }
    const parent = this.#folder(above);
    const there = parent.children.get(name);
    if (there?.node.kind === 'folder') {
      Object.assign(there.node, attributes);
      there.layer = this.#layer;
      return;
    }
    this.#put(parent, name, Object.assign(newFolder(parent, name), attributes));
  }

  addFile({ path, attributes }: LayerChange, content: Content): void {
    const { parent, name } = this.#place(path);
    this.#put(parent, name, { kind: 'file', ...attributes, content, names: 0 });
  }

  addSymlink({ path, attributes }: LayerChange, target: string): void {
    if (target === '') throw bad(path, 'is a link to nothing');
    const { parent, name } = this.#place(path);
    this.#put(parent, name, { kind: 'symlink', ...attributes, target });
  }

  /** Another name of a file that is there. */
  addHardlink(path: string, target: string): void {
    const { above, name: last } = split(target);
    const folder = last === undefined ? undefined : this.#find(above);
    const node = folder?.kind === 'folder' ? folder.children.get(last!)?.node : undefined;
    if (node === undefined) throw bad(path, `is another name of '${shown(target)}', which is not there`);
    if (node.kind === 'folder') throw bad(path, 'is another name of a folder');
    if (node.kind === 'file' && node.names >= MOST_NAMES) throw bad(path, 'is one name too many of a file');
    const { parent, name } = this.#place(path);
    // The same name again changes nothing, and must not drop the file before it is there anew.
    if (parent.children.get(name)?.node !== node) this.#put(parent, name, node);
  }

  /** Removes the name and all below it, whichever layer it is of. */
  remove(path: string): void {
    const { above, name } = split(path);
    const folder = name === undefined ? undefined : this.#find(above);
    if (folder?.kind === 'folder' && name !== undefined) this.#drop(folder, name);
  }

  /** What the path means, links followed within the image; undefined: nothing, or a link that leads nowhere. */
  find(path: string): TreeNode | undefined {
    return this.#find(components(path));
  }

  /** As `find`, but a link at the end of the path is itself the answer. */
  findNamed(path: string): TreeNode | undefined {
    const { above, name } = split(path);
    if (name === undefined) return this.root;
    const folder = this.#find(above);
    return folder?.kind === 'folder' ? folder.children.get(name)?.node : undefined;
  }

  #place(path: string): { parent: Folder; name: string } {
    const { above, name } = split(path);
    if (name === undefined) throw bad(path, 'is the root and no folder');
    return { parent: this.#folder(above), name };
  }

  #put(parent: Folder, name: string, node: TreeNode): void {
    if (parent.pathBytes + 1 + name.length > LONGEST_PATH) throw bad(name, 'lies too deep');
    if (node.kind === 'file') node.names += 1;
    this.#drop(parent, name);
    parent.children.set(name, { node, layer: this.#layer });
  }

  #drop(parent: Folder, name: string): void {
    const there = parent.children.get(name);
    if (there === undefined) return;
    parent.children.delete(name);
    this.#forget(there.node);
  }

  #forget(node: TreeNode): void {
    if (node.kind === 'folder') for (const { node: child } of node.children.values()) this.#forget(child);
    else if (node.kind === 'file' && --node.names === 0) this.#onDropped(node.content);
  }

  /** The folder itself is this layer's then, whatever hides it. */
  #hideAll(path: readonly string[]): void {
    const folder = this.#folder(path);
    const parent = this.#find(path.slice(0, -1));
    const named = parent?.kind === 'folder' ? parent.children.get(path.at(-1) ?? '') : undefined;
    if (named !== undefined) named.layer = this.#layer;
    this.#purge(folder);
  }

  /** Hides all in it that is of layers below. Once for each layer: nothing of those comes back meanwhile. */
  #purge(folder: Folder): void {
    if (folder.hiddenBy === this.#layer) return;
    folder.hiddenBy = this.#layer;
    for (const name of [...folder.children.keys()]) this.#purgeNamed(folder, name);
  }

  #purgeNamed(folder: Folder, name: string): void {
    const there = folder.children.get(name);
    if (there === undefined) return;
    if (there.node.kind === 'folder') {
      this.#purge(there.node);
      if (there.node.children.size > 0) return;
    }
    if (there.layer < this.#layer) this.#drop(folder, name);
  }

  /** The folder there, made where it is missing; through links, within the image. */
  #folder(path: readonly string[]): Folder {
    const node = this.#walk(path, true);
    if (node?.kind !== 'folder') throw bad(path.join('/'), 'is no folder, and holds something');
    return node;
  }

  #find(path: readonly string[]): TreeNode | undefined {
    return this.#walk(path, false);
  }

  #walk(path: readonly string[], make: boolean): TreeNode | undefined {
    const trail: Folder[] = [this.root];
    // Reversed, so that the target of a link is put before what is left.
    const left = path.toReversed();
    let links = 0;
    for (;;) {
      const name = left.pop();
      const here = trail.at(-1)!;
      if (name === undefined) return here;
      if (name === '' || name === '.') continue;
      if (name === '..') {
        if (trail.length > 1) trail.pop();
        continue;
      }
      let node = here.children.get(name)?.node;
      if (node === undefined && make) {
        node = newFolder(here, name);
        this.#put(here, name, node);
      }
      if (node === undefined) return undefined;
      if (node.kind === 'symlink') {
        if (++links > MOST_LINKS) throw bad(path.join('/'), 'goes through too many links');
        if (node.target.startsWith('/')) trail.length = 1;
        left.push(...node.target.split('/').toReversed());
        continue;
      }
      if (node.kind === 'folder') trail.push(node);
      else return left.every((rest) => rest === '' || rest === '.') ? node : undefined;
    }
  }
}

function newFolder(parent: Folder | undefined, name: string): Folder {
  const pathBytes = parent === undefined ? 0 : parent.pathBytes + 1 + name.length;
  const depth = parent === undefined ? 0 : parent.depth + 1;
  if (depth > DEEPEST) throw bad(name, 'lies too deep');
  const attributes = { mode: 0o755, uid: 0, gid: 0, mtimeMs: 0, xattrs: new Map<string, Buffer>() };
  return { kind: 'folder', ...attributes, children: new Map(), pathBytes, depth, hiddenBy: 0 };
}

/** The names of a path of a layer. One that goes up, or a name that no file system takes: bad_request. */
function components(path: string): string[] {
  const names = path.split('/').filter((name) => name !== '' && name !== '.');
  for (const name of names) {
    if (name === '..') throw bad(path, 'leads out of the image');
    if (name.length > LONGEST_NAME) throw bad(path, 'has a name that is too long');
    if (name.includes('\0')) throw bad(path, 'has a name that holds a zero byte');
  }
  return names;
}

/** `name` is undefined for the root. */
function split(path: string): { readonly above: readonly string[]; readonly name: string | undefined } {
  const names = components(path);
  return { above: names.slice(0, -1), name: names.at(-1) };
}

function bad(path: string, what: string): CoppiceError {
  return new CoppiceError('bad_request', `'${shown(path)}' in a layer of the image ${what}`);
}

/** Bytes as a person can read them. */
function shown(path: string): string {
  return Buffer.from(path.slice(0, 200), 'latin1').toString('utf8');
}
