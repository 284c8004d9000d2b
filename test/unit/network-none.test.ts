/** Without a fabric a policy is refused by name, never ignored. */
import assert from 'node:assert/strict';
import test from 'node:test';
import { createNoNetwork } from '../../src/network/none.ts';

test('attach and internet access are refused by name; what holds anyway is accepted', async () => {
  const fabric = createNoNetwork('/dev/net/tun is missing');
  assert.equal(fabric.enforcing, false);
  assert.match(fabric.notices.join(), /\/dev\/net\/tun is missing/);
  await fabric.start();
  await assert.rejects(fabric.attach('a', { kind: 'namespace' }), {
    code: 'unsupported_policy',
    message: /\/dev\/net\/tun is missing/,
  });
  await assert.rejects(fabric.setPolicy('a', { allowInternet: true }), { code: 'unsupported_policy' });
  await fabric.setPolicy('a', { allowInternet: false });
  await fabric.detach('a');
  assert.deepEqual(await fabric.census(), { ports: [], addresses: [], rules: [] });
  assert.deepEqual(await fabric.attached(), []);
  await fabric.stop();
});
