/** Sandboxes whose memory can be captured: paused to disk, resumed, forked, rolled back, as their owner sees it. */
import assert from 'node:assert/strict';
import { readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'node:test';
import { isCoppiceError } from '../../src/contract/errors.ts';
import { ENVD_PORT, type SandboxView } from '../../src/contract/node-api.ts';
import { accessToken } from '../../src/node/identifiers.ts';
import { UNFIT_MARK } from '../helpers/fake-backend.ts';
import { BOTH_KINDS, createRequest, type NodeRig, OTHER_TEAM, startNodeRig, TEAM } from '../helpers/node-rig.ts';
import { until } from '../helpers/until.ts';

const quiet = { templates: BOTH_KINDS, pool: { least: 0, most: 0 } } as const;
const code = (wanted: Parameters<typeof isCoppiceError>[1]) => (error: unknown) => isCoppiceError(error, wanted);
const soon = { timeoutSeconds: 60 } as const;

async function create(rig: NodeRig, wish: Parameters<typeof createRequest>[0] = {}): Promise<SandboxView> {
  return (await rig.node.createSandbox(createRequest(wish))).sandbox;
}

/** One that has written a word to its disk and keeps one in memory. */
async function written(rig: NodeRig, word: string, wish: Parameters<typeof createRequest>[0] = {}): Promise<string> {
  const { sandboxID } = await create(rig, wish);
  write(rig, sandboxID, word);
  return sandboxID;
}

function write(rig: NodeRig, id: string, word: string): void {
  const machine = rig.host.machines.get(id)!;
  machine.disk.push(word);
  machine.memory.push(word);
}

const contentOf = (rig: NodeRig, id: string) => {
  const { disk, memory } = rig.host.machines.get(id)!;
  return { disk, memory };
};
const both = (...words: string[]) => ({ disk: words, memory: words });

async function quietEnd(rig: NodeRig): Promise<void> {
  await rig.end();
  assert.equal(rig.host.machines.size, 0);
  assert.equal(rig.host.attachments.size, 0);
}

test('a paused sandbox takes nothing of the host, and is itself when it is resumed, of a new generation', async (t) => {
  const rig = await startNodeRig(quiet);
  t.after(() => quietEnd(rig));
  const made = await create(rig, {
    metadata: { a: 'b' },
    envVars: { MINE: 'yes' },
    network: { allowInternetAccess: false },
  });
  const id = made.sandboxID;
  write(rig, id, 'kept');
  const receipt = await rig.node.pauseSandbox(TEAM, id, { memory: true });
  assert.equal(receipt.pauseMs, 1);
  assert.equal(rig.host.machines.size, 0);
  assert.equal(rig.host.attachments.size, 0);
  assert.equal(rig.rows.get(id)!.uid, undefined);
  assert.deepEqual((await rig.node.leaks()).details, []);
  assert.equal((await rig.node.getSandbox(TEAM, id)).state, 'paused');
  await assert.rejects(rig.node.pauseSandbox(TEAM, id, { memory: true }), code('conflict'));

  const { sandbox, resumed } = await rig.node.connectSandbox(TEAM, id, { timeoutSeconds: 30 });
  assert.equal(resumed, true);
  assert.deepEqual(contentOf(rig, id), both('kept'));
  assert.notEqual(sandbox.generation, made.generation);
  const { startedAtMs, endAtMs, generation } = sandbox;
  assert.equal(endAtMs, startedAtMs + 30_000);
  assert.deepEqual(sandbox, { ...made, startedAtMs, endAtMs, generation });
  assert.equal(rig.host.attachments.get(id)!.policy.allowInternet, false);
  const identities = rig.host.machines.get(id)!.identities;
  assert.equal(identities[0]!.generation, generation);
  assert.equal(identities[0]!.cutConnections, true);
  assert.equal(identities[0]!.env!.MINE, 'yes');
  assert.equal(identities[0]!.machineID, undefined, 'it knows its names');
  assert.ok(identities.some((one) => one.clockMs !== undefined));
  assert.equal(rig.node.member(id)!.accessToken, accessToken(Buffer.alloc(32, 7), id));
  assert.deepEqual(await readdir(rig.pausedFolder), [], 'what it was resumed from is gone');
});

test('disk alone: paused so, or resumed so, it boots with new names and what it had written', async (t) => {
  const rig = await startNodeRig(quiet);
  t.after(() => quietEnd(rig));
  const [one, two] = [await written(rig, 'one'), await written(rig, 'two')];
  await rig.node.pauseSandbox(TEAM, one, { memory: false });
  await rig.node.pauseSandbox(TEAM, two, { memory: true });
  await rig.node.connectSandbox(TEAM, one, soon);
  await rig.node.resumeSandbox(TEAM, two, { ...soon, memory: false });
  for (const [id, word] of [
    [one, 'one'],
    [two, 'two'],
  ] as const) {
    assert.deepEqual(contentOf(rig, id), { disk: [word], memory: [] });
    assert.equal(rig.host.machines.get(id)!.identities[0]!.hostname, id);
  }
  const machineID = rig.host.machines.get(one)!.identities[0]!.machineID;
  await rig.node.pauseSandbox(TEAM, one, { memory: false });
  await rig.node.connectSandbox(TEAM, one, soon);
  assert.equal(rig.host.machines.get(one)!.identities[0]!.machineID, machineID, 'the same machine to its programs');
});

test('memory that this host cannot restore: refused so, its disk boots', async (t) => {
  const rig = await startNodeRig(quiet);
  t.after(() => quietEnd(rig));
  const id = await written(rig, 'kept');
  await rig.node.pauseSandbox(TEAM, id, { memory: true });
  for (const name of await readdir(rig.pausedFolder, { recursive: true }))
    if (name.endsWith('manifest.json')) await writeFile(join(rig.pausedFolder, name, '..', UNFIT_MARK), '');
  await assert.rejects(rig.node.connectSandbox(TEAM, id, soon), { code: 'host_unfit' });
  assert.equal((await rig.node.getSandbox(TEAM, id)).state, 'paused');
  await rig.node.connectSandbox(TEAM, id, { ...soon, memory: false });
  assert.deepEqual(contentOf(rig, id), { disk: ['kept'], memory: [] });
});

test('a jail whose memory is not wanted is kept on disk too', async (t) => {
  const rig = await startNodeRig(quiet);
  t.after(() => quietEnd(rig));
  const id = await written(rig, 'kept', { template: 'base-jail' });
  await rig.node.pauseSandbox(TEAM, id, { memory: true });
  assert.equal(rig.host.machines.get(id)!.parked, true, 'with its memory its machine holds it');
  await rig.node.connectSandbox(TEAM, id, { ...soon, memory: false });
  assert.deepEqual(contentOf(rig, id), { disk: ['kept'], memory: [] });
  await rig.node.pauseSandbox(TEAM, id, { memory: false });
  assert.equal(rig.host.machines.size, 0);
  await rig.node.connectSandbox(TEAM, id, soon);
  assert.deepEqual(contentOf(rig, id).disk, ['kept']);
});

test('a pause that fails leaves it running, and its deadline in force', async (t) => {
  const rig = await startNodeRig(quiet);
  t.after(() => quietEnd(rig));
  const id = await written(rig, 'kept');
  rig.host.failNext.add('capture');
  await assert.rejects(rig.node.pauseSandbox(TEAM, id, { memory: true }));
  assert.equal((await rig.node.getSandbox(TEAM, id)).state, 'running');
  await rig.node.member(id)!.agent();
  assert.deepEqual(await readdir(rig.pausedFolder), []);
  await rig.node.setSandboxTimeout(TEAM, id, 0);
  await until('it ended', () => rig.rows.get(id) === undefined);
});

test('what a pause to disk that failed all the way left can still be resumed, and killed', async (t) => {
  const rig = await startNodeRig(quiet);
  t.after(() => quietEnd(rig));
  const fail = async (id: string): Promise<void> => {
    for (const name of ['capture', 'unpark'] as const) rig.host.failNext.add(name);
    await assert.rejects(rig.node.pauseSandbox(TEAM, id, { memory: true }));
    assert.equal(rig.rows.get(id)!.state, 'pausing');
    assert.equal(rig.node.member(id), undefined, 'traffic does not find what does not run');
  };
  const id = await written(rig, 'kept');
  await fail(id);
  assert.equal((await rig.node.connectSandbox(TEAM, id, soon)).resumed, true);
  assert.deepEqual(contentOf(rig, id), both('kept'));
  await fail(id);
  await rig.node.killSandbox(TEAM, id);
  assert.deepEqual(rig.rows.all(), []);
  assert.deepEqual(await readdir(rig.pausedFolder), []);
});

test('a pause that failed leaves no wish: what is captured next is whole', async (t) => {
  const rig = await startNodeRig(quiet);
  t.after(() => quietEnd(rig));
  const id = await written(rig, 'kept');
  rig.host.failNext.add('capture');
  await assert.rejects(rig.node.pauseSandbox(TEAM, id, { memory: false }));
  assert.equal(rig.rows.get(id)!.kept, undefined);
  assert.equal((await rig.node.createSnapshot(TEAM, id, {})).snapshot.memory, true);
});

test('a resume that fails leaves it paused, and what it was paused as', async (t) => {
  const rig = await startNodeRig(quiet);
  t.after(() => quietEnd(rig));
  const id = await written(rig, 'kept');
  await rig.node.pauseSandbox(TEAM, id, { memory: true });
  for (const step of ['clone', 'attach', 'channel'] as const) {
    rig.host.failNext.add(step);
    await assert.rejects(rig.node.connectSandbox(TEAM, id, soon), step);
    assert.equal((await rig.node.getSandbox(TEAM, id)).state, 'paused');
    assert.deepEqual((await rig.node.leaks()).details, []);
    assert.equal(rig.host.machines.size, 0);
  }
  await rig.node.connectSandbox(TEAM, id, soon);
  assert.deepEqual(contentOf(rig, id), both('kept'));
});

test('a kill waits for no resume, and takes a paused one with all it had', async (t) => {
  const rig = await startNodeRig(quiet);
  t.after(() => quietEnd(rig));
  const [paused, resuming] = [await written(rig, 'a'), await written(rig, 'b')];
  for (const id of [paused, resuming]) await rig.node.pauseSandbox(TEAM, id, { memory: true });
  await rig.node.killSandbox(TEAM, paused);
  const { reached, release } = rig.host.hold('clone');
  const connecting = assert.rejects(rig.node.connectSandbox(TEAM, resuming, soon));
  await reached;
  const killing = rig.node.killSandbox(TEAM, resuming);
  release();
  await killing;
  await connecting;
  assert.deepEqual(rig.rows.all(), []);
  assert.deepEqual(await readdir(rig.pausedFolder), []);
  assert.equal(rig.host.machines.size, 0);
});

test('callers who connect at once: one resumes it, and all find it', async (t) => {
  const rig = await startNodeRig(quiet);
  t.after(() => quietEnd(rig));
  const id = await written(rig, 'kept');
  await rig.node.pauseSandbox(TEAM, id, { memory: true });
  const clones = rig.host.clones;
  const answers = await Promise.all([1, 2, 3].map(() => rig.node.connectSandbox(TEAM, id, soon)));
  assert.equal(answers.filter(({ resumed }) => resumed).length, 1);
  assert.equal(rig.host.clones, clones + 1);
});

test('a crash at each step of pause and resume: what was promised is kept', async (t) => {
  const rig = await startNodeRig(quiet);
  t.after(() => quietEnd(rig));
  const id = await written(rig, 'kept');
  const crashIn = async (step: 'capture' | 'clone', verb: () => Promise<unknown>): Promise<void> => {
    const { reached } = rig.host.hold(step);
    verb().catch(() => {});
    await reached;
    await rig.crash();
  };
  await crashIn('capture', () => rig.node.pauseSandbox(TEAM, id, { memory: true }));
  assert.equal((await rig.node.getSandbox(TEAM, id)).state, 'paused', 'the pause was asked for, and is finished');
  assert.equal(rig.host.machines.size, 0);
  await crashIn('clone', () => rig.node.connectSandbox(TEAM, id, soon));
  assert.equal((await rig.node.getSandbox(TEAM, id)).state, 'paused');
  await rig.node.connectSandbox(TEAM, id, soon);
  assert.deepEqual(contentOf(rig, id), both('kept'));
  assert.deepEqual((await rig.node.leaks()).details, []);
});

test('paused sandboxes outlive the service, and those whose owner wants them paused are paused at its end', async (t) => {
  const rig = await startNodeRig(quiet);
  t.after(() => quietEnd(rig));
  const paused = await written(rig, 'paused');
  await rig.node.pauseSandbox(TEAM, paused, { memory: true });
  const wished = await written(rig, 'wished', { onTimeout: 'pause' });
  const frozen = await written(rig, 'frozen', { template: 'base-jail' });
  await rig.node.pauseSandbox(TEAM, frozen, { memory: true });
  const other = await written(rig, 'other');
  await rig.restart();
  assert.equal(rig.host.machines.size, 0);
  for (const id of [paused, wished, frozen]) assert.equal((await rig.node.getSandbox(TEAM, id)).state, 'paused');
  await assert.rejects(rig.node.getSandbox(TEAM, other), code('sandbox_not_found'));
  for (const id of [paused, wished, frozen]) await rig.node.connectSandbox(TEAM, id, soon);
  assert.deepEqual(contentOf(rig, paused), both('paused'));
  assert.deepEqual(contentOf(rig, wished), both('wished'));
  assert.deepEqual(contentOf(rig, frozen).disk, ['frozen'], 'a jail keeps its disk');
});

test('after the host ended: paused ones are as they were, running ones are lost, or paused with their disk if so wished', async (t) => {
  const rig = await startNodeRig(quiet);
  t.after(() => quietEnd(rig));
  const paused = await written(rig, 'paused');
  await rig.node.pauseSandbox(TEAM, paused, { memory: true });
  const wished = await written(rig, 'wished', { onTimeout: 'pause' });
  const lost = await written(rig, 'lost');
  const frozen = await written(rig, 'frozen', { template: 'base-jail' });
  await rig.node.pauseSandbox(TEAM, frozen, { memory: true });
  rig.node.abandon();
  rig.host.loseAll();
  await rig.crash();
  await assert.rejects(rig.node.getSandbox(TEAM, lost), code('sandbox_not_found'));
  for (const id of [paused, wished, frozen]) {
    assert.equal((await rig.node.getSandbox(TEAM, id)).state, 'paused');
    await rig.node.connectSandbox(TEAM, id, soon);
  }
  assert.deepEqual(contentOf(rig, paused), both('paused'));
  assert.deepEqual(contentOf(rig, wished), { disk: ['wished'], memory: [] });
  assert.deepEqual(contentOf(rig, frozen).disk, ['frozen'], 'its owner has paused it: what it had on disk is kept');
  assert.deepEqual((await rig.node.leaks()).details, []);
});

test('a snapshot has memory and disk; so has every sandbox of it, and each goes its own way', async (t) => {
  const rig = await startNodeRig({ ...quiet, pool: { least: 0, most: 2 } });
  t.after(() => quietEnd(rig));
  const source = await written(rig, 'both');
  const { snapshot, receipt } = await rig.node.createSnapshot(TEAM, source, { name: 'work' });
  assert.equal(snapshot.memory, true);
  assert.equal(snapshot.parentID, rig.rows.get(source)!.buildID, 'its template');
  assert.equal(receipt.pauseMs, 1);
  write(rig, source, 'later');
  const first = await create(rig, { template: 'work', network: { allowInternetAccess: false } });
  assert.deepEqual(contentOf(rig, first.sandboxID), both('both'));
  assert.equal(rig.host.machines.get(first.sandboxID)!.identities[0]!.hostname, first.sandboxID);
  assert.notEqual(first.generation, (await rig.node.getSandbox(TEAM, source)).generation);
  write(rig, first.sandboxID, 'own');
  const waits = () => rig.rows.all().find(({ state, buildID }) => state === 'hot' && buildID === snapshot.buildID);
  await until('one more is made for whoever comes next', () => waits() !== undefined);
  const waiting = rig.host.attachments.get(waits()!.id);
  assert.equal(waiting?.policy.allowInternet, false, 'what runs in it is its owner’s, who has not asked yet');
  const { sandbox: second, receipt: path } = await rig.node.createSandbox(createRequest({ template: 'work' }));
  assert.equal(path.path, 'hot');
  assert.deepEqual(contentOf(rig, second.sandboxID), both('both'));
  assert.equal(rig.host.attachments.get(second.sandboxID)!.policy.allowInternet, true);
  await rig.node.deleteSnapshot(TEAM, 'work');
  await until('nothing waits for it any more', () => waits() === undefined);
  assert.deepEqual(contentOf(rig, source), both('both', 'later'));
  assert.deepEqual((await rig.node.leaks()).details, []);
});

test('a snapshot of a paused sandbox needs no machine', async (t) => {
  const rig = await startNodeRig(quiet);
  t.after(() => quietEnd(rig));
  const source = await written(rig, 'kept');
  await rig.node.pauseSandbox(TEAM, source, { memory: true });
  const { snapshot } = await rig.node.createSnapshot(TEAM, source, {});
  assert.equal(rig.host.machines.size, 0);
  assert.equal(snapshot.memory, true);
  await rig.node.killSandbox(TEAM, source);
  const { sandboxID } = await create(rig, { template: snapshot.snapshotID });
  assert.deepEqual(contentOf(rig, sandboxID), both('kept'));
});

test('forks have what their source had, its wishes and its template, and an outcome each', async (t) => {
  const rig = await startNodeRig({ ...quiet, memoryBudgetMB: 5 * (512 + 64) });
  t.after(() => quietEnd(rig));
  const made = await create(rig, {
    metadata: { a: 'b' },
    envVars: { MINE: 'yes' },
    network: { allowInternetAccess: false },
  });
  const source = made.sandboxID;
  write(rig, source, 'both');
  const { forks, receipt } = await rig.node.forkSandbox(TEAM, source, { count: 6, timeoutSeconds: 30 });
  assert.equal(receipt.pauseMs, 1);
  const born = forks.flatMap((fork) => ('sandbox' in fork ? [fork.sandbox] : []));
  const refused = forks.flatMap((fork) => ('error' in fork ? [fork.error.code] : []));
  assert.equal(born.length, 4, 'as many as there was room for');
  assert.deepEqual(refused, ['capacity', 'capacity']);
  assert.equal(new Set([...born, made].map(({ generation }) => generation)).size, 5);
  for (const fork of born) {
    assert.deepEqual(contentOf(rig, fork.sandboxID), both('both'));
    assert.equal(fork.templateID, made.templateID);
    assert.equal(fork.alias, made.alias);
    assert.deepEqual(fork.metadata, made.metadata);
    assert.equal(fork.endAtMs, fork.startedAtMs + 30_000);
    assert.equal(rig.node.member(fork.sandboxID)!.env.MINE, 'yes');
    assert.equal(rig.node.member(fork.sandboxID)!.env.E2B_SANDBOX_ID, fork.sandboxID);
    assert.equal(rig.host.attachments.get(fork.sandboxID)!.policy.allowInternet, false);
  }
  assert.deepEqual(await readdir(rig.snapshotsFolder), [], 'nothing of the capture is left');
  assert.deepEqual((await rig.node.listSnapshots({ teamID: TEAM, limit: 100 })).snapshots, []);
  assert.equal((await rig.node.getSandbox(TEAM, source)).state, 'running');
});

test('what cannot be forked is refused by name', async (t) => {
  const rig = await startNodeRig(quiet);
  t.after(() => quietEnd(rig));
  const wish = { count: 1, timeoutSeconds: 30 };
  const jail = await written(rig, 'a', { template: 'base-jail' });
  await assert.rejects(rig.node.forkSandbox(TEAM, jail, wish), code('not_implemented'));
  const id = await written(rig, 'b');
  await assert.rejects(rig.node.forkSandbox(OTHER_TEAM, id, wish), code('sandbox_not_found'));
  await rig.node.pauseSandbox(TEAM, id, { memory: true });
  await assert.rejects(rig.node.forkSandbox(TEAM, id, wish), code('conflict'));
  assert.deepEqual(await readdir(rig.snapshotsFolder), []);
});

test('a crash in a fork leaves the source and nothing else', async (t) => {
  const rig = await startNodeRig(quiet);
  t.after(() => quietEnd(rig));
  const source = await written(rig, 'kept');
  for (const step of ['capture', 'clone'] as const) {
    const { reached } = rig.host.hold(step);
    rig.node.forkSandbox(TEAM, source, { count: 2, timeoutSeconds: 30 }).catch(() => {});
    await reached;
    await rig.crash();
    assert.deepEqual([...rig.host.machines.keys()], [source]);
    assert.deepEqual(await readdir(rig.snapshotsFolder), []);
    assert.deepEqual((await rig.node.leaks()).details, []);
  }
});

test('rolled back, it is what it was: running or paused before, with its id, its deadline and its metadata', async (t) => {
  const rig = await startNodeRig(quiet);
  t.after(() => quietEnd(rig));
  const made = await create(rig, { metadata: { a: 'b' }, timeoutSeconds: 600 });
  const id = made.sandboxID;
  write(rig, id, 'early');
  const { snapshot } = await rig.node.createSnapshot(TEAM, id, { name: 'good' });
  write(rig, id, 'late');
  const { sandbox, resumed } = await rig.node.rollbackSandbox(TEAM, id, 'good');
  assert.equal(resumed, true);
  assert.deepEqual(contentOf(rig, id), both('early'));
  assert.notEqual(sandbox.generation, made.generation);
  assert.deepEqual(sandbox.metadata, { a: 'b' });
  assert.ok(Math.abs(sandbox.endAtMs - made.endAtMs) < 2_000);
  write(rig, id, 'other');
  await rig.node.pauseSandbox(TEAM, id, { memory: true });
  await rig.node.rollbackSandbox(TEAM, id, snapshot.snapshotID);
  assert.deepEqual(contentOf(rig, id), both('early'));
  const second = (await rig.node.createSnapshot(TEAM, id, {})).snapshot;
  assert.equal(second.parentID, snapshot.buildID, 'the tree knows where it came from');
  const elsewhere = await written(rig, 'x');
  await assert.rejects(rig.node.rollbackSandbox(TEAM, elsewhere, 'good'), code('template_not_found'));
  await assert.rejects(rig.node.rollbackSandbox(OTHER_TEAM, id, 'good'), code('sandbox_not_found'));
  assert.deepEqual(await readdir(rig.pausedFolder), []);
});

test('a jail is rolled back with its disk', async (t) => {
  const rig = await startNodeRig(quiet);
  t.after(() => quietEnd(rig));
  const id = await written(rig, 'early', { template: 'base-jail' });
  await rig.node.createSnapshot(TEAM, id, { name: 'good' });
  write(rig, id, 'late');
  await rig.node.rollbackSandbox(TEAM, id, 'good');
  assert.deepEqual(contentOf(rig, id).disk, ['early']);
});

test('a crash in a rollback: it is paused as the snapshot, whose deletion changes nothing of that', async (t) => {
  const rig = await startNodeRig(quiet);
  t.after(() => quietEnd(rig));
  const id = await written(rig, 'early');
  await rig.node.createSnapshot(TEAM, id, { name: 'good' });
  write(rig, id, 'late');
  const { reached } = rig.host.hold('clone');
  rig.node.rollbackSandbox(TEAM, id, 'good').catch(() => {});
  await reached;
  await rig.crash();
  assert.equal((await rig.node.getSandbox(TEAM, id)).state, 'paused');
  await rig.node.deleteSnapshot(TEAM, 'good');
  await rig.node.connectSandbox(TEAM, id, soon);
  assert.deepEqual(contentOf(rig, id), both('early'));
});

test('traffic resumes a paused sandbox that wants it, once however much comes, and for long enough', async (t) => {
  const rig = await startNodeRig(quiet);
  t.after(() => quietEnd(rig));
  const id = await written(rig, 'kept', { onTimeout: 'pause', autoResume: true });
  const asleep = await written(rig, 'kept', { onTimeout: 'pause' });
  for (const one of [id, asleep]) await rig.node.pauseSandbox(TEAM, one, { memory: true });
  const clones = rig.host.clones;
  assert.equal(rig.node.wake(asleep, { port: 8080 }), undefined);
  assert.equal(rig.node.wake('inothing', { port: 8080 }), undefined);
  assert.equal(rig.node.wake(id, { port: ENVD_PORT }), undefined, 'a stranger’s knock at envd');
  assert.equal(rig.node.wake(id, { port: ENVD_PORT, accessToken: 'wrong' }), undefined);
  assert.equal(rig.host.clones, clones);
  const reached = await Promise.all(Array.from({ length: 20 }, () => rig.node.wake(id, { port: 8080 })));
  assert.ok(reached.every((member) => member !== undefined && member === rig.node.member(id)));
  assert.equal(rig.host.clones, clones + 1);
  const { startedAtMs, endAtMs } = await rig.node.getSandbox(TEAM, id);
  assert.equal(endAtMs - startedAtMs, 300_000, 'a short timeout at create is lengthened');
  await rig.node.pauseSandbox(TEAM, id, { memory: true });
  const token = accessToken(Buffer.alloc(32, 7), id);
  assert.equal(await rig.node.wake(id, { port: ENVD_PORT, accessToken: token }), rig.node.member(id));
  await rig.node.pauseSandbox(TEAM, id, { memory: false });
  assert.equal(rig.node.wake(id, { port: 8080 }), undefined, 'what would have to boot is not waited for');
});

test('at its deadline a sandbox is paused as its owner wished', async (t) => {
  const rig = await startNodeRig(quiet);
  t.after(() => quietEnd(rig));
  const [memory, disk] = [
    await written(rig, 'm', { onTimeout: 'pause' }),
    await written(rig, 'd', { onTimeout: 'pause', pauseMemory: false }),
  ];
  for (const id of [memory, disk]) await rig.node.setSandboxTimeout(TEAM, id, 0);
  await until('both are paused', () => [memory, disk].every((id) => rig.rows.get(id)?.state === 'paused'));
  for (const id of [memory, disk]) await rig.node.connectSandbox(TEAM, id, soon);
  assert.deepEqual(contentOf(rig, memory), both('m'));
  assert.deepEqual(contentOf(rig, disk), { disk: ['d'], memory: [] });
});
