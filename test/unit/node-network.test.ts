/** What a sandbox may reach, changed while it is there: durable before it is done, and done whatever ends meanwhile. */
import assert from 'node:assert/strict';
import test from 'node:test';
import { isCoppiceError } from '../../src/contract/errors.ts';
import { BOTH_KINDS, createRequest, type NodeRig, OTHER_TEAM, startNodeRig, TEAM } from '../helpers/node-rig.ts';

const notFound = (error: unknown) => isCoppiceError(error, 'sandbox_not_found');
const allows = (rig: NodeRig, id: string) => rig.host.attachments.get(id)?.policy.allowInternet;
const told = async (rig: NodeRig, id: string) => (await rig.node.getSandbox(TEAM, id)).allowInternetAccess;

async function made(rig: NodeRig, template = 'base'): Promise<string> {
  return (await rig.node.createSandbox(createRequest({ template }))).sandbox.sandboxID;
}

for (const template of ['base', 'base-jail'])
  test(`${template}: while it runs, while it is paused, and after it was resumed`, async (t) => {
    const rig = await startNodeRig({ templates: BOTH_KINDS });
    t.after(() => rig.end());
    const id = await made(rig, template);
    await rig.node.updateNetwork(TEAM, id, { allowInternetAccess: false });
    assert.deepEqual([allows(rig, id), await told(rig, id)], [false, false]);
    await rig.node.updateNetwork(TEAM, id, {});
    assert.deepEqual([allows(rig, id), await told(rig, id)], [true, undefined]);
    await rig.node.pauseSandbox(TEAM, id, { memory: true });
    await rig.node.updateNetwork(TEAM, id, { allowInternetAccess: false });
    assert.notEqual(allows(rig, id), true, 'a machine that holds a paused one has its port');
    await rig.node.connectSandbox(TEAM, id, { timeoutSeconds: 60 });
    assert.deepEqual([allows(rig, id), await told(rig, id)], [false, false]);
  });

test('a fork has what its source was given last', async (t) => {
  const rig = await startNodeRig();
  t.after(() => rig.end());
  const id = await made(rig);
  await rig.node.updateNetwork(TEAM, id, { allowInternetAccess: false });
  const { forks } = await rig.node.forkSandbox(TEAM, id, { count: 1, timeoutSeconds: 60 });
  const [fork] = forks;
  assert.ok(fork && 'sandbox' in fork);
  assert.equal(allows(rig, fork.sandbox.sandboxID), false);
});

test('another team’s and unknown ones are not there', async (t) => {
  const rig = await startNodeRig();
  t.after(() => rig.end());
  const id = await made(rig);
  await assert.rejects(rig.node.updateNetwork(OTHER_TEAM, id, { allowInternetAccess: false }), notFound);
  await assert.rejects(rig.node.updateNetwork(TEAM, 'inothing', {}), notFound);
  assert.equal(allows(rig, id), true);
});

test('what was written and not done is done by the next node', async (t) => {
  const rig = await startNodeRig();
  t.after(() => rig.end());
  const id = await made(rig);
  rig.host.failNext.add('setPolicy');
  await assert.rejects(rig.node.updateNetwork(TEAM, id, { allowInternetAccess: false }));
  assert.deepEqual([allows(rig, id), await told(rig, id)], [true, false]);
  await rig.crash();
  assert.equal(allows(rig, id), false);
});
