/** A plan for a guest's root (guest-root.ts), read from and applied to the tree of an image before it is on any disk. */
import { readFileSync } from 'node:fs';
import type { RootChange, RootNode, RootView } from '../guest-root.ts';
import type { Attributes, ImageTree, TreeNode } from './image-tree.ts';

const MOST_TEXT_BYTES = 1024 * 1024;

export function viewOf(tree: ImageTree): RootView {
  const told = (node: TreeNode | undefined): RootNode | undefined => node && { kind: node.kind, mode: node.mode };
  return {
    find: (path) => told(tree.find(path)),
    findNamed: (path) => told(tree.findNamed(path)),
    list(path) {
      const node = tree.find(path);
      return node?.kind === 'folder' ? [...node.children.keys()].toSorted() : [];
    },
    read(path) {
      const node = tree.find(path);
      if (node?.kind !== 'file') return undefined;
      const { content } = node;
      if ('bytes' in content) return content.bytes.toString('latin1');
      return content.size <= MOST_TEXT_BYTES ? readFileSync(content.file, 'latin1') : undefined;
    },
  };
}

/** `timeMs`: the date of what is added. */
export function applyChanges(tree: ImageTree, changes: readonly RootChange[], timeMs: number): void {
  tree.beginLayer();
  for (const change of changes) {
    const { path } = change;
    if (change.kind === 'absent') {
      tree.remove(path);
      continue;
    }
    if (change.kind === 'symlink') {
      tree.addSymlink({ path, attributes: newAttributes({ uid: 0, gid: 0 }, 0o777, timeMs) }, change.target);
      continue;
    }
    const attributes = newAttributes(change.owner, change.mode, timeMs);
    if (change.kind === 'file') tree.addFile({ path, attributes }, { bytes: Buffer.from(change.text, 'latin1') });
    else if (change.own || tree.findNamed(path)?.kind !== 'folder') tree.addFolder({ path, attributes });
  }
}

function newAttributes({ uid, gid }: { uid: number; gid: number }, mode: number, mtimeMs: number): Attributes {
  return { mode, uid, gid, mtimeMs, xattrs: new Map() };
}
