import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { mkdtemp, open, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'node:test';
import { HASH_BLOCK_BYTES, hashBlocks, parseExtents } from '../../src/isolation/block-hash.ts';

const sha256 = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest();
const expected = (contents: Buffer) => {
  const total = createHash('sha256');
  for (let at = 0; at < contents.length; at += HASH_BLOCK_BYTES)
    total.update(sha256(contents.subarray(at, at + HASH_BLOCK_BYTES)));
  return total.digest('hex');
};

test('the hash is of the contents, and holes are zeros like any others', async (t) => {
  const folder = await mkdtemp(join(tmpdir(), 'coppice-hash-'));
  t.after(() => rm(folder, { recursive: true, force: true }));
  const contents = Buffer.alloc(5 * HASH_BLOCK_BYTES + 1234);
  contents.write('one', 10);
  contents.write('two', 3 * HASH_BLOCK_BYTES - 2);
  contents.write('end', contents.length - 3);
  const full = join(folder, 'full');
  await writeFile(full, contents);
  const sparse = join(folder, 'sparse');
  await writeFile(sparse, '');
  await truncate(sparse, contents.length);
  const handle = await open(sparse, 'r+');
  await handle.write('one', 10);
  await handle.write('two', 3 * HASH_BLOCK_BYTES - 2);
  await handle.write('end', contents.length - 3);
  await handle.close();
  assert.equal(await hashBlocks(full), expected(contents));
  assert.equal(await hashBlocks(sparse), expected(contents));
  await writeFile(full, '');
  assert.equal(await hashBlocks(full), expected(Buffer.alloc(0)));
});

test('a listing of extents that is not fully understood is not used', () => {
  const head = 'Filesystem type is: ef53\nFile size of x is 4194304 (4194304 blocks of 1 bytes)\n';
  const lines = '   0:        0.. 4095: 1..2: 4096:\n   1:  1048575.. 2097152: 5..9: 1048578: last\n';
  assert.deepEqual([...(parseExtents(`${head}${lines}x: 2 extents found\n`) ?? [])], [0, 1, 2]);
  assert.deepEqual([...(parseExtents(`${head}x: 0 extents found\n`) ?? [1])], []);
  assert.equal(parseExtents(`${head}${lines}`), undefined);
  assert.equal(parseExtents(`${head}${lines}x: 3 extents found\n`), undefined);
  assert.equal(parseExtents(`${head.replace('of 1 bytes', 'of 4096 bytes')}${lines}x: 2 extents found\n`), undefined);
  assert.equal(parseExtents(''), undefined);
});
