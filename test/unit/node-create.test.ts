import assert from 'node:assert/strict';
import test from 'node:test';
import { isCoppiceError } from '../../src/contract/errors.ts';
import { createRequest, OTHER_TEAM, startNodeRig, TEAM } from '../helpers/node-rig.ts';
import { until } from '../helpers/until.ts';

test('a hot hit claims a parked machine, gives it its environment and wakes it', async (t) => {
  const rig = await startNodeRig();
  t.after(() => rig.end());
  await rig.node.warm(2);
  const cloned = rig.host.clones;
  const { sandbox, receipt } = await rig.node.createSandbox(
    createRequest({ envVars: { MY: 'value' }, metadata: { a: 'b' } }),
  );
  assert.equal(receipt.path, 'hot');
  assert.ok(receipt.stages.some((stage) => stage.name === 'guest'));
  assert.equal(rig.host.clones, cloned, 'nothing was restored for this create');
  const machine = rig.host.machines.get(sandbox.sandboxID)!;
  assert.equal(machine.parked, false);
  const [atPool] = machine.identities;
  const atClaim = machine.identities.at(-1);
  assert.equal(atPool?.hostname, sandbox.sandboxID);
  assert.match(atPool?.machineID ?? '', /^[0-9a-f]{32}$/);
  assert.equal(Buffer.from(atPool?.entropy ?? '', 'base64').length, 64);
  assert.equal(atPool?.generation, sandbox.generation);
  assert.deepEqual(atClaim?.env, {
    FROM_TEMPLATE: 'base',
    E2B_SANDBOX: 'true',
    E2B_SANDBOX_ID: sandbox.sandboxID,
    E2B_TEMPLATE_ID: sandbox.templateID,
    MY: 'value',
  });
  assert.deepEqual(sandbox.metadata, { a: 'b' });
});

test('a miss grows one while the caller waits', async (t) => {
  const rig = await startNodeRig({ pool: { least: 0, most: 0 } });
  t.after(() => rig.end());
  const { receipt, sandbox } = await rig.node.createSandbox(createRequest());
  assert.equal(receipt.path, 'cold');
  assert.equal(rig.host.attachments.get(sandbox.sandboxID)?.policy.allowInternet, true);
});

test('every sandbox made at once is another one', async (t) => {
  const rig = await startNodeRig();
  t.after(() => rig.end());
  const made = await Promise.all(Array.from({ length: 12 }, () => rig.node.createSandbox(createRequest())));
  assert.equal(new Set(made.map((one) => one.sandbox.sandboxID)).size, 12);
  assert.equal(new Set(made.map((one) => one.sandbox.envdAccessToken)).size, 12);
  assert.equal(new Set(made.map((one) => one.sandbox.generation)).size, 12);
});

test('no internet means denied before the machine wakes', async (t) => {
  const rig = await startNodeRig();
  t.after(() => rig.end());
  await rig.node.warm(2);
  const { sandbox } = await rig.node.createSandbox(createRequest({ network: { allowInternetAccess: false } }));
  assert.equal(rig.host.attachments.get(sandbox.sandboxID)?.policy.allowInternet, false);
  assert.equal(sandbox.allowInternetAccess, false);
});

test('an unknown template is template_not_found, and costs nothing', async (t) => {
  const rig = await startNodeRig({ pool: { least: 0, most: 0 } });
  t.after(() => rig.end());
  await assert.rejects(rig.node.createSandbox(createRequest({ template: 'nope' })), (error) =>
    isCoppiceError(error, 'template_not_found'),
  );
  assert.equal(rig.host.clones, 0);
});

test('over the memory budget is capacity, and idle entries of other templates give way', async (t) => {
  // Room for three machines of 512 MiB with their overhead.
  const rig = await startNodeRig({ memoryBudgetMB: 3 * 576, pool: { least: 1, most: 1 } });
  t.after(() => rig.end());
  await rig.node.warm(1);
  for (let count = 0; count < 3; count++) await rig.node.createSandbox(createRequest());
  await assert.rejects(rig.node.createSandbox(createRequest()), (error) => isCoppiceError(error, 'capacity'));
  assert.equal(rig.host.machines.size, 3);
});

test('a step that fails leaves nothing behind', async (t) => {
  for (const step of ['attach', 'clone', 'channel'] as const) {
    await t.test(step, async () => {
      const rig = await startNodeRig({ pool: { least: 0, most: 0 } });
      try {
        rig.host.failNext.add(step);
        await assert.rejects(rig.node.createSandbox(createRequest()), new RegExp(step));
        assert.equal(rig.host.machines.size, 0);
        assert.equal(rig.host.attachments.size, 0);
        assert.deepEqual(rig.rows.all(), []);
        await rig.node.createSandbox(createRequest());
      } finally {
        await rig.end();
      }
    });
  }
});

test('a machine that fails at hand-over is ended and the next one is tried', async (t) => {
  const rig = await startNodeRig();
  t.after(() => rig.end());
  await rig.node.warm(2);
  rig.host.failNext.add('setPolicy');
  const { sandbox } = await rig.node.createSandbox(createRequest({ network: { allowInternetAccess: false } }));
  assert.equal((await rig.node.getSandbox(TEAM, sandbox.sandboxID)).state, 'running');
  await until('the failed one is gone', () => rig.rows.all().every((row) => row.state !== 'killing'));
});

test('a caller who gives up gets nothing, and nothing stays', async (t) => {
  const rig = await startNodeRig({ pool: { least: 0, most: 0 } });
  t.after(() => rig.end());
  rig.host.mute = true;
  const abort = new AbortController();
  const creating = rig.node.createSandbox(createRequest(), abort.signal);
  await until('the machine is there', () => rig.host.machines.size === 1);
  abort.abort();
  await assert.rejects(creating);
  await until('and gone', () => rig.host.machines.size === 0 && rig.rows.all().length === 0);
});

test("another team's sandbox does not exist for this one", async (t) => {
  const rig = await startNodeRig();
  t.after(() => rig.end());
  const { sandbox } = await rig.node.createSandbox(createRequest());
  const { sandboxID } = sandbox;
  const notFound = (error: unknown): boolean => isCoppiceError(error, 'sandbox_not_found');
  await assert.rejects(rig.node.getSandbox(OTHER_TEAM, sandboxID), notFound);
  await assert.rejects(rig.node.killSandbox(OTHER_TEAM, sandboxID), notFound);
  await assert.rejects(rig.node.setSandboxTimeout(OTHER_TEAM, sandboxID, 0), notFound);
  await assert.rejects(rig.node.connectSandbox(OTHER_TEAM, sandboxID, { timeoutSeconds: 60 }), notFound);
  const listed = await rig.node.listSandboxes({ teamID: OTHER_TEAM, states: ['running'], order: 'desc', limit: 100 });
  assert.deepEqual(listed, { sandboxes: [], totalRunning: 0 });
  assert.equal((await rig.node.getSandbox(TEAM, sandboxID)).state, 'running');
});

test('an end of the node waits for creates under way, and ends what they made', async () => {
  const rig = await startNodeRig({ pool: { least: 0, most: 0 } });
  const creating = Promise.allSettled(Array.from({ length: 5 }, () => rig.node.createSandbox(createRequest())));
  await until('some have begun', () => rig.rows.all().length > 0);
  await rig.end();
  await creating;
  assert.equal(rig.host.machines.size, 0);
  assert.equal(rig.host.attachments.size, 0);
});
