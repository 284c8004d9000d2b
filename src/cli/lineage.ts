/** Which snapshot grew from which, from a template down: as a tree for machines, and drawn for a person. */
import type { SnapshotInfo, Template } from '../contract/e2b/responses.ts';
import { bytes, table } from './report.ts';

export interface SnapshotNode extends SnapshotInfo {
  readonly kind: 'snapshot';
  readonly children: readonly SnapshotNode[];
}

/** A template, or a build that is no longer there and that snapshots grew from (`gone`). */
export interface RootNode {
  readonly kind: 'template' | 'gone';
  /** The template's first name. */
  readonly name?: string;
  readonly templateID?: string;
  readonly buildID: string;
  /** Bytes of its golden checkpoint, which all snapshots below share; 0 of one that is gone. */
  readonly ownBytes: number;
  readonly children: readonly SnapshotNode[];
}

/** @param sourceID only the snapshots of this sandbox, and what they grew from */
export function growTree(
  snapshots: readonly SnapshotInfo[],
  templates: readonly Pick<Template, 'buildID' | 'templateID' | 'names'>[],
  sourceID?: string,
): RootNode[] {
  const kept = sourceID === undefined ? snapshots : withAncestors(snapshots, sourceID);
  const byParent = Map.groupBy(
    kept.toSorted((a, b) => Date.parse(a.createdAt) - Date.parse(b.createdAt)),
    (one) => one.parentID,
  );
  const childrenOf = (buildID: string): SnapshotNode[] =>
    (byParent.get(buildID) ?? []).map((one) => ({ kind: 'snapshot', ...one, children: childrenOf(one.buildID) }));
  const known = new Set(kept.map((one) => one.buildID));
  return [...byParent.keys()]
    .filter((buildID) => !known.has(buildID))
    .map((buildID) => {
      const children = childrenOf(buildID);
      const template = templates.find((one) => one.buildID === buildID);
      if (template === undefined) return { kind: 'gone', buildID, ownBytes: 0, children };
      const { templateID, names } = template;
      const name = names[0] ?? templateID;
      const ownBytes = Math.max(...children.map((one) => one.sharedBytes));
      return { kind: 'template', name, templateID, buildID, ownBytes, children };
    });
}

/** One table: the tree in its first column, and what each takes of the disk beside it. */
export function drawTree(roots: readonly RootNode[]): string {
  if (roots.length === 0) return 'no snapshots';
  const rows = roots.flatMap((root) => [
    [rootLabel(root), root.kind === 'template' ? bytes(root.ownBytes) : '', '', '', '', ''],
    ...root.children.flatMap((one, index) => drawNode(one, '', index === root.children.length - 1)),
  ]);
  return table(['SNAPSHOT', 'OWN', 'SHARED', 'KEEPS', 'OF', 'TAKEN'], rows);
}

function rootLabel({ kind, name, buildID }: RootNode): string {
  return kind === 'template' ? `${name} (template)` : `${buildID} (gone)`;
}

function drawNode(node: SnapshotNode, indent: string, last: boolean): string[][] {
  const row = [
    `${indent}${last ? '└─ ' : '├─ '}${node.snapshotID}`,
    bytes(node.ownBytes),
    bytes(node.sharedBytes),
    node.memory ? 'memory, disk' : 'disk',
    node.sourceID,
    node.createdAt,
  ];
  const below = `${indent}${last ? '   ' : '│  '}`;
  return [row, ...node.children.flatMap((one, index) => drawNode(one, below, index === node.children.length - 1))];
}

function withAncestors(snapshots: readonly SnapshotInfo[], sourceID: string): SnapshotInfo[] {
  const byBuild = new Map(snapshots.map((one) => [one.buildID, one]));
  const kept = new Set<SnapshotInfo>();
  for (const one of snapshots) {
    if (one.sourceID !== sourceID) continue;
    for (let at: SnapshotInfo | undefined = one; at !== undefined && !kept.has(at); at = byBuild.get(at.parentID))
      kept.add(at);
  }
  return snapshots.filter((one) => kept.has(one));
}
