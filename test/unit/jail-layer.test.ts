/** A fresh layer is a sound and empty file system, costs next to nothing, and never replaces what is there. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import {
  closeSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { after, before } from 'node:test';
import { loadDiskCalls } from '../../src/isolation/jail/oci/disk-calls.ts';
import { createLayer, openLayer, readBlank } from '../../src/isolation/jail/oci/layer.ts';

const calls = loadDiskCalls();
let folder: string;
process.env.PATH = `${process.env.PATH}:/usr/sbin:/sbin`;

before(() => {
  folder = mkdtempSync(join(tmpdir(), 'cpl-'));
});
after(() => rmSync(folder, { recursive: true, force: true }));

for (const sizeMB of [16, 256, 1_024, 4_096, 65_536])
  test(`a layer of ${sizeMB} MiB is sound, empty, of that size, and holds little of the disk`, () => {
    const blank = readBlank(folder, sizeMB, calls);
    const path = join(folder, `layer-${sizeMB}`);
    closeSync(createLayer(path, sizeMB, blank));
    const { size, blocks, mode } = statSync(path);
    assert.equal(size, sizeMB * 2 ** 20);
    assert.ok(blocks * 512 < Math.max(2 ** 20, sizeMB * 1_024), `${blocks * 512} bytes`);
    assert.equal(mode & 0o777, 0o600);
    // -f: every part is looked at, not only the superblock's word for it.
    const check = execFileSync('e2fsck', ['-fn', path], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
    assert.match(check, /: 11\/\d+ files/);
    const facts = execFileSync('dumpe2fs', ['-h', path], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
    assert.doesNotMatch(facts, /has_journal/);
    assert.match(facts, /^Filesystem state:\s+clean$/m);
    assert.match(facts, /^Reserved block count:\s+0$/m);
    const [total, free] = ['Block count', 'Free blocks'].map((name) =>
      Number(new RegExp(`^${name}:\\s+(\\d+)$`, 'm').exec(facts)![1]),
    );
    assert.equal(total, (sizeMB * 2 ** 20) / 4_096);
    assert.ok(free! > 0.9 * total!, `${free} of ${total} free`);
    rmSync(path);
  });

test('the blank is made once, left whole, and read again by whoever comes later', () => {
  const first = readBlank(folder, 32, calls);
  const { mtimeMs, ino } = statSync(join(folder, 'blank-32.ext4'));
  assert.deepEqual(readBlank(folder, 32, calls), first);
  const again = statSync(join(folder, 'blank-32.ext4'));
  assert.deepEqual([again.mtimeMs, again.ino], [mtimeMs, ino]);
  assert.deepEqual(
    readdirSync(folder).filter((name) => name.endsWith('.new')),
    [],
  );
});

test('two layers of one blank are the same, byte for byte', () => {
  const blank = readBlank(folder, 16, calls);
  for (const name of ['one', 'two']) closeSync(createLayer(join(folder, name), 16, blank));
  assert.ok(readFileSync(join(folder, 'one')).equals(readFileSync(join(folder, 'two'))));
  assert.ok(readFileSync(join(folder, 'one')).equals(readFileSync(join(folder, 'blank-16.ext4'))));
});

test('a file that is there is not touched, and a link is not followed', () => {
  const blank = readBlank(folder, 16, calls);
  const there = join(folder, 'there');
  writeFileSync(there, 'mine');
  assert.throws(() => createLayer(there, 16, blank), { code: 'EEXIST' });
  assert.equal(readFileSync(there, 'utf8'), 'mine');
  symlinkSync(join(folder, 'elsewhere'), join(folder, 'link'));
  assert.throws(() => createLayer(join(folder, 'link'), 16, blank), { code: 'EEXIST' });
  assert.ok(!existsSync(join(folder, 'elsewhere')));
  assert.throws(() => openLayer(join(folder, 'link'), 16), { code: /ELOOP|ENOENT/ });
});

test('a layer of another size, a folder, and none are refused; no descriptor is left open', () => {
  const open = () => readdirSync('/proc/self/fd').length;
  const path = join(folder, 'short');
  closeSync(createLayer(path, 16, readBlank(folder, 16, calls)));
  truncateSync(path, 2 ** 20);
  mkdirSync(join(folder, 'dir'));
  const before = open();
  assert.throws(() => openLayer(path, 16), /instead of 16 MiB/);
  assert.throws(() => openLayer(join(folder, 'dir'), 16), { code: 'EISDIR' });
  assert.throws(() => openLayer(join(folder, 'none'), 16), { code: 'ENOENT' });
  assert.throws(() => createLayer(join(folder, 'nofolder', 'x'), 16, []), { code: 'ENOENT' });
  assert.equal(open(), before);
});

test('a size that no file system can have is refused by name, and leaves nothing', () => {
  const before = readdirSync(folder).sort();
  assert.throws(() => readBlank(folder, 0, calls));
  assert.deepEqual(readdirSync(folder).sort(), before);
});
