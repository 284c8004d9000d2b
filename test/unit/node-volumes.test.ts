/** Volumes of teams on a node: durable, theirs alone, held by whoever has one mounted, and gone without a trace. */
import assert from 'node:assert/strict';
import { existsSync, readdirSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'node:test';
import { type ErrorCode, isCoppiceError } from '../../src/contract/errors.ts';
import { BOTH_KINDS, createRequest, type NodeRig, OTHER_TEAM, startNodeRig, TEAM } from '../helpers/node-rig.ts';

const refused = (code: ErrorCode, message: RegExp) => (error: unknown) =>
  isCoppiceError(error, code) && message.test(error.message);

/** Without a pool, whose machines would be the ones that a test holds or lets fail, unless `pool` says otherwise. */
async function rig(t: { after(end: () => unknown): void }, pool = { least: 0, most: 0 }): Promise<NodeRig> {
  const made = await startNodeRig({ templates: BOTH_KINDS, pool });
  t.after(() => made.end());
  return made;
}

const create = (host: NodeRig, mounts: readonly { name: string; path: string }[], teamID = TEAM, more = {}) =>
  host.node.createSandbox(createRequest({ template: 'base-jail', teamID, volumeMounts: mounts, ...more }));

const mountsOf = (host: NodeRig, id: string) => host.host.machines.get(id)?.spec.volumes;

test('a volume is its team’s alone, by id and by name', async (t) => {
  const host = await rig(t);
  const { volumeID, token } = await host.node.createVolume(TEAM, 'data');
  assert.deepEqual(await host.node.listVolumes(TEAM), [{ volumeID, name: 'data' }]);
  assert.deepEqual(await host.node.getVolume(TEAM, volumeID), { volumeID, name: 'data', token });
  await assert.rejects(host.node.createVolume(TEAM, 'data'), refused('conflict', /already exists/));
  const others = await host.node.createVolume(OTHER_TEAM, 'data');
  assert.notEqual(others.token, token);
  for (const act of [
    () => host.node.getVolume(OTHER_TEAM, volumeID),
    () => host.node.deleteVolume(OTHER_TEAM, volumeID),
    () => host.node.getVolume(TEAM, 'nothing'),
  ])
    await assert.rejects(act(), refused('volume_not_found', /not found/));
  await assert.rejects(
    create(host, [
      { name: 'none', path: '/a' },
      { name: 'data', path: '/b' },
      { name: 'nor', path: '/c' },
    ]),
    refused('bad_request', /^Volumes not found: 'none', 'nor'$/),
  );
});

test('a token opens its own volume and no other', async (t) => {
  const host = await rig(t);
  const [one, two] = [await host.node.createVolume(TEAM, 'one'), await host.node.createVolume(TEAM, 'two')];
  for (const token of [two.token, '', `${one.token}x`, one.token.toUpperCase()])
    await assert.rejects(host.node.volumes.open(one.volumeID, token), refused('unauthorized', /token/));
  const { root, release } = await host.node.volumes.open(one.volumeID, one.token);
  assert.ok(root > 2);
  release();
  await host.node.deleteVolume(TEAM, one.volumeID);
  await assert.rejects(host.node.volumes.open(one.volumeID, one.token), refused('volume_not_found', /not found/));
});

test('machines are born with what was asked for, never taken from the pool, and again after a pause on disk', async (t) => {
  const host = await rig(t, { least: 2, most: 6 });
  await host.node.warm(2);
  const { volumeID } = await host.node.createVolume(TEAM, 'data');
  const { sandbox, receipt } = await create(host, [{ name: 'data', path: '/mnt/data' }]);
  assert.equal(receipt.path, 'cold');
  const expected = [{ image: join(host.volumesFolder, `${volumeID}.ext4`), path: '/mnt/data' }];
  assert.deepEqual(mountsOf(host, sandbox.sandboxID), expected);
  assert.deepEqual(sandbox.volumeMounts, [{ name: 'data', path: '/mnt/data' }]);
  await host.node.pauseSandbox(TEAM, sandbox.sandboxID, { memory: false });
  await host.restart();
  const told = await host.node.getSandbox(TEAM, sandbox.sandboxID);
  assert.deepEqual(told.volumeMounts, sandbox.volumeMounts);
  await host.node.connectSandbox(TEAM, sandbox.sandboxID, { timeoutSeconds: 60 });
  assert.deepEqual(mountsOf(host, sandbox.sandboxID), expected);
});

test('it is not deleted under a sandbox, running or paused, nor under one that is being made', async (t) => {
  const host = await rig(t);
  const { volumeID } = await host.node.createVolume(TEAM, 'data');
  const held = host.host.hold('clone');
  const making = create(host, [{ name: 'data', path: '/data' }]);
  await held.reached;
  await assert.rejects(host.node.deleteVolume(TEAM, volumeID), refused('conflict', /being made/));
  held.release();
  const { sandbox } = await making;
  const inUse = refused('conflict', new RegExp(`mounted in sandbox ${sandbox.sandboxID}`));
  await assert.rejects(host.node.deleteVolume(TEAM, volumeID), inUse);
  await host.node.pauseSandbox(TEAM, sandbox.sandboxID, { memory: false });
  await assert.rejects(host.node.deleteVolume(TEAM, volumeID), inUse);
  await host.crash();
  await assert.rejects(host.node.deleteVolume(TEAM, volumeID), inUse);
  await host.node.killSandbox(TEAM, sandbox.sandboxID);
  await host.node.deleteVolume(TEAM, volumeID);
  assert.deepEqual(readdirSync(host.volumesFolder), []);
  assert.deepEqual(await host.node.listVolumes(TEAM), []);
});

test('a microVM has them by network: of the pool, again after a boot, and those of its row alone', async (t) => {
  const host = await rig(t, { least: 2, most: 6 });
  await host.node.warm(2);
  const { volumeID } = await host.node.createVolume(TEAM, 'data');
  await host.node.createVolume(TEAM, 'other');
  const mounts = [{ name: 'data', path: '/mnt/data' }];
  const inVM = { template: 'base', volumeMounts: mounts };
  assert.equal(host.host.served, undefined, 'nobody has one yet');
  const { sandbox, receipt } = await host.node.createSandbox(createRequest(inVM));
  const { sandboxID } = sandbox;
  assert.equal(receipt.path, 'hot');
  const expected = { server: '169.254.1.1', port: 2049, mounts: [{ volumeID, path: '/mnt/data' }] };
  assert.deepEqual(host.host.machines.get(sandboxID)!.mounts, [expected]);
  assert.deepEqual(mountsOf(host, sandboxID), undefined);
  const attachment = () => host.host.attachments.get(sandboxID)!;
  assert.equal(attachment().served, true);
  const { sandbox: plain } = await host.node.createSandbox(createRequest({ template: 'base' }));

  const asked = async (address: string) => {
    const held = await host.host.served!.exportsOf(address);
    held?.release();
    return held?.exports.map((one) => one.volumeID);
  };
  assert.equal(host.host.served!.namespace, '/run/netns/fake');
  assert.deepEqual(await asked(attachment().address), [volumeID]);
  assert.deepEqual(await asked(host.host.attachments.get(plain.sandboxID)!.address), []);
  assert.equal(await asked('10.9.9.9'), undefined);

  await host.crash();
  assert.deepEqual(await asked(attachment().address), [volumeID], 'whoever has one is served by the next process');
  await host.node.pauseSandbox(TEAM, sandboxID, { memory: true });
  await host.node.connectSandbox(TEAM, sandboxID, { timeoutSeconds: 60 });
  assert.equal(attachment().served, true);
  assert.deepEqual(host.host.machines.get(sandboxID)!.mounts, [], 'its memory has it mounted');
  await host.node.pauseSandbox(TEAM, sandboxID, { memory: false });
  await host.node.connectSandbox(TEAM, sandboxID, { timeoutSeconds: 60 });
  assert.deepEqual(host.host.machines.get(sandboxID)!.mounts, [expected]);
  const { forks } = await host.node.forkSandbox(TEAM, sandboxID, { count: 1, timeoutSeconds: 60 });
  const [fork] = forks;
  assert.ok(fork && 'sandbox' in fork);
  assert.deepEqual(host.host.machines.get(fork.sandbox.sandboxID)!.mounts, [expected]);
  assert.deepEqual(fork.sandbox.volumeMounts, mounts);
});

test('where guests have no network a microVM’s are refused by name, and a jail’s are not', async (t) => {
  const host = await rig(t);
  await host.node.createVolume(TEAM, 'data');
  (host.host.fabric as { enforcing: boolean }).enforcing = false;
  const wish = createRequest({ template: 'base', volumeMounts: [{ name: 'data', path: '/data' }] });
  await assert.rejects(host.node.createSandbox(wish), refused('unsupported_policy', /^volumeMounts: .*no network/));
  const { sandbox } = await host.node.createSandbox({ ...wish, isolation: 'jail' });
  assert.equal(sandbox.isolation, 'jail');
});

test('a create that fails lets go of its volumes', async (t) => {
  const host = await rig(t);
  const { volumeID } = await host.node.createVolume(TEAM, 'data');
  host.host.failNext.add('clone');
  await assert.rejects(create(host, [{ name: 'data', path: '/data' }]));
  await host.node.deleteVolume(TEAM, volumeID);
});

test('what was not made whole, or was to go, goes at the next start; and what no row names', async (t) => {
  const host = await rig(t);
  const { volumeID } = await host.node.createVolume(TEAM, 'whole');
  for (const [id, state] of [
    ['made-half', 'making'],
    ['half-gone', 'deleting'],
  ] as const) {
    host.rows.volumes.plan(id, TEAM, id);
    host.rows.volumes.move(id, 'making', state);
    await writeFile(join(host.volumesFolder, `${id}.ext4`), '');
  }
  await writeFile(join(host.volumesFolder, 'stray.ext4'), '');
  assert.deepEqual((await host.node.leaks()).details, ['file stray.ext4: of no row']);
  await host.crash();
  assert.deepEqual(readdirSync(host.volumesFolder), [`${volumeID}.ext4`]);
  assert.deepEqual((await host.node.leaks()).details, []);
  assert.ok(existsSync(join(host.volumesFolder, `${volumeID}.ext4`)));
});

test('an image that cannot be made leaves no row, and its name free', async (t) => {
  const host = await rig(t);
  host.failImage(new Error('no space'));
  await assert.rejects(host.node.createVolume(TEAM, 'data'), /no space/);
  assert.deepEqual(await host.node.listVolumes(TEAM), []);
  await host.node.createVolume(TEAM, 'data');
});
