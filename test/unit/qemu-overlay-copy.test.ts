/** The copy of a file that is written to meanwhile. */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { mkdtemp, open, readFile, rm, stat, truncate, utimes, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { after, before } from 'node:test';
import { approachOverlay } from '../../src/isolation/microvm/qemu/overlay-copy.ts';

let folder: string;
before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'cpoc-'));
});
after(() => rm(folder, { recursive: true, force: true }));

const MIB = 2 ** 20;
let count = 0;

async function fresh(bytes: Buffer) {
  const [from, to] = [join(folder, `from${count}`), join(folder, `to${count++}`)];
  await writeFile(from, bytes);
  const equal = async () => assert.ok((await readFile(from)).equals(await readFile(to)));
  const write = async (at: number, piece: Buffer) => {
    const file = await open(from, 'r+');
    await file.write(piece, 0, piece.length, at);
    await file.close();
  };
  return { from, to, equal, write };
}

test('what was written after the first step is in the copy after the second', async () => {
  const { from, to, equal, write } = await fresh(randomBytes(3 * MIB + 5000));
  const copy = await approachOverlay(from, to);
  await equal();
  await write(MIB - 10, randomBytes(20));
  await write(3 * MIB + 5000, randomBytes(2 * MIB));
  await copy.settle();
  await equal();
  await truncate(from, MIB + 7);
  await copy.settle();
  await equal();
  await write(0, Buffer.alloc(MIB));
  await copy.settle();
  await equal();
});

test('a file that was quiet is not read again, and one that was written to is, at the same time of day or not', async () => {
  const { from, to, equal, write } = await fresh(randomBytes(MIB));
  const longAgo = new Date(Date.now() - 60_000);
  await utimes(from, longAgo, longAgo);
  const quiet = await approachOverlay(from, to);
  assert.equal(await quiet.settle(), 0);
  await write(10, randomBytes(10));
  await quiet.settle();
  await equal();

  const busy = await fresh(randomBytes(MIB));
  const copy = await approachOverlay(busy.from, busy.to);
  const { atime, mtime } = await stat(busy.from);
  await busy.write(10, randomBytes(10));
  await utimes(busy.from, atime, mtime);
  await copy.settle();
  await busy.equal();
});

test('holes stay holes where nothing is shared', async () => {
  const { from, to, equal } = await fresh(Buffer.alloc(0));
  await truncate(from, 64 * MIB);
  await approachOverlay(from, to);
  await equal();
  assert.ok((await stat(to)).blocks * 512 < MIB);
});

test('a copy that is given up ends', async () => {
  const { from, to } = await fresh(randomBytes(MIB));
  const given = approachOverlay(from, to, AbortSignal.abort());
  // Where blocks are shared it is over before it can be.
  await given.catch((error) => assert.equal(error.name, 'AbortError'));
  await assert.rejects(approachOverlay(join(folder, 'absent'), join(folder, 'never')), { code: 'ENOENT' });
});
