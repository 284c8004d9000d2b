/** The tree of snapshots: grown from a flat list, narrowed to one sandbox, drawn. */
import assert from 'node:assert/strict';
import test from 'node:test';
import { drawTree, growTree } from '../../src/cli/lineage.ts';
import { bytes } from '../../src/cli/report.ts';
import type { SnapshotInfo } from '../../src/contract/e2b/responses.ts';

const MIB = 1024 * 1024;
const templates = [{ templateID: 'tpl', buildID: 'golden', names: ['base', 'alias'] }];

/** `minute` orders them. */
function snapshot(buildID: string, parentID: string, sourceID: string, minute: number, memory = true): SnapshotInfo {
  return {
    snapshotID: `${buildID}:default`,
    names: [],
    buildID,
    parentID,
    sourceID,
    memory,
    ownBytes: minute * MIB,
    sharedBytes: 200 * MIB,
    createdAt: new Date(Date.UTC(2026, 0, 1, 0, minute)).toISOString(),
  };
}

const all = [
  snapshot('leaf', 'first', 'itwo', 5),
  snapshot('last', 'golden', 'ithree', 4, false),
  snapshot('second', 'first', 'ione', 3),
  snapshot('first', 'golden', 'ione', 1),
  snapshot('orphan', 'lost', 'ifour', 2),
];

test('from a template down, oldest first; what grew from a build that is gone stands under its id', () => {
  const roots = growTree(all, templates);
  assert.deepEqual(
    roots.map(({ kind, name, buildID, ownBytes }) => [kind, name, buildID, ownBytes]),
    [
      ['template', 'base', 'golden', 200 * MIB],
      ['gone', undefined, 'lost', 0],
    ],
  );
  const [golden] = roots;
  assert.deepEqual(
    golden!.children.map((one) => [one.buildID, one.children.map((below) => below.buildID)]),
    [
      ['first', ['second', 'leaf']],
      ['last', []],
    ],
  );
  assert.deepEqual(growTree([], templates), []);
});

test('of one sandbox: its snapshots and what they grew from, nothing beside', () => {
  const [golden, ...others] = growTree(all, templates, 'itwo');
  assert.deepEqual(others, []);
  assert.deepEqual(
    golden!.children.map((one) => [one.buildID, one.children.map((below) => below.buildID)]),
    [['first', ['leaf']]],
  );
  assert.deepEqual(growTree(all, templates, 'inobody'), []);
});

test('drawn', () => {
  const lines = [
    'SNAPSHOT              OWN        SHARED     KEEPS         OF      TAKEN',
    'base (template)       200.0 MiB',
    '├─ first:default      1.0 MiB    200.0 MiB  memory, disk  ione    2026-01-01T00:01:00.000Z',
    '│  ├─ second:default  3.0 MiB    200.0 MiB  memory, disk  ione    2026-01-01T00:03:00.000Z',
    '│  └─ leaf:default    5.0 MiB    200.0 MiB  memory, disk  itwo    2026-01-01T00:05:00.000Z',
    '└─ last:default       4.0 MiB    200.0 MiB  disk          ithree  2026-01-01T00:04:00.000Z',
    'lost (gone)',
    '└─ orphan:default     2.0 MiB    200.0 MiB  memory, disk  ifour   2026-01-01T00:02:00.000Z',
  ];
  assert.deepEqual(drawTree(growTree(all, templates)).split('\n'), lines);
  assert.equal(drawTree([]), 'no snapshots');
});

test('bytes, as a person reads them', () => {
  assert.deepEqual([0, 1023, 1024, 1536, 200 * MIB, 5 * 2 ** 30, 2 ** 52].map(bytes), [
    '0 B',
    '1023 B',
    '1.0 KiB',
    '1.5 KiB',
    '200.0 MiB',
    '5.0 GiB',
    '4096.0 TiB',
  ]);
});
