/** Names that end up in commands and files. */
import assert from 'node:assert/strict';
import test from 'node:test';
import { isCoppiceError } from '../../src/contract/errors.ts';
import {
  checkId,
  checkUid,
  fabricConfig,
  isPortName,
  portName,
  portOfNamespace,
  sandboxNamespace,
} from '../../src/network/nftables/config.ts';

const refused = (error: unknown) => isCoppiceError(error, 'bad_request');

test('an instance is 1 to 8 of a-z and 0-9', () => {
  for (const good of ['a', '0', 'abcdefg8']) assert.equal(fabricConfig(good).namespace, `coppice-${good}`);
  for (const bad of ['', 'abcdefghi', 'A', 'a-b', '../x', 'a b', 'a\n', 'é', 'a"', 'a/b'])
    assert.throws(() => fabricConfig(bad), refused, JSON.stringify(bad));
});

test('device names fit the kernel: at most 15 characters', () => {
  assert.ok(fabricConfig('abcdefg8').veth.length <= 15);
  assert.ok(portName(0x7fffffff).length <= 15);
});

test('ports are told from every other device', () => {
  for (const good of ['cp1', 'cp42', 'cp2147483647']) assert.ok(isPortName(good), good);
  for (const bad of ['cpv-a1', 'cp', 'cp0', 'cp1x', 'xcp1', 'up0', 'lo', 'cp1\n']) assert.ok(!isPortName(bad), bad);
  assert.throws(() => portName(0));
  assert.throws(() => portName(1.5));
});

test('namespaces of sandboxes are told from those of others', () => {
  const config = fabricConfig('abcdefg8');
  for (const port of ['cp1', 'cp2147483647']) {
    const name = sandboxNamespace(config, port);
    assert.ok(name.length <= 64);
    assert.match(name, /^coppice-abcdefg8-\d+$/);
    assert.equal(portOfNamespace(config, name), port);
    assert.equal(portOfNamespace(fabricConfig('abcdefg'), name), undefined);
  }
  for (const other of ['coppice-abcdefg8', 'coppice-abcdefg8-', 'coppice-abcdefg8-0', 'coppice-abcdefg8-1x', 'x-1', ''])
    assert.equal(portOfNamespace(config, other), undefined, other);
  for (const bad of ['eth0', 'cp0', 'cp1/../x', '']) assert.throws(() => sandboxNamespace(config, bad));
});

test('sandbox ids and uids are bounded', () => {
  for (const good of ['i0abc', 'A-b_c.d', 'x'.repeat(64)]) checkId(good);
  for (const bad of ['', '.', '-a', 'x'.repeat(65), 'a b', 'a/b', 'a\n']) assert.throws(() => checkId(bad), refused);
  for (const good of [undefined, 0, 1000, 4294967294]) checkUid(good);
  for (const bad of [-1, 1.5, 4294967295, Number.NaN]) assert.throws(() => checkUid(bad), refused);
});
