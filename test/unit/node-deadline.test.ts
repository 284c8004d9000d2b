import assert from 'node:assert/strict';
import test from 'node:test';
import { createRequest, startNodeRig, TEAM } from '../helpers/node-rig.ts';
import { until } from '../helpers/until.ts';

test('a sandbox whose time is up is gone within a second, with everything of it', async (t) => {
  const rig = await startNodeRig({ pool: { least: 0, most: 0 } });
  t.after(() => rig.end());
  const { sandbox } = await rig.node.createSandbox(createRequest({ timeoutSeconds: 1 }));
  await until('it is gone', () => rig.host.machines.size === 0, 5_000);
  const late = Date.now() - sandbox.endAtMs;
  assert.ok(late >= 0, `not before its time (${late} ms)`);
  await assert.rejects(rig.node.getSandbox(TEAM, sandbox.sandboxID));
  await until('its row too', () => rig.rows.all().length === 0);
});

test('timeout shortens and lengthens, connect only lengthens', async (t) => {
  const rig = await startNodeRig();
  t.after(() => rig.end());
  const { sandbox } = await rig.node.createSandbox(createRequest({ timeoutSeconds: 100 }));
  const id = sandbox.sandboxID;
  const left = async (): Promise<number> =>
    Math.round(((await rig.node.getSandbox(TEAM, id)).endAtMs - Date.now()) / 1000);
  await rig.node.connectSandbox(TEAM, id, { timeoutSeconds: 10 });
  assert.equal(await left(), 100);
  await rig.node.connectSandbox(TEAM, id, { timeoutSeconds: 500 });
  assert.equal(await left(), 500);
  await rig.node.setSandboxTimeout(TEAM, id, 50);
  assert.equal(await left(), 50);
  await rig.node.setSandboxTimeout(TEAM, id, 0);
  await until('it ended', () => !rig.host.machines.has(id));
});

test('a deadline that passed while the service was down holds at its start', async (t) => {
  const rig = await startNodeRig({ pool: { least: 0, most: 0 } });
  t.after(() => rig.end());
  const { sandbox } = await rig.node.createSandbox(createRequest({ timeoutSeconds: 1 }));
  rig.node.abandon();
  await until('its time is up', () => Date.now() > sandbox.endAtMs);
  assert.equal(rig.host.machines.size, 1, 'nobody was there to end it');
  await rig.crash();
  assert.equal(rig.host.machines.size, 0);
  assert.deepEqual(rig.rows.all(), []);
});
