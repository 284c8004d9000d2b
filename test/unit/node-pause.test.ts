/** Pause and resume as their owner sees them. */
import assert from 'node:assert/strict';
import test from 'node:test';
import { isCoppiceError } from '../../src/contract/errors.ts';
import type { SandboxView } from '../../src/contract/node-api.ts';
import { accessToken } from '../../src/node/identifiers.ts';
import { BOTH_KINDS, createRequest, type NodeRig, OTHER_TEAM, startNodeRig, TEAM } from '../helpers/node-rig.ts';
import { until } from '../helpers/until.ts';

const quiet = { templates: BOTH_KINDS, pool: { least: 0, most: 0 } } as const;
const code = (wanted: Parameters<typeof isCoppiceError>[1]) => (error: unknown) => isCoppiceError(error, wanted);

async function jail(rig: NodeRig, wish: Parameters<typeof createRequest>[0] = {}): Promise<SandboxView> {
  return (await rig.node.createSandbox(createRequest({ template: 'base-jail', ...wish }))).sandbox;
}

test('a paused sandbox does not run, is listed as paused, and is the same when it is resumed', async (t) => {
  const rig = await startNodeRig(quiet);
  t.after(() => rig.end());
  const made = await jail(rig, {
    metadata: { of: 'mine' },
    envVars: { MINE: 'yes' },
    network: { allowInternetAccess: false },
  });
  const id = made.sandboxID;
  const machine = rig.host.machines.get(id)!;
  const before = Date.now();
  await rig.node.pauseSandbox(TEAM, id, { memory: true });
  assert.equal(machine.parked, true);
  assert.equal(rig.rows.get(id)!.state, 'paused');
  const paused = await rig.node.getSandbox(TEAM, id);
  assert.ok(paused.endAtMs >= before && paused.endAtMs <= Date.now(), 'its end is when it was paused');
  assert.deepEqual(paused, { ...made, state: 'paused', endAtMs: paused.endAtMs });

  const asked = Date.now();
  const { sandbox, resumed } = await rig.node.connectSandbox(TEAM, id, { timeoutSeconds: 30 });
  assert.equal(resumed, true);
  assert.equal(machine.parked, false);
  assert.ok(sandbox.startedAtMs >= asked, 'its start is its last one');
  assert.equal(sandbox.endAtMs, sandbox.startedAtMs + 30_000);
  const { startedAtMs, endAtMs } = sandbox;
  assert.deepEqual(sandbox, { ...made, startedAtMs, endAtMs }, 'the generation too: nothing was restored');
  assert.equal(rig.host.machines.get(id), machine);
  assert.equal(rig.host.attachments.get(id)!.policy.allowInternet, false);
  assert.equal(rig.node.member(id)!.accessToken, accessToken(Buffer.alloc(32, 7), id));
  await rig.node.member(id)!.agent();
  assert.equal(machine.identities.at(-1)!.env!.MINE, 'yes');
});

test('its streams are cut at the pause, and traffic finds it again after the resume only', async (t) => {
  const rig = await startNodeRig(quiet);
  t.after(() => rig.end());
  const { sandboxID: id } = await jail(rig);
  const member = rig.node.member(id)!;
  const agent = await member.agent();
  let cut = 0;
  member.track(() => cut++);
  await rig.node.pauseSandbox(TEAM, id, { memory: true });
  assert.equal(cut, 1);
  await agent.closed;
  assert.equal(rig.node.member(id), undefined);
  assert.equal([...rig.node.members()].length, 0);
  await rig.node.connectSandbox(TEAM, id, { timeoutSeconds: 60 });
  assert.notEqual(rig.node.member(id), undefined);
  assert.notEqual(await rig.node.member(id)!.agent(), agent);
});

test('pause twice is a conflict, of another team or unknown not found', async (t) => {
  const rig = await startNodeRig(quiet);
  t.after(() => rig.end());
  const { sandboxID: id } = await jail(rig);
  await assert.rejects(rig.node.pauseSandbox(OTHER_TEAM, id, { memory: true }), code('sandbox_not_found'));
  await assert.rejects(rig.node.pauseSandbox(TEAM, 'inothing', { memory: true }), code('sandbox_not_found'));
  await rig.node.pauseSandbox(TEAM, id, { memory: true });
  await assert.rejects(rig.node.pauseSandbox(TEAM, id, { memory: true }), code('conflict'));
  for (const verb of ['connectSandbox', 'resumeSandbox'] as const)
    await assert.rejects(rig.node[verb](OTHER_TEAM, id, { timeoutSeconds: 60 }), code('sandbox_not_found'), verb);
  for (const verb of ['refreshSandbox', 'setSandboxTimeout'] as const)
    await assert.rejects(rig.node[verb](OTHER_TEAM, id, 60), code('sandbox_not_found'), verb);
  assert.equal(rig.host.machines.get(id)!.parked, true);
});

test('a paused sandbox has no deadline, and takes none', async (t) => {
  const rig = await startNodeRig(quiet);
  t.after(() => rig.end());
  const { sandboxID: id, endAtMs } = await jail(rig, { timeoutSeconds: 1 });
  await rig.node.pauseSandbox(TEAM, id, { memory: true });
  await assert.rejects(rig.node.setSandboxTimeout(TEAM, id, 0), code('sandbox_not_found'));
  await assert.rejects(rig.node.refreshSandbox(TEAM, id, 60), code('sandbox_not_found'));
  await until('its time would be up', () => Date.now() > endAtMs + 200);
  assert.equal((await rig.node.getSandbox(TEAM, id)).state, 'paused');
});

test('of many who connect at once one resumes it; resume of a running one is a conflict', async (t) => {
  const rig = await startNodeRig(quiet);
  t.after(() => rig.end());
  const { sandboxID: id } = await jail(rig);
  await rig.node.pauseSandbox(TEAM, id, { memory: true });
  const answers = await Promise.all(
    [10, 20, 500, 30].map((seconds) => rig.node.connectSandbox(TEAM, id, { timeoutSeconds: seconds })),
  );
  assert.equal(answers.filter(({ resumed }) => resumed).length, 1);
  const left = (await rig.node.getSandbox(TEAM, id)).endAtMs - Date.now();
  assert.ok(left > 490_000 && left <= 500_000, 'the longest wish holds');
  await assert.rejects(rig.node.resumeSandbox(TEAM, id, { timeoutSeconds: 9_000 }), code('conflict'));
  await rig.node.pauseSandbox(TEAM, id, { memory: true });
  const twice = await Promise.allSettled([1, 2].map(() => rig.node.resumeSandbox(TEAM, id, { timeoutSeconds: 60 })));
  assert.deepEqual(twice.map(({ status }) => status).toSorted(), ['fulfilled', 'rejected']);
});

test('whoever connects while it is being paused waits, and resumes it', async (t) => {
  const rig = await startNodeRig(quiet);
  t.after(() => rig.end());
  const { sandboxID: id } = await jail(rig);
  const { reached, release } = rig.host.hold('park');
  const pausing = rig.node.pauseSandbox(TEAM, id, { memory: true });
  await reached;
  assert.equal((await rig.node.getSandbox(TEAM, id)).state, 'pausing');
  const listed = await rig.node.listSandboxes({ teamID: TEAM, states: ['paused'], order: 'asc', limit: 100 });
  assert.deepEqual(
    listed.sandboxes.map((one) => one.sandboxID),
    [id],
  );
  assert.equal(listed.totalRunning, 0);
  const connecting = rig.node.connectSandbox(TEAM, id, { timeoutSeconds: 60 });
  release();
  await pausing;
  assert.equal((await connecting).resumed, true);
  assert.equal(rig.host.machines.get(id)!.parked, false);
});

test('it is killed while it is paused, and while it is being paused', async (t) => {
  const rig = await startNodeRig(quiet);
  t.after(() => rig.end());
  const one = (await jail(rig)).sandboxID;
  await rig.node.pauseSandbox(TEAM, one, { memory: true });
  await rig.node.killSandbox(TEAM, one);
  await assert.rejects(rig.node.getSandbox(TEAM, one), code('sandbox_not_found'));
  const two = (await jail(rig)).sandboxID;
  const { reached, release } = rig.host.hold('park');
  const pausing = rig.node.pauseSandbox(TEAM, two, { memory: true });
  await reached;
  await rig.node.killSandbox(TEAM, two);
  release();
  await assert.rejects(pausing, code('sandbox_not_found'));
  assert.deepEqual(rig.rows.all(), []);
  assert.equal(rig.host.machines.size, 0);
  assert.equal(rig.host.attachments.size, 0);
});

test('a paused machine that dies is cleaned up', async (t) => {
  const rig = await startNodeRig(quiet);
  t.after(() => rig.end());
  const { sandboxID: id } = await jail(rig);
  for (let round = 0; round < 3; round++) {
    await rig.node.pauseSandbox(TEAM, id, { memory: true });
    if (round < 2) await rig.node.connectSandbox(TEAM, id, { timeoutSeconds: 60 });
  }
  rig.host.machines.get(id)!.die('SIGKILL');
  await until('its row is gone', () => rig.rows.all().length === 0);
  await assert.rejects(rig.node.connectSandbox(TEAM, id, { timeoutSeconds: 60 }), code('sandbox_not_found'));
  assert.equal(rig.host.attachments.size, 0);
});

test('a resumed machine that dies is cleaned up', async (t) => {
  const rig = await startNodeRig(quiet);
  t.after(() => rig.end());
  const { sandboxID: id } = await jail(rig);
  await rig.node.pauseSandbox(TEAM, id, { memory: true });
  await rig.node.connectSandbox(TEAM, id, { timeoutSeconds: 60 });
  rig.host.machines.get(id)!.die('SIGKILL');
  await until('its row is gone', () => rig.rows.all().length === 0);
  assert.equal(rig.node.member(id), undefined);
});

test('a pause that fails leaves it running, a resume that fails leaves it paused', async (t) => {
  const rig = await startNodeRig(quiet);
  t.after(() => rig.end());
  const { sandboxID: id, endAtMs } = await jail(rig);
  rig.host.failNext.add('park');
  await assert.rejects(rig.node.pauseSandbox(TEAM, id, { memory: true }), /could not be paused/);
  const after = await rig.node.getSandbox(TEAM, id);
  assert.equal(after.state, 'running');
  assert.equal(after.endAtMs, endAtMs);
  await rig.node.member(id)!.agent();
  await rig.node.pauseSandbox(TEAM, id, { memory: true });
  rig.host.failNext.add('unpark');
  await assert.rejects(rig.node.connectSandbox(TEAM, id, { timeoutSeconds: 60 }), code('guest_unresponsive'));
  assert.equal((await rig.node.getSandbox(TEAM, id)).state, 'paused');
  assert.equal(rig.host.machines.get(id)!.parked, true);
  assert.equal((await rig.node.connectSandbox(TEAM, id, { timeoutSeconds: 60 })).resumed, true);
});

test('what a verb that failed all the way left can still be resumed, and killed', async (t) => {
  const rig = await startNodeRig(quiet);
  t.after(() => rig.end());
  const { sandboxID: id } = await jail(rig);
  for (const name of ['park', 'unpark'] as const) rig.host.failNext.add(name);
  await assert.rejects(rig.node.pauseSandbox(TEAM, id, { memory: true }));
  assert.equal(rig.rows.get(id)!.state, 'pausing');
  assert.equal((await rig.node.connectSandbox(TEAM, id, { timeoutSeconds: 60 })).resumed, true);
  assert.equal(rig.host.machines.get(id)!.parked, false);
  for (const name of ['park', 'unpark'] as const) rig.host.failNext.add(name);
  await assert.rejects(rig.node.pauseSandbox(TEAM, id, { memory: true }));
  await rig.node.killSandbox(TEAM, id);
  assert.deepEqual(rig.rows.all(), []);
});

test('with auto-pause its deadline pauses it, again after each resume', async (t) => {
  const rig = await startNodeRig(quiet);
  t.after(() => rig.end());
  const { sandboxID: id, endAtMs, onTimeout } = await jail(rig, { timeoutSeconds: 1, onTimeout: 'pause' });
  assert.equal(onTimeout, 'pause');
  await until('it is paused', () => rig.rows.get(id)?.state === 'paused');
  assert.ok((await rig.node.getSandbox(TEAM, id)).endAtMs >= endAtMs);
  await rig.node.connectSandbox(TEAM, id, { timeoutSeconds: 1 });
  await until('and again', () => rig.rows.get(id)?.state === 'paused');
  await rig.node.connectSandbox(TEAM, id, { timeoutSeconds: 60 });
  await rig.node.setSandboxTimeout(TEAM, id, 0);
  await until('a timeout of nothing pauses it too', () => rig.rows.get(id)?.state === 'paused');
  assert.equal((await rig.node.getSandbox(TEAM, id)).onTimeout, 'pause');
});

test('an auto-pause that fails is tried again, and never kills', async (t) => {
  const rig = await startNodeRig(quiet);
  t.after(() => rig.end());
  const { sandboxID: id } = await jail(rig, { onTimeout: 'pause' });
  rig.host.failNext.add('park');
  await rig.node.setSandboxTimeout(TEAM, id, 0);
  await until('it has failed', () => rig.host.failNext.size === 0 && rig.rows.get(id)?.state === 'running');
  await until('it is paused', () => rig.rows.get(id)?.state === 'paused', 15_000);
});

test('a paused sandbox is counted by admission: its memory is still its own', async (t) => {
  const rig = await startNodeRig({ ...quiet, memoryBudgetMB: 40 });
  t.after(() => rig.end());
  const { sandboxID: id } = await jail(rig);
  await rig.node.pauseSandbox(TEAM, id, { memory: true });
  await assert.rejects(jail(rig), code('capacity'));
  await rig.node.killSandbox(TEAM, id);
  await jail(rig);
});

test('an end of the node ends paused sandboxes too: they are in the memory of the host', async () => {
  const rig = await startNodeRig(quiet);
  const { sandboxID: id } = await jail(rig);
  await rig.node.pauseSandbox(TEAM, id, { memory: true });
  await rig.end();
  assert.equal(rig.host.machines.size, 0);
  assert.equal(rig.host.attachments.size, 0);
});
