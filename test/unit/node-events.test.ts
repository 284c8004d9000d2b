/** What a node tells of its sandboxes: each fact once it is true, in order, and nothing that a crash kept back is lost. */
import assert from 'node:assert/strict';
import test, { type TestContext } from 'node:test';
import type { LifecycleEvent, LogEntry } from '../../src/contract/node-api.ts';
import type { NodeOptions } from '../../src/node/node.ts';
import { BOTH_KINDS, createRequest, type NodeRig, OTHER_TEAM, startNodeRig, TEAM } from '../helpers/node-rig.ts';
import { until } from '../helpers/until.ts';

async function rigged(t: TestContext, options: Partial<NodeOptions> = {}): Promise<NodeRig> {
  const rig = await startNodeRig({ templates: BOTH_KINDS, ...options });
  t.after(() => rig.end());
  return rig;
}

async function eventsOf(rig: NodeRig, sandboxID?: string): Promise<readonly LifecycleEvent[]> {
  const of = sandboxID === undefined ? {} : { sandboxID };
  return (await rig.node.listEvents({ order: 'asc', limit: 256, ...of })).events;
}

const kinds = (events: readonly LifecycleEvent[]): string[] => events.map(({ kind }) => kind);

async function logOf(rig: NodeRig, sandboxID: string): Promise<readonly LogEntry[]> {
  return rig.node
    .listLogs({ teamID: TEAM, sandboxID, direction: 'backward', limit: 1000 })
    .then((all) => all.toReversed());
}

const said = async (rig: NodeRig, sandboxID: string): Promise<string[]> =>
  (await logOf(rig, sandboxID)).map(({ level, message }) => `${level}: ${message}`);

/** What is told of a create is told in the turn after its answer. */
const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

test('a whole life: created, updated, paused, resumed, checkpointed, rolled back, killed', async (t) => {
  const rig = await rigged(t);
  const { sandbox } = await rig.node.createSandbox(
    createRequest({ metadata: { of: 'me' }, envVars: { TOKEN: 'a secret that is told to nobody' } }),
  );
  const id = sandbox.sandboxID;
  await turn();
  await rig.node.setSandboxTimeout(TEAM, id, 120);
  await rig.node.pauseSandbox(TEAM, id, { memory: true });
  const { sandbox: resumed } = await rig.node.connectSandbox(TEAM, id, { timeoutSeconds: 60 });
  const { snapshot } = await rig.node.createSnapshot(TEAM, id, {});
  const { sandbox: rolled } = await rig.node.rollbackSandbox(TEAM, id, snapshot.snapshotID);
  await rig.node.killSandbox(TEAM, id);

  const events = await eventsOf(rig, id);
  assert.deepEqual(kinds(events), ['created', 'updated', 'paused', 'resumed', 'checkpointed', 'resumed', 'killed']);
  for (const event of events) {
    assert.equal(event.teamID, TEAM);
    assert.equal(event.templateID, sandbox.templateID);
    assert.deepEqual(event.data.sandbox_metadata, { of: 'me' });
    assert.ok(Math.abs(event.atMs - Date.now()) < 60_000);
  }
  const [created, updated, paused, up, checkpointed, back, killed] = events;
  assert.deepEqual([created!.generation, paused!.generation], [sandbox.generation, sandbox.generation]);
  assert.deepEqual([up!.generation, checkpointed!.generation], [resumed.generation, resumed.generation]);
  assert.deepEqual([back!.generation, killed!.generation], [rolled.generation, rolled.generation]);
  assert.ok(Date.parse(String(updated!.data.set_timeout)) > Date.now() + 100_000);
  assert.equal(checkpointed!.data.snapshot_build_id, snapshot.buildID);
  assert.equal(back!.data.rolled_back_to, snapshot.buildID);
  assert.equal(killed!.data.reason, 'killed by its owner');
  for (const { data } of [paused!, killed!]) {
    const execution = data.execution as Record<string, unknown>;
    assert.deepEqual([execution.vcpu_count, execution.memory_mb], [1, 512]);
    assert.ok(Number(execution.execution_time) >= 0);
    assert.ok(Date.parse(String(execution.started_at)) > 0);
  }
  assert.equal(new Set(events.map((one) => one.id)).size, events.length);
  assert.deepEqual(await said(rig, id), [
    'info: created',
    'debug: timeout set',
    'info: paused',
    'info: resumed',
    'info: snapshot',
    'info: rolled back',
    'info: killed: killed by its owner',
  ]);
  assert.ok(!JSON.stringify([events, await logOf(rig, id)]).includes('secret'));
  await assert.rejects(rig.node.listLogs({ teamID: OTHER_TEAM, sandboxID: id, direction: 'forward', limit: 1 }), {
    code: 'sandbox_not_found',
  });
});

test('a timeout that changes nothing is not told', async (t) => {
  const rig = await rigged(t);
  const { sandbox } = await rig.node.createSandbox(createRequest({ timeoutSeconds: 600 }));
  await rig.node.connectSandbox(TEAM, sandbox.sandboxID, { timeoutSeconds: 1 });
  await rig.node.refreshSandbox(TEAM, sandbox.sandboxID, 1);
  assert.deepEqual(kinds(await eventsOf(rig, sandbox.sandboxID)), ['created']);
});

test('forks: the source says which, each is created; machines that are nobody’s are told of nowhere', async (t) => {
  const rig = await rigged(t);
  const { sandbox } = await rig.node.createSandbox(createRequest());
  const { forks } = await rig.node.forkSandbox(TEAM, sandbox.sandboxID, { count: 2, timeoutSeconds: 60 });
  const ids = forks.flatMap((one) => ('sandbox' in one ? [one.sandbox.sandboxID] : []));
  await turn();
  assert.deepEqual((await logOf(rig, sandbox.sandboxID)).at(-1)?.fields, { logger: 'lifecycle', forks: ids.join(' ') });
  const events = await eventsOf(rig);
  assert.deepEqual(kinds(events), ['created', 'created', 'created']);
  assert.deepEqual(new Set(events.map(({ sandboxID }) => sandboxID)), new Set([sandbox.sandboxID, ...ids]));
});

test('its time is up, its machine ends: why is told', async (t) => {
  const rig = await rigged(t);
  const brief = (await rig.node.createSandbox(createRequest({ timeoutSeconds: 0.05 }))).sandbox.sandboxID;
  const dying = (await rig.node.createSandbox(createRequest())).sandbox.sandboxID;
  rig.host.machines.get(dying)!.die('as the test wants');
  await until('both are told', async () => kinds(await eventsOf(rig)).filter((kind) => kind === 'killed').length === 2);
  assert.equal((await said(rig, brief)).at(-1), 'info: killed: its time was up');
  assert.equal((await said(rig, dying)).at(-1), 'error: lost: its machine ended: as the test wants');
});

test('a create that fails, and one that is given up, are told of nowhere', async (t) => {
  const rig = await rigged(t, { pool: { least: 0, most: 0 } });
  rig.host.failNext.add('clone');
  await assert.rejects(rig.node.createSandbox(createRequest()));
  rig.host.failNext.add('channel');
  await assert.rejects(rig.node.createSandbox(createRequest()));
  await turn();
  assert.deepEqual(await eventsOf(rig), []);
});

test('over crashes and ends nothing is told twice, and what was not told is', async (t) => {
  const rig = await rigged(t);
  const create = async (more = {}) => (await rig.node.createSandbox(createRequest(more))).sandbox.sandboxID;
  const runs = await create();
  const paused = await create();
  await rig.node.pauseSandbox(TEAM, paused, { memory: true });
  await turn();
  // In the turn of its answer: it was never told of.
  const fresh = await create();
  await rig.crash();
  assert.deepEqual(kinds(await eventsOf(rig, fresh)), ['created']);
  assert.deepEqual(kinds(await eventsOf(rig, runs)), ['created']);
  assert.deepEqual(kinds(await eventsOf(rig, paused)), ['created', 'paused']);
  // Ends that the node does not see.
  rig.node.abandon();
  rig.host.machines.get(runs)!.die('while nobody looked');
  await rig.crash();
  assert.deepEqual(kinds(await eventsOf(rig, runs)), ['created', 'killed']);
  assert.equal((await said(rig, runs)).at(-1), 'error: lost: it ended with its host or its node');
  await rig.restart();
  assert.deepEqual(kinds(await eventsOf(rig, fresh)), ['created', 'killed']);
  assert.deepEqual(kinds(await eventsOf(rig, paused)), ['created', 'paused']);
  await rig.node.connectSandbox(TEAM, paused, { timeoutSeconds: 60 });
  assert.deepEqual(kinds(await eventsOf(rig, paused)), ['created', 'paused', 'resumed']);
});

test('what is lost with its host and saved as its disk is paused, and says so', async (t) => {
  const rig = await rigged(t);
  const { sandbox } = await rig.node.createSandbox(createRequest({ onTimeout: 'pause' }));
  await turn();
  rig.node.abandon();
  rig.host.loseAll();
  await rig.crash();
  assert.deepEqual(kinds(await eventsOf(rig, sandbox.sandboxID)), ['created', 'paused']);
  assert.match((await said(rig, sandbox.sandboxID)).at(-1)!, /^error: lost: .*paused with what it had on disk/);
});
