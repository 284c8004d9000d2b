/** Snapshots as their team sees them. */
import assert from 'node:assert/strict';
import { readdir } from 'node:fs/promises';
import test from 'node:test';
import { isCoppiceError } from '../../src/contract/errors.ts';
import type { NodeOptions } from '../../src/node/node.ts';
import { BOTH_KINDS, createRequest, type NodeRig, OTHER_TEAM, startNodeRig, TEAM } from '../helpers/node-rig.ts';
import { until } from '../helpers/until.ts';

const NEWER = '11111111-0000-4000-8000-000000000000';
const quiet = { templates: BOTH_KINDS, pool: { least: 0, most: 0 } } as const;
const code = (wanted: Parameters<typeof isCoppiceError>[1]) => (error: unknown) => isCoppiceError(error, wanted);

async function create(rig: NodeRig, template = 'base-jail', teamID = TEAM): Promise<string> {
  return (await rig.node.createSandbox(createRequest({ template, teamID }))).sandbox.sandboxID;
}

/** A jail that has written `word`. */
async function written(rig: NodeRig, word: string): Promise<string> {
  const id = await create(rig);
  rig.host.machines.get(id)!.disk.push(word);
  return id;
}

const diskOf = (rig: NodeRig, id: string): readonly string[] => rig.host.machines.get(id)!.disk;
const listed = async (rig: NodeRig, query: object = {}): Promise<string[]> =>
  (await rig.node.listSnapshots({ teamID: TEAM, limit: 100, ...query })).snapshots.map((one) => one.snapshotID);

test('a snapshot becomes sandboxes that have what its source had, and nothing that came later', async (t) => {
  const rig = await startNodeRig({ ...quiet, pool: { least: 1, most: 1 } });
  t.after(() => rig.end());
  const source = await written(rig, 'early');
  const snapshot = (await rig.node.createSnapshot(TEAM, source, {})).snapshot;
  assert.match(snapshot.snapshotID, /^[a-z0-9]{20}:default$/);
  assert.deepEqual(snapshot.names, []);
  assert.equal(snapshot.sourceID, source);
  assert.equal(snapshot.isolation, 'jail');
  rig.host.machines.get(source)!.disk.push('late');
  for (const name of [snapshot.snapshotID, snapshot.templateID]) {
    const { sandbox } = await rig.node.createSandbox(createRequest({ template: name, metadata: { a: 'b' } }));
    assert.deepEqual(diskOf(rig, sandbox.sandboxID), ['early']);
    assert.equal(sandbox.templateID, snapshot.templateID);
    assert.equal(sandbox.isolation, 'jail');
    const original = await rig.node.getSandbox(TEAM, source);
    for (const size of ['cpuCount', 'memoryMB', 'diskSizeMB'] as const) assert.equal(sandbox[size], original[size]);
    assert.notEqual(sandbox.generation, original.generation);
    const query = { teamID: TEAM, states: ['running'], order: 'asc', limit: 100, template: name } as const;
    assert.ok((await rig.node.listSandboxes(query)).sandboxes.some((one) => one.sandboxID === sandbox.sandboxID));
    await rig.node.killSandbox(TEAM, sandbox.sandboxID);
  }
  assert.deepEqual(diskOf(rig, source), ['early', 'late']);
  assert.equal((await rig.node.getSandbox(TEAM, source)).state, 'running');
});

test('it is taken of a paused sandbox too, which stays paused', async (t) => {
  const rig = await startNodeRig(quiet);
  t.after(() => rig.end());
  const source = await written(rig, 'kept');
  await rig.node.pauseSandbox(TEAM, source, { memory: true });
  const {
    snapshot: { snapshotID },
  } = await rig.node.createSnapshot(TEAM, source, {});
  assert.equal((await rig.node.getSandbox(TEAM, source)).state, 'paused');
  assert.equal(rig.host.machines.get(source)!.parked, true);
  assert.deepEqual(diskOf(rig, await create(rig, snapshotID)), ['kept']);
});

test('a name with tags: created by it, listed by it, and its successor takes its place', async (t) => {
  const rig = await startNodeRig(quiet);
  t.after(() => rig.end());
  const one = (await rig.node.createSnapshot(TEAM, await written(rig, 'one'), { name: 'Work' })).snapshot;
  assert.equal(one.snapshotID, 'work:default');
  assert.deepEqual(one.names, ['work:default']);
  const two = (await rig.node.createSnapshot(TEAM, await written(rig, 'two'), { name: 'work:v2' })).snapshot;
  assert.equal(two.templateID, one.templateID, 'snapshots of one name are one template');
  const three = (await rig.node.createSnapshot(TEAM, await written(rig, 'three'), { name: 'work' })).snapshot;
  assert.equal(three.templateID, one.templateID);
  assert.deepEqual(await listed(rig), ['work:default', 'work:v2']);
  assert.deepEqual(await listed(rig, { name: 'work' }), ['work:default', 'work:v2']);
  assert.deepEqual(await listed(rig, { name: 'WORK:v2' }), ['work:v2']);
  assert.deepEqual(await listed(rig, { name: one.templateID }), ['work:default', 'work:v2']);
  assert.deepEqual(await listed(rig, { name: 'nothing' }), []);
  assert.deepEqual(await listed(rig, { sourceID: two.sourceID }), ['work:v2']);
  for (const [name, disk] of [
    ['work', 'three'],
    ['work:default', 'three'],
    [`${one.templateID}:default`, 'three'],
    ['work:v2', 'two'],
    [`${one.templateID}:v2`, 'two'],
  ] as const) {
    const { sandbox } = await rig.node.createSandbox(createRequest({ template: name }));
    assert.deepEqual(diskOf(rig, sandbox.sandboxID), [disk], name);
    assert.equal(sandbox.alias, 'work');
  }
  await assert.rejects(create(rig, 'work:v3'), code('template_not_found'));
  assert.deepEqual((await readdir(rig.snapshotsFolder)).toSorted(), [two.buildID, three.buildID].toSorted());
});

test('names that cannot be are refused', async (t) => {
  const rig = await startNodeRig(quiet);
  t.after(() => rig.end());
  const source = await create(rig);
  for (const name of ['', 'a b', 'ns/name', '../up', 'a:b:c', 'a:', ':b', 'a'.repeat(129), 'a\0', 'ä'])
    await assert.rejects(rig.node.createSnapshot(TEAM, source, { name }), code('bad_request'), name);
  for (const name of ['base', 'base-jail:v2'])
    await assert.rejects(rig.node.createSnapshot(TEAM, source, { name }), code('conflict'), name);
  assert.deepEqual(await readdir(rig.snapshotsFolder), []);
});

test("another team's sandbox and snapshot do not exist for this one", async (t) => {
  const rig = await startNodeRig(quiet);
  t.after(() => rig.end());
  const source = await create(rig);
  await assert.rejects(rig.node.createSnapshot(OTHER_TEAM, source, {}), code('sandbox_not_found'));
  const mine = (await rig.node.createSnapshot(TEAM, source, { name: 'work' })).snapshot;
  for (const name of ['work', mine.snapshotID, mine.templateID]) {
    await assert.rejects(create(rig, name, OTHER_TEAM), code('template_not_found'));
    await assert.rejects(rig.node.deleteSnapshot(OTHER_TEAM, name), code('template_not_found'));
  }
  assert.deepEqual(await listed(rig, { teamID: OTHER_TEAM }), []);
  const theirs = (
    await rig.node.createSnapshot(OTHER_TEAM, await create(rig, 'base-jail', OTHER_TEAM), {
      name: 'work',
    })
  ).snapshot;
  assert.notEqual(theirs.templateID, mine.templateID, 'one name, two teams');
  assert.deepEqual(await listed(rig), ['work:default']);
});

test('deleted: its files go at once, sandboxes made from it go on and keep their shape', async (t) => {
  const rig = await startNodeRig(quiet);
  t.after(() => rig.end());
  const {
    snapshot: { snapshotID, templateID },
  } = await rig.node.createSnapshot(TEAM, await written(rig, 'kept'), {});
  const { sandbox } = await rig.node.createSandbox(createRequest({ template: snapshotID }));
  await rig.node.deleteSnapshot(TEAM, snapshotID);
  assert.deepEqual(await readdir(rig.snapshotsFolder), []);
  await assert.rejects(rig.node.deleteSnapshot(TEAM, snapshotID), code('template_not_found'));
  await assert.rejects(create(rig, templateID), code('template_not_found'));
  assert.deepEqual(await rig.node.getSandbox(TEAM, sandbox.sandboxID), sandbox);
  await rig.crash();
  assert.deepEqual(await rig.node.getSandbox(TEAM, sandbox.sandboxID), sandbox, 'over a restart too');
  await rig.node.pauseSandbox(TEAM, sandbox.sandboxID, { memory: true });
  await rig.node.connectSandbox(TEAM, sandbox.sandboxID, { timeoutSeconds: 60 });
  assert.notDeepEqual(rig.rows.snapshots.all(), [], 'its row tells what the sandbox is made of');
  await rig.node.killSandbox(TEAM, sandbox.sandboxID);
  rig.rows.snapshots.purge();
  assert.deepEqual(rig.rows.snapshots.all(), []);
});

test('deletion by tag takes one, by name all; a template is not deleted', async (t) => {
  const rig = await startNodeRig(quiet);
  t.after(() => rig.end());
  const source = await create(rig);
  for (const name of ['work', 'work:v2', 'work:v3']) await rig.node.createSnapshot(TEAM, source, { name });
  await rig.node.deleteSnapshot(TEAM, 'work:v2');
  assert.deepEqual(await listed(rig), ['work:v3', 'work:default']);
  await rig.node.deleteSnapshot(TEAM, 'work');
  assert.deepEqual(await listed(rig), []);
  await assert.rejects(rig.node.deleteSnapshot(TEAM, 'base'), code('forbidden'));
  await assert.rejects(rig.node.deleteSnapshot(TEAM, '../../etc'), code('template_not_found'));
});

test('a create that is under way when its snapshot is deleted still gets it', async (t) => {
  const rig = await startNodeRig(quiet);
  t.after(() => rig.end());
  const {
    snapshot: { snapshotID },
  } = await rig.node.createSnapshot(TEAM, await written(rig, 'kept'), {});
  const { reached, release } = rig.host.hold('clone');
  const creating = create(rig, snapshotID);
  await reached;
  await rig.node.deleteSnapshot(TEAM, snapshotID);
  assert.equal((await readdir(rig.snapshotsFolder)).length, 1);
  release();
  assert.deepEqual(diskOf(rig, await creating), ['kept']);
  await until('its files are gone', async () => (await readdir(rig.snapshotsFolder)).length === 0);
});

test('pages go through all of them once, newest first', async (t) => {
  const rig = await startNodeRig(quiet);
  t.after(() => rig.end());
  const source = await create(rig);
  const made: string[] = [];
  for (let count = 0; count < 7; count++)
    made.push((await rig.node.createSnapshot(TEAM, source, {})).snapshot.snapshotID);
  const seen: string[] = [];
  let after: { createdAtMs: number; buildID: string } | undefined;
  do {
    const page = await rig.node.listSnapshots({ teamID: TEAM, limit: 3, ...(after ? { after } : {}) });
    assert.ok(page.snapshots.length <= 3);
    seen.push(...page.snapshots.map((one) => one.snapshotID));
    after = page.next;
  } while (after);
  assert.deepEqual(seen.toSorted(), made.toSorted());
  assert.deepEqual(seen, await listed(rig));
});

test('a capture that fails or is given up leaves nothing', async (t) => {
  const rig = await startNodeRig(quiet);
  t.after(() => rig.end());
  const source = await create(rig);
  rig.host.failNext.add('capture');
  await assert.rejects(rig.node.createSnapshot(TEAM, source, { name: 'work' }), /capture failed/);
  const abort = new AbortController();
  const held = rig.host.hold('capture');
  const taking = rig.node.createSnapshot(TEAM, source, { name: 'work', signal: abort.signal });
  await held.reached;
  assert.deepEqual((await rig.node.leaks()).details, [], 'what is being written is no leak');
  assert.deepEqual(await listed(rig), []);
  abort.abort();
  held.release();
  await assert.rejects(taking, code('aborted'));
  assert.deepEqual(await readdir(rig.snapshotsFolder), []);
  assert.deepEqual(rig.rows.snapshots.all(), []);
  assert.equal((await rig.node.getSandbox(TEAM, source)).state, 'running');
});

test('a pause waits for a capture; a kill does not', async (t) => {
  const rig = await startNodeRig(quiet);
  t.after(() => rig.end());
  const source = await create(rig);
  const first = rig.host.hold('capture');
  const taking = rig.node.createSnapshot(TEAM, source, {});
  await first.reached;
  const pausing = rig.node.pauseSandbox(TEAM, source, { memory: true });
  assert.equal((await rig.node.getSandbox(TEAM, source)).state, 'running');
  assert.equal((await rig.node.connectSandbox(TEAM, source, { timeoutSeconds: 1 })).resumed, false);
  first.release();
  await taking;
  await pausing;
  assert.equal((await rig.node.getSandbox(TEAM, source)).state, 'paused');
  const second = rig.host.hold('capture');
  const late = rig.node.createSnapshot(TEAM, source, {});
  await second.reached;
  await rig.node.killSandbox(TEAM, source);
  assert.equal(rig.host.machines.has(source), false);
  second.release();
  // The fake had read all of it by then.
  await late;
});

test('a sandbox that was made from an earlier build of its template is captured if that build is still there', async (t) => {
  const earlier = BOTH_KINDS[1]!;
  const options: Partial<NodeOptions> = { ...quiet, templates: [...BOTH_KINDS] };
  const rig = await startNodeRig(options);
  t.after(() => rig.end());
  const source = await written(rig, 'old');
  const templates = [BOTH_KINDS[0]!, { ...earlier, buildID: NEWER, baseID: NEWER }];
  Object.assign(options, { templates });
  await rig.crash();
  await assert.rejects(rig.node.createSnapshot(TEAM, source, {}), code('host_unfit'));
  assert.equal((await rig.node.getSandbox(TEAM, source)).state, 'running');
  Object.assign(options, { olderBuild: async (id: string) => (id === earlier.buildID ? earlier : undefined) });
  await rig.crash();
  const { snapshot } = await rig.node.createSnapshot(TEAM, source, {});
  assert.ok(rig.rows.bases().has(earlier.buildID), 'and so it stays');
  assert.deepEqual(diskOf(rig, await create(rig, snapshot.snapshotID)), ['old']);
});

test('a snapshot of a sandbox that was made from one', async (t) => {
  const rig = await startNodeRig(quiet);
  t.after(() => rig.end());
  const first = (await rig.node.createSnapshot(TEAM, await written(rig, 'one'), {})).snapshot;
  const child = await create(rig, first.snapshotID);
  rig.host.machines.get(child)!.disk.push('two');
  const second = (await rig.node.createSnapshot(TEAM, child, { name: 'second' })).snapshot;
  await rig.node.deleteSnapshot(TEAM, first.snapshotID);
  assert.deepEqual(diskOf(rig, await create(rig, 'second')), ['one', 'two']);
  assert.deepEqual(await readdir(rig.snapshotsFolder), [second.buildID]);
});

test('isolation asked for beside a snapshot must be its own', async (t) => {
  const rig = await startNodeRig(quiet);
  t.after(() => rig.end());
  const {
    snapshot: { snapshotID },
  } = await rig.node.createSnapshot(TEAM, await create(rig), {});
  const wish = (isolation: 'jail' | 'microvm') =>
    rig.node.createSandbox(createRequest({ template: snapshotID, isolation }));
  await wish('jail');
  await assert.rejects(wish('microvm'), code('bad_request'));
});
