import assert from 'node:assert/strict';
import test from 'node:test';
import { createRequest, startNodeRig, TEAM } from '../helpers/node-rig.ts';
import { until } from '../helpers/until.ts';

const quiet = { pool: { least: 0, most: 0 }, ahead: true } as const;

test('after a create the place of the next machine is made, and the next create begins in it', async (t) => {
  const rig = await startNodeRig(quiet);
  t.after(() => rig.end());
  await rig.node.createSandbox(createRequest());
  await until('a place', () => rig.host.attachments.size === 2);
  const place = rig.rows.all().find((row) => row.state === 'preparing')!;
  assert.deepEqual((await rig.node.leaks()).details, [], 'it is accounted for');
  const { sandbox } = await rig.node.createSandbox(createRequest());
  assert.equal(sandbox.sandboxID, place.id);
  assert.equal(rig.rows.get(sandbox.sandboxID)?.memoryMB, 512);
});

test('a create without internet does not begin in a place that is allowed it', async (t) => {
  const rig = await startNodeRig(quiet);
  t.after(() => rig.end());
  await rig.node.createSandbox(createRequest());
  await until('a place', () => rig.host.attachments.size === 2);
  const { sandbox } = await rig.node.createSandbox(createRequest({ network: { allowInternetAccess: false } }));
  assert.equal(rig.host.attachments.get(sandbox.sandboxID)?.policy.allowInternet, false);
});

test('a place is swept after a crash, and undone at an end', async (t) => {
  const rig = await startNodeRig(quiet);
  const { sandbox } = await rig.node.createSandbox(createRequest());
  await until('a place', () => rig.host.attachments.size === 2);
  await rig.crash();
  assert.deepEqual([...rig.host.attachments.keys()], [sandbox.sandboxID]);
  await rig.node.killSandbox(TEAM, sandbox.sandboxID);
  await rig.node.createSandbox(createRequest());
  await until('another place', () => rig.host.attachments.size === 2);
  t.after(() => assert.equal(rig.host.attachments.size, 0));
  await rig.end();
});

test('a machine that fails in its place leaves nothing, and the place after it is another', async (t) => {
  const rig = await startNodeRig(quiet);
  t.after(() => rig.end());
  const { sandbox } = await rig.node.createSandbox(createRequest());
  await until('a place', () => rig.host.attachments.size === 2);
  rig.host.failNext.add('clone');
  await assert.rejects(rig.node.createSandbox(createRequest()), /clone/);
  assert.deepEqual([...rig.host.attachments.keys()], [sandbox.sandboxID]);
});
