/** The archive that the kernel unpacks: layout of the newc format, field by field, and the same bytes each time. */
import assert from 'node:assert/strict';
import test from 'node:test';
import { gunzipSync } from 'node:zlib';
import { type CpioEntry, writeCpio } from '../../src/templates/cpio.ts';
import { initrdEntries, makeInitrd } from '../../src/templates/initrd.ts';

interface Parsed {
  readonly path: string;
  readonly mode: number;
  readonly links: number;
  readonly inode: number;
  readonly rdev: readonly [number, number];
  readonly data: Buffer;
}

/** A reader of its own, written from the format's description. */
function readCpio(archive: Uint8Array): Parsed[] {
  const bytes = Buffer.from(archive);
  const entries: Parsed[] = [];
  let at = 0;
  const align = (offset: number) => (offset + 3) & ~3;
  for (;;) {
    assert.equal(bytes.toString('latin1', at, at + 6), '070701');
    const field = (index: number) =>
      Number.parseInt(bytes.toString('latin1', at + 6 + index * 8, at + 14 + index * 8), 16);
    const nameSize = field(11);
    const name = bytes.toString('utf8', at + 110, at + 110 + nameSize - 1);
    assert.equal(bytes[at + 110 + nameSize - 1], 0);
    const start = align(at + 110 + nameSize);
    const size = field(6);
    if (name === 'TRAILER!!!') return entries;
    const data = bytes.subarray(start, start + size);
    entries.push({ path: name, mode: field(1), links: field(4), inode: field(0), rdev: [field(9), field(10)], data });
    at = align(start + size);
  }
}

const SAMPLE: CpioEntry[] = [
  { type: 'directory', path: 'dev', mode: 0o755 },
  { type: 'character', path: 'dev/console', mode: 0o600, major: 5, minor: 1 },
  { type: 'file', path: 'init', mode: 0o755, data: Buffer.from('#!/bin/sh\n') },
  { type: 'symlink', path: 'sh', target: 'bin/busybox' },
  { type: 'file', path: 'empty', mode: 0o644, data: new Uint8Array() },
];

test('every kind of entry comes back as it went in', () => {
  const parsed = readCpio(writeCpio(SAMPLE));
  assert.deepEqual(
    parsed.map(({ path, mode, links }) => [path, mode.toString(8), links]),
    [
      ['dev', '40755', 2],
      ['dev/console', '20600', 1],
      ['init', '100755', 1],
      ['sh', '120777', 1],
      ['empty', '100644', 1],
    ],
  );
  assert.deepEqual(parsed[1]?.rdev, [5, 1]);
  assert.equal(parsed[2]?.data.toString(), '#!/bin/sh\n');
  assert.equal(parsed[3]?.data.toString(), 'bin/busybox');
  assert.equal(new Set(parsed.map(({ inode }) => inode)).size, parsed.length);
});

test('the archive is a multiple of four bytes long whatever the sizes are', () => {
  for (let size = 0; size < 9; size += 1) {
    const entries: CpioEntry[] = [
      { type: 'file', path: 'x'.repeat(size + 1), mode: 0o644, data: new Uint8Array(size) },
    ];
    const archive = writeCpio(entries);
    assert.equal(archive.length % 4, 0);
    assert.equal(readCpio(archive)[0]?.data.length, size);
  }
});

test('absolute and empty paths are refused', () => {
  for (const path of ['/init', '', 'a\0b'])
    assert.throws(() => writeCpio([{ type: 'directory', path, mode: 0o755 }]), TypeError);
});

test('modules are numbered in load order, parents come before children, and the bytes are stable', () => {
  const parts = {
    busybox: Buffer.from('busybox'),
    init: Buffer.from('init'),
    modules: [
      { name: 'virtio_ring', data: Buffer.from('one') },
      { name: 'virtio', data: Buffer.from('two') },
    ],
  };
  const paths = initrdEntries(parts).map(({ path }) => path);
  assert.ok(paths.indexOf('modules') < paths.indexOf('modules/00-virtio_ring.ko'));
  assert.ok(paths.includes('modules/01-virtio.ko'));
  for (const path of paths) {
    const parent = path.slice(0, Math.max(path.lastIndexOf('/'), 0));
    if (parent !== '') assert.ok(paths.indexOf(parent) < paths.indexOf(path), path);
  }
  const first = makeInitrd(parts);
  assert.deepEqual(first, makeInitrd(parts));
  assert.deepEqual(
    readCpio(gunzipSync(first)).map(({ path }) => path),
    paths,
  );
});
