/** What is read of a VMM's memory from outside, on texts and entries as the kernel writes them, and on this very process. */
import assert from 'node:assert/strict';
import test from 'node:test';
import fc from 'fast-check';
import { addOwnRuns, findMapping, openGuestMemory } from '../../src/isolation/microvm/qemu/own-pages.ts';
import { readProcess } from '../../src/isolation/process-table.ts';

const MAPS = [
  '55d0c0000000-55d0c0100000 r-xp 00000000 fe:00 12     /usr/bin/qemu-system-x86_64',
  '7f0ecd7ff000-7f0ecdfff000 rw-p 00000000 00:00 0 ',
  '7f0ecdfff000-7f0eedfff000 rw-p 00000000 fe:00 2203882                    /home/a b/golden/memory',
  '7f0eedfff000-7f0eee000000 ---p 00000000 00:00 0 ',
];
const RAM = 2 ** 29;
const find = (maps: readonly string[], bytes = RAM, names = ['/home/a b/golden/memory']) =>
  findMapping(maps.join('\n'), names, bytes);

test('guest memory is the private mapping of its whole file, whether or not that has its name still', () => {
  assert.equal(find(MAPS), 0x7f0ecdfff000);
  assert.equal(find(MAPS.map((line) => line.replace('/memory', '/memory (deleted)'))), 0x7f0ecdfff000);
  const escaped = MAPS.map((line) => line.replace('/home/a b', '/home/a\\012b\\134'));
  assert.equal(find(escaped, RAM, ['/home/a\nb\\/golden/memory']), 0x7f0ecdfff000);
});

test('a VMM with no such mapping, several, or one that is not whole is refused', () => {
  const refused = { code: 'internal', message: /\d mappings of its golden memory/ };
  assert.throws(() => find([]), refused);
  assert.throws(() => find(MAPS, RAM / 2), refused);
  assert.throws(() => find(MAPS, RAM, ['/other']), refused);
  assert.throws(() => find([...MAPS, MAPS[2]!]), refused);
  for (const other of ['rw-s', 'r--p', 'rwxp']) assert.throws(() => find([MAPS[2]!.replace('rw-p', other)]), refused);
  assert.throws(() => find([MAPS[2]!.replace('00000000 fe', '00001000 fe')]), refused);
});

test('no text makes it do anything else', () => {
  fc.assert(
    fc.property(fc.array(fc.string({ unit: 'binary' })), (lines) => {
      assert.throws(() => find(lines), { code: 'internal' });
    }),
  );
});

test('own are the pages that are present or swapped and not of a file', () => {
  const [present, swapped, file] = [1n << 63n, 1n << 62n, 1n << 61n];
  const entries = [0n, present, present | 5n, present | file, swapped, swapped | present, file, present, 0n];
  const bytes = Buffer.alloc(entries.length * 8);
  for (const [index, entry] of entries.entries()) bytes.writeBigUInt64LE(entry, index * 8);
  const runs: { first: number; count: number }[] = [];
  addOwnRuns(runs, bytes, 100);
  assert.deepEqual(runs, [
    { first: 101, count: 2 },
    { first: 104, count: 2 },
    { first: 107, count: 1 },
  ]);
  addOwnRuns(runs, bytes.subarray(8, 16), 108);
  assert.deepEqual(runs.at(-1), { first: 107, count: 2 });
});

test('a process that is gone, or was replaced, is not read', async () => {
  const here = { pid: process.pid, startTime: readProcess(process.pid)!.startTime };
  await assert.rejects(openGuestMemory({ pid: 2 ** 22 + 1, startTime: '1' }, '/x', RAM, 'read'), {
    code: 'unavailable',
  });
  await assert.rejects(openGuestMemory({ ...here, startTime: '1' }, '/x', RAM, 'read'), { code: 'unavailable' });
  await assert.rejects(openGuestMemory(here, '/x', RAM, 'read'), { code: 'internal' });
});
