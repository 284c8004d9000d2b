import assert from 'node:assert/strict';
import test from 'node:test';
import { cpioArchive } from '../../src/isolation/microvm/cpio.ts';
import { probeProgram } from '../../src/isolation/microvm/probe-program.ts';
import { emptyOverlay, overlayFault } from '../../src/isolation/microvm/qcow2.ts';

const SIZE = 2 * 2 ** 30;

test('an empty overlay counts a reference for each of its clusters and no more', () => {
  const image = emptyOverlay(SIZE);
  const cluster = 2 ** image.readUInt32BE(20);
  const table = Number(image.readBigUInt64BE(48));
  const block = Number(image.readBigUInt64BE(table));
  const counts = Array.from({ length: cluster / 2 }, (_, index) => image.readUInt16BE(block + 2 * index));
  assert.equal(counts.indexOf(0), image.length / cluster);
  assert.ok(counts.slice(0, image.length / cluster).every((count) => count === 1));
  assert.ok(counts.slice(image.length / cluster).every((count) => count === 0));
});

test('the map of an overlay covers its whole size', () => {
  for (const bytes of [512, 1024 * 2 ** 20, 100 * 2 ** 30]) {
    const image = emptyOverlay(bytes);
    const cluster = 2 ** image.readUInt32BE(20);
    const entries = image.readUInt32BE(36);
    assert.ok(entries * (cluster / 8) * cluster >= bytes);
    assert.ok(Number(image.readBigUInt64BE(40)) + entries * 8 <= image.length);
    assert.equal(overlayFault(image, bytes), undefined);
  }
});

test('an overlay of a size that is no disk is refused', () => {
  for (const bytes of [0, -512, 513, Number.NaN, 2 ** 60]) assert.throws(() => emptyOverlay(bytes), RangeError);
});

test('an overlay that could open another file is refused', () => {
  const spoil = (change: (image: Buffer) => void) => {
    const image = emptyOverlay(SIZE);
    change(image);
    return overlayFault(image, SIZE);
  };
  assert.equal(
    spoil(() => {}),
    undefined,
  );
  assert.match(spoil((image) => image.writeBigUInt64BE(512n, 8)) ?? '', /backing file/);
  assert.match(spoil((image) => image.writeBigUInt64BE(4n, 72)) ?? '', /feature/);
  assert.match(spoil((image) => image.writeUInt32BE(1, 60)) ?? '', /snapshots/);
  assert.match(spoil((image) => image.writeUInt32BE(2, 32)) ?? '', /encrypted/);
  assert.match(spoil((image) => image.writeBigUInt64BE(1n, 24)) ?? '', /size/);
  assert.match(spoil((image) => image.write('raw!', 0)) ?? '', /not a qcow2/);
  assert.match(overlayFault(Buffer.alloc(10), SIZE) ?? '', /shorter/);
});

test('an archive has its headers and data on multiples of four, and ends with its trailer', () => {
  const archive = cpioArchive([
    { path: 'bin', mode: 0o040755 },
    { path: 'bin/x', mode: 0o100755, data: Buffer.from('hello') },
  ]);
  const names: string[] = [];
  for (let at = 0; at < archive.length; ) {
    assert.equal(archive.toString('latin1', at, at + 6), '070701');
    const field = (index: number) =>
      Number.parseInt(archive.toString('latin1', at + 6 + 8 * index, at + 14 + 8 * index), 16);
    const nameEnd = at + 110 + field(11);
    const name = archive.toString('latin1', at + 110, nameEnd - 1);
    const data = Math.ceil(nameEnd / 4) * 4;
    names.push(name);
    if (name === 'bin/x') assert.equal(archive.toString('latin1', data, data + field(6)), 'hello');
    at = Math.ceil((data + field(6)) / 4) * 4;
  }
  assert.deepEqual(names, ['bin', 'bin/x', 'TRAILER!!!']);
});

test('the probe program is an x86-64 executable that starts after its headers', () => {
  const program = probeProgram();
  assert.equal(program.toString('latin1', 0, 4), '\x7fELF');
  assert.equal(program.readUInt16LE(18), 62);
  const entry = Number(program.readBigUInt64LE(24) - program.readBigUInt64LE(80));
  assert.equal(entry, 120);
  assert.equal(program[entry], 0xbd);
  assert.equal(Number(program.readBigUInt64LE(96)), program.length);
});
