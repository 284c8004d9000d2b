import assert from 'node:assert/strict';
import test from 'node:test';
import { createRequest, startNodeRig, TEAM } from '../helpers/node-rig.ts';
import { until } from '../helpers/until.ts';

test('running sandboxes are adopted by the next node, with owner, token and deadline', async (t) => {
  const rig = await startNodeRig();
  t.after(() => rig.end());
  const { sandbox } = await rig.node.createSandbox(
    createRequest({ metadata: { of: 'mine' }, network: { allowInternetAccess: false } }),
  );
  await rig.crash();
  assert.deepEqual(await rig.node.getSandbox(TEAM, sandbox.sandboxID), sandbox);
  assert.equal(rig.host.attachments.get(sandbox.sandboxID)?.policy.allowInternet, false);
  await rig.node.killSandbox(TEAM, sandbox.sandboxID);
  assert.equal(rig.host.machines.has(sandbox.sandboxID), false);
});

test('pool entries of a node that died are swept, and the tier is grown anew', async (t) => {
  const rig = await startNodeRig();
  t.after(() => rig.end());
  await rig.node.warm(2);
  const before = [...rig.host.machines.keys()];
  await rig.crash();
  await rig.node.warm(2);
  assert.equal(
    before.some((id) => rig.host.machines.has(id)),
    false,
  );
  assert.equal((await rig.node.status()).hot, 4);
});

test('a machine that died while the node was down is lost, and its row with it', async (t) => {
  const rig = await startNodeRig({ pool: { least: 0, most: 0 } });
  t.after(() => rig.end());
  const { sandbox } = await rig.node.createSandbox(createRequest());
  rig.node.abandon();
  rig.host.machines.get(sandbox.sandboxID)!.die('power cut');
  await rig.crash();
  await assert.rejects(rig.node.getSandbox(TEAM, sandbox.sandboxID));
  assert.deepEqual(rig.rows.all(), []);
  assert.equal(rig.host.attachments.size, 0);
});

test('a running sandbox whose machine dies is cleaned up at once', async (t) => {
  const rig = await startNodeRig({ pool: { least: 0, most: 0 } });
  t.after(() => rig.end());
  const { sandbox } = await rig.node.createSandbox(createRequest());
  let cut = 0;
  rig.node.member(sandbox.sandboxID)!.track(() => cut++);
  rig.host.machines.get(sandbox.sandboxID)!.die('SIGKILL');
  await until('its row is gone', () => rig.rows.all().length === 0);
  assert.equal(cut, 1, 'its open streams were cut');
  assert.equal(rig.host.attachments.size, 0);
});

test('what no row accounts for is counted as a leak, and swept at the next start', async (t) => {
  const rig = await startNodeRig({ pool: { least: 0, most: 0 } });
  t.after(() => rig.end());
  const { sandbox } = await rig.node.createSandbox(createRequest());
  rig.rows.remove(sandbox.sandboxID);
  assert.equal((await rig.node.leaks()).processes, 1);
  assert.equal((await rig.node.leaks()).taps, 1);
  await rig.crash();
  assert.deepEqual((await rig.node.leaks()).details, []);
  assert.equal(rig.host.machines.size, 0);
});
