/** What a crash at each step of pause and resume converges to. */
import assert from 'node:assert/strict';
import test from 'node:test';
import { BOTH_KINDS, createRequest, type NodeRig, startNodeRig, TEAM } from '../helpers/node-rig.ts';
import { until } from '../helpers/until.ts';

const quiet = { templates: BOTH_KINDS, pool: { least: 0, most: 0 } } as const;

async function jail(rig: NodeRig, wish: Parameters<typeof createRequest>[0] = {}): Promise<string> {
  const wishes = createRequest({ template: 'base-jail', metadata: { of: 'mine' }, envVars: { MINE: 'yes' }, ...wish });
  return (await rig.node.createSandbox(wishes)).sandbox.sandboxID;
}

/** It is a paused sandbox in every respect, and can be resumed. */
async function isPaused(rig: NodeRig, id: string): Promise<void> {
  assert.equal((await rig.node.getSandbox(TEAM, id)).state, 'paused');
  assert.equal(rig.host.machines.get(id)!.parked, true);
  assert.equal(rig.node.member(id), undefined);
  const { sandbox } = await rig.node.connectSandbox(TEAM, id, { timeoutSeconds: 60 });
  assert.deepEqual(sandbox.metadata, { of: 'mine' });
  assert.equal(rig.host.machines.get(id)!.parked, false);
  await rig.node.member(id)!.agent();
  assert.equal(rig.host.machines.get(id)!.identities.at(-1)!.env!.MINE, 'yes');
  assert.deepEqual((await rig.node.leaks()).details, []);
}

test('paused sandboxes are adopted as they are: nothing wakes them', async (t) => {
  const rig = await startNodeRig(quiet);
  t.after(() => rig.end());
  const id = await jail(rig);
  await rig.node.pauseSandbox(TEAM, id, { memory: true });
  const before = await rig.node.getSandbox(TEAM, id);
  const machine = rig.host.machines.get(id)!;
  let woken = 0;
  let parked = true;
  Object.defineProperty(machine, 'parked', {
    get: () => parked,
    set: (value: boolean) => {
      if (!value) woken++;
      parked = value;
    },
  });
  await rig.crash();
  await rig.crash();
  assert.equal(woken, 0);
  assert.deepEqual(await rig.node.getSandbox(TEAM, id), before);
  await isPaused(rig, id);
  assert.equal(woken, 1);
});

test('a crash before the machine was parked: the pause is finished', async (t) => {
  const rig = await startNodeRig(quiet);
  t.after(() => rig.end());
  const id = await jail(rig);
  const { reached } = rig.host.hold('park');
  void rig.node.pauseSandbox(TEAM, id, { memory: true }).catch(() => {});
  await reached;
  assert.equal(rig.rows.get(id)!.state, 'pausing');
  assert.equal(rig.host.machines.get(id)!.parked, false);
  await rig.crash();
  await isPaused(rig, id);
});

test('a crash after the machine was parked and before its row says so: the pause is finished', async (t) => {
  const rig = await startNodeRig(quiet);
  t.after(() => rig.end());
  const id = await jail(rig);
  rig.rows.move(id, 'running', 'pausing');
  rig.host.machines.get(id)!.parked = true;
  await rig.crash();
  await isPaused(rig, id);
});

test('a crash in a resume, before or after it was woken: it is paused as before', async (t) => {
  for (const woken of [false, true]) {
    const rig = await startNodeRig(quiet);
    t.after(() => rig.end());
    const id = await jail(rig);
    await rig.node.pauseSandbox(TEAM, id, { memory: true });
    const { endAtMs } = await rig.node.getSandbox(TEAM, id);
    rig.rows.move(id, 'paused', 'resuming');
    rig.host.machines.get(id)!.parked = !woken;
    await rig.crash();
    assert.equal((await rig.node.getSandbox(TEAM, id)).endAtMs, endAtMs);
    await isPaused(rig, id);
  }
});

test('a crash in a kill of a paused one: it is gone', async (t) => {
  const rig = await startNodeRig(quiet);
  t.after(() => rig.end());
  const id = await jail(rig);
  await rig.node.pauseSandbox(TEAM, id, { memory: true });
  rig.rows.intendKill(id);
  await rig.crash();
  assert.equal(rig.host.machines.size, 0);
  assert.deepEqual(rig.rows.all(), []);
});

test('a paused one whose machine did not outlive its node is gone, and everything of it', async (t) => {
  const rig = await startNodeRig(quiet);
  t.after(() => rig.end());
  const id = await jail(rig);
  await rig.node.pauseSandbox(TEAM, id, { memory: true });
  rig.node.abandon();
  rig.host.machines.get(id)!.die('the host lost its power');
  await rig.crash();
  assert.deepEqual(rig.rows.all(), []);
  assert.equal(rig.host.attachments.size, 0);
});

test('a deadline that passed while nobody was there pauses the one that asked for it', async (t) => {
  const rig = await startNodeRig(quiet);
  t.after(() => rig.end());
  const id = await jail(rig, { timeoutSeconds: 1, onTimeout: 'pause' });
  const { endAtMs } = await rig.node.getSandbox(TEAM, id);
  rig.node.abandon();
  await until('its time is up', () => Date.now() > endAtMs);
  await rig.crash();
  await until('it is paused', () => rig.rows.get(id)?.state === 'paused');
  await isPaused(rig, id);
});

test('one that cannot be parked at the start is kept, and parked by whoever asks for it next', async (t) => {
  const rig = await startNodeRig(quiet);
  t.after(() => rig.end());
  const id = await jail(rig);
  rig.rows.move(id, 'running', 'pausing');
  rig.host.failNext.add('park');
  await rig.crash();
  assert.equal((await rig.node.getSandbox(TEAM, id)).state, 'pausing');
  assert.equal(rig.node.member(id), undefined);
  await assert.rejects(rig.node.pauseSandbox(TEAM, id, { memory: true }), /already paused/);
  await isPaused(rig, id);
});
