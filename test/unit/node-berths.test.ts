import assert from 'node:assert/strict';
import test from 'node:test';
import { BOTH_KINDS, createRequest, type NodeRig, startNodeRig, TEAM } from '../helpers/node-rig.ts';
import { until } from '../helpers/until.ts';

const quiet = { pool: { least: 0, most: 0 }, ahead: true } as const;

/** The place that waits, with a shell in it if it is to have one. */
async function placeOf(rig: NodeRig, shell = true): Promise<string> {
  const waiting = () =>
    rig.rows.all().find(({ state, record }) => state === 'preparing' && (record !== undefined) === shell);
  await until('a place', () => waiting() !== undefined && rig.host.attachments.has(waiting()!.id));
  return waiting()!.id;
}

/** With a shell of the first template. */
async function withShell(rig: NodeRig): Promise<string> {
  const { receipt } = await rig.node.createSandbox(createRequest());
  assert.equal(receipt.path, 'cold');
  return placeOf(rig);
}

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
  const rig = await startNodeRig({ ...quiet, templates: BOTH_KINDS });
  t.after(() => rig.end());
  const jail = createRequest({ template: 'base-jail' });
  const { sandbox } = await rig.node.createSandbox(jail);
  await until('a place', () => rig.host.attachments.size === 2);
  rig.host.failNext.add('clone');
  await assert.rejects(rig.node.createSandbox(jail), /clone/);
  assert.deepEqual([...rig.host.attachments.keys()], [sandbox.sandboxID]);
});

test('a create for which no machine is ready begins in a shell that waits', async (t) => {
  const rig = await startNodeRig(quiet);
  t.after(() => rig.end());
  const shell = await withShell(rig);
  assert.equal(rig.host.machines.get(shell)?.parked, true, 'it is there and does not run');
  assert.deepEqual((await rig.node.leaks()).details, [], 'it is accounted for');
  const clones = rig.host.clones;
  const { sandbox, receipt } = await rig.node.createSandbox(createRequest({ envVars: { MINE: 'yes' } }));
  assert.equal(receipt.path, 'shell');
  assert.equal(sandbox.sandboxID, shell);
  assert.equal(rig.host.clones, clones, 'nothing was made for it');
  const { parked, identities } = rig.host.machines.get(shell)!;
  assert.equal(parked, false);
  assert.equal(identities[0]!.hostname, shell);
  assert.equal(identities[0]!.env!.MINE, 'yes');
});

test('a snapshot is restored in a shell of the template that it lies on', async (t) => {
  const rig = await startNodeRig(quiet);
  t.after(() => rig.end());
  const { sandbox } = await rig.node.createSandbox(createRequest());
  const { disk, memory } = rig.host.machines.get(sandbox.sandboxID)!;
  disk.push('on disk');
  memory.push('in memory');
  const { snapshot } = await rig.node.createSnapshot(TEAM, sandbox.sandboxID, { name: 'work' });
  const shell = await placeOf(rig);
  const { sandbox: made, receipt } = await rig.node.createSandbox(createRequest({ template: 'work' }));
  assert.equal(receipt.path, 'shell');
  assert.equal(made.sandboxID, shell);
  const machine = rig.host.machines.get(shell)!;
  assert.deepEqual([machine.disk, machine.memory], [['on disk'], ['in memory']]);
  const row = rig.rows.get(shell)!;
  assert.equal(row.buildID, snapshot.buildID);
  assert.equal(row.baseID, snapshot.parentID);
});

test('a shell of one template is no place for a machine of another', async (t) => {
  const rig = await startNodeRig(quiet);
  t.after(() => rig.end());
  const shell = await withShell(rig);
  const { sandbox, receipt } = await rig.node.createSandbox(createRequest({ template: 'other' }));
  assert.equal(receipt.path, 'cold');
  assert.notEqual(sandbox.sandboxID, shell);
  assert.equal(rig.host.machines.get(shell)?.parked, true);
});

test('a shell whose VMM ends is given up with all it had, and another is made', async (t) => {
  const rig = await startNodeRig(quiet);
  t.after(() => rig.end());
  const shell = await withShell(rig);
  rig.host.machines.get(shell)!.die('SIGKILL');
  await until('it is gone', () => rig.rows.get(shell) === undefined);
  assert.equal(rig.host.attachments.has(shell), false);
  const next = await placeOf(rig);
  assert.notEqual(next, shell);
  const { receipt } = await rig.node.createSandbox(createRequest());
  assert.equal(receipt.path, 'shell');
});

test('a create whose shell cannot be used has a machine made for it', async (t) => {
  const rig = await startNodeRig(quiet);
  t.after(() => rig.end());
  const shell = await withShell(rig);
  rig.host.failNext.add('clone');
  const { sandbox, receipt } = await rig.node.createSandbox(createRequest());
  assert.equal(receipt.path, 'cold');
  assert.notEqual(sandbox.sandboxID, shell);
  assert.equal(rig.host.machines.has(shell), false);
  assert.equal(rig.host.attachments.has(shell), false);
  assert.equal(rig.rows.get(shell), undefined);
});

test('shells are ended with the node, and swept after a crash', async () => {
  const rig = await startNodeRig(quiet);
  const shell = await withShell(rig);
  const [sandbox] = [...rig.host.machines.keys()].filter((id) => id !== shell);
  await rig.crash();
  assert.deepEqual([...rig.host.machines.keys()], [sandbox]);
  assert.deepEqual([...rig.host.attachments.keys()], [sandbox]);
  assert.deepEqual((await rig.node.leaks()).details, []);
  await rig.node.createSandbox(createRequest());
  await placeOf(rig);
  await rig.end();
  assert.deepEqual([rig.host.machines.size, rig.host.attachments.size], [0, 0]);
});

test('a jail has its place made ahead, and no shell', async (t) => {
  const rig = await startNodeRig({ ...quiet, templates: BOTH_KINDS });
  t.after(() => rig.end());
  const jail = createRequest({ template: 'base-jail' });
  await rig.node.createSandbox(jail);
  const place = await placeOf(rig, false);
  assert.equal(rig.host.machines.has(place), false);
  const { sandbox, receipt } = await rig.node.createSandbox(jail);
  assert.equal(sandbox.sandboxID, place);
  assert.equal(receipt.path, 'cold');
});
