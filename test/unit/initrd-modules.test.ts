/** Load order of kernel modules, from what each module says of itself. */
import assert from 'node:assert/strict';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import test from 'node:test';
import { isCoppiceError } from '../../src/contract/errors.ts';
import { collectModules, moduleDependencies } from '../../src/templates/kernel-modules.ts';

const module = (depends: string, soft = '') =>
  Buffer.from(
    `\x7fELF....\0license=GPL\0depends=${depends}\0${soft === '' ? '' : `softdep=${soft}\0`}name=x\0`,
    'latin1',
  );

async function withTree(modules: Record<string, Buffer>, builtin: string[], check: (tree: string) => Promise<void>) {
  const tree = await mkdtemp(join(tmpdir(), 'coppice-modules-'));
  try {
    for (const [path, data] of Object.entries(modules)) {
      await mkdir(dirname(join(tree, 'kernel', path)), { recursive: true });
      await writeFile(join(tree, 'kernel', path), data);
    }
    await writeFile(join(tree, 'modules.builtin'), builtin.map((path) => `kernel/${path}\n`).join(''));
    await check(tree);
  } finally {
    await rm(tree, { recursive: true });
  }
}

const names = (modules: readonly { name: string }[]) => modules.map(({ name }) => name);

test('dependencies come first and once, dashes and underscores are one, builtin modules are left out', async () => {
  const modules = {
    'drivers/virtio/virtio.ko': module('virtio_ring'),
    'drivers/virtio/virtio_ring.ko': module(''),
    'drivers/net/virtio_net.ko': module('virtio_ring,virtio,net_failover'),
    'drivers/net/net_failover.ko': module('failover'),
    'net/core/failover.ko': module(''),
    'drivers/char/virtio-rng.ko': module('virtio_ring,virtio,rng-core'),
  };
  await withTree(modules, ['fs/ext4/ext4.ko', 'drivers/char/rng-core.ko'], async (tree) => {
    const found = await collectModules(tree, ['virtio_net', 'ext4', 'virtio-rng']);
    assert.deepEqual(names(found), ['virtio_ring', 'virtio', 'failover', 'net_failover', 'virtio_net', 'virtio_rng']);
  });
});

test('a module that is neither there nor built in is an error when wanted, and nothing when optional', async () => {
  await withTree({ 'a.ko': module('') }, [], async (tree) => {
    assert.deepEqual(names(await collectModules(tree, ['a'], { optional: ['gone'] })), ['a']);
    await assert.rejects(collectModules(tree, ['gone']), (error) => isCoppiceError(error, 'host_unfit'));
  });
});

test('a dependency that is missing is an error; a soft one is not', async () => {
  await withTree({ 'a.ko': module('b'), 'c.ko': module('', 'pre: crypto-x post: y') }, [], async (tree) => {
    await assert.rejects(collectModules(tree, ['a']), (error) => isCoppiceError(error, 'host_unfit'));
    assert.deepEqual(names(await collectModules(tree, ['c'])), ['c']);
  });
});

test('soft dependencies are read from all of their lines', () => {
  const data = Buffer.concat([module('a', 'pre: crc32c crc-t10dif'), module('', 'post: z')]);
  assert.deepEqual(moduleDependencies(data), { depends: ['a'], before: ['crc32c', 'crc_t10dif'] });
});
