/**
 * Puts a tree into a folder: files first, links last, attributes from the bottom up. No symbolic link is there while
 * anything is written by its path, so nothing can be written through one. The folder must be nobody's but ours: it holds
 * set-id programs of strangers.
 */
import {
  chmodSync,
  chownSync,
  closeSync,
  constants,
  lchownSync,
  linkSync,
  lutimesSync,
  mkdirSync,
  openSync,
  renameSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import type { Attributes, Folder, ImageTree, RegularFile, SymbolicLink } from './image-tree.ts';
import { loadSetAttribute, type SetAttribute } from './xattrs.ts';

export interface PlaceOptions {
  /** `image`: the image's, which takes root. `ours`: this process'; the image's owners are lost. */
  readonly owners: 'image' | 'ours';
}

/** `folder` is there and empty; it becomes the root of the tree. The files that the tree's contents name are moved. */
export function placeTree(tree: ImageTree, folder: string, { owners }: PlaceOptions): void {
  const placed = new Map<RegularFile, Buffer>();
  const links: [path: Buffer, link: SymbolicLink][] = [];
  const folders: [path: Buffer, folder: Folder][] = [];
  let setAttribute: SetAttribute | undefined;

  const finish = (path: Buffer, node: Attributes): void => {
    if (owners === 'image') chownSync(path, node.uid, node.gid);
    // After the owner, whose change takes set-id bits and capabilities away.
    chmodSync(path, node.mode);
    if (node.xattrs.size > 0 && owners === 'image') {
      setAttribute ??= loadSetAttribute();
      const fd = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
      try {
        for (const [name, value] of node.xattrs) setAttribute(fd, name, value);
      } finally {
        closeSync(fd);
      }
    }
    utimesSync(path, node.mtimeMs / 1_000, node.mtimeMs / 1_000);
  };

  const placeFile = (path: Buffer, file: RegularFile): void => {
    const first = placed.get(file);
    if (first !== undefined) {
      linkSync(first, path);
      return;
    }
    placed.set(file, path);
    if ('file' in file.content) renameSync(file.content.file, path);
    else writeFileSync(path, file.content.bytes, { flag: 'wx', mode: 0o600 });
    finish(path, file);
  };

  const left: [path: Buffer, folder: Folder][] = [[Buffer.from(folder), tree.root]];
  for (let next = left.pop(); next !== undefined; next = left.pop()) {
    const [path, { children }] = next;
    folders.push(next);
    for (const [name, { node }] of children) {
      const child = Buffer.concat([path, Buffer.from(`/${name}`, 'latin1')]);
      if (node.kind === 'symlink') links.push([child, node]);
      else if (node.kind === 'file') placeFile(child, node);
      else {
        mkdirSync(child, { mode: 0o700 });
        left.push([child, node]);
      }
    }
  }
  for (const [path, { target, uid, gid, mtimeMs }] of links) {
    symlinkSync(Buffer.from(target, 'latin1'), path);
    if (owners === 'image') lchownSync(path, uid, gid);
    lutimesSync(path, mtimeMs / 1_000, mtimeMs / 1_000);
  }
  // Those within before what they are in: without search permission nothing below could be reached.
  for (const [path, node] of folders.toReversed()) finish(path, node);
}
