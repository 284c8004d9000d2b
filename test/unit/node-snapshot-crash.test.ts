/** What a crash at each step of a snapshot's life converges to, and what its rows keep from a sweep. */
import assert from 'node:assert/strict';
import { mkdir, readdir, rm, symlink, writeFile } from 'node:fs/promises';
import { dirname, join, relative } from 'node:path';
import test from 'node:test';
import { isCoppiceError } from '../../src/contract/errors.ts';
import { Backends } from '../../src/isolation/backends.ts';
import { inUse } from '../../src/node/snapshot-template.ts';
import { TemplateBuilds } from '../../src/node/template-builds.ts';
import { silentLog } from '../../src/telemetry/log.ts';
import { BOTH_KINDS, createRequest, type NodeRig, startNodeRig, TEAM } from '../helpers/node-rig.ts';

const quiet = { templates: BOTH_KINDS, pool: { least: 0, most: 0 } } as const;

async function create(rig: NodeRig, template = 'base-jail'): Promise<string> {
  return (await rig.node.createSandbox(createRequest({ template }))).sandbox.sandboxID;
}

async function nothingIsLeft(rig: NodeRig): Promise<void> {
  assert.deepEqual(await readdir(rig.snapshotsFolder), []);
  assert.deepEqual(rig.rows.snapshots.all(), []);
  assert.deepEqual((await rig.node.leaks()).details, []);
}

test('a crash while it is captured: nothing of it is left, its source goes on', async (t) => {
  const rig = await startNodeRig(quiet);
  t.after(() => rig.end());
  const source = await create(rig);
  const { reached } = rig.host.hold('capture');
  void rig.node.createSnapshot(TEAM, source, { name: 'work' }).catch(() => {});
  await reached;
  assert.equal((await readdir(rig.snapshotsFolder)).length, 1);
  await rig.crash();
  await nothingIsLeft(rig);
  assert.equal((await rig.node.getSandbox(TEAM, source)).state, 'running');
  await rig.node.createSnapshot(TEAM, source, { name: 'work' });
});

test('a crash after its files were published and before its row says so: the same', async (t) => {
  const rig = await startNodeRig(quiet);
  t.after(() => rig.end());
  const source = await create(rig);
  const {
    snapshot: { buildID },
  } = await rig.node.createSnapshot(TEAM, source, {});
  const { state: _, ...row } = rig.rows.snapshots.get(buildID)!;
  rig.rows.snapshots.settleDelete(buildID);
  rig.rows.snapshots.begin(row);
  await rig.crash();
  await nothingIsLeft(rig);
});

test('a crash while it is deleted: the deletion is finished', async (t) => {
  const rig = await startNodeRig(quiet);
  t.after(() => rig.end());
  const source = await create(rig);
  for (const filesGone of [false, true]) {
    const {
      snapshot: { buildID },
    } = await rig.node.createSnapshot(TEAM, source, {});
    rig.rows.snapshots.intendDelete(buildID);
    if (filesGone) await rm(join(rig.snapshotsFolder, buildID), { recursive: true });
    await rig.crash();
    await nothingIsLeft(rig);
  }
});

test('a snapshot that is ready outlives a crash and an end of the node', async (t) => {
  const rig = await startNodeRig(quiet);
  t.after(() => rig.end());
  const source = await create(rig);
  rig.host.machines.get(source)!.disk.push('kept');
  const {
    snapshot: { snapshotID },
  } = await rig.node.createSnapshot(TEAM, source, { name: 'work' });
  await rig.node.stop();
  assert.equal(rig.host.machines.size, 0);
  await rig.crash();
  assert.deepEqual(rig.host.machines.get(await create(rig, snapshotID))!.disk, ['kept']);
});

test('files that no row accounts for are a leak, and are swept at the start', async (t) => {
  const rig = await startNodeRig(quiet);
  t.after(() => rig.end());
  await rig.node.createSnapshot(TEAM, await create(rig), {});
  const stray = 'ffffffff-0000-4000-8000-000000000000';
  await mkdir(join(rig.snapshotsFolder, stray));
  await writeFile(join(rig.snapshotsFolder, `.${stray}.new`), 'x');
  const leaks = await rig.node.leaks();
  assert.equal(leaks.files, 2);
  assert.equal(leaks.details.length, 2);
  await rig.crash();
  assert.deepEqual((await rig.node.leaks()).details, []);
  assert.equal((await readdir(rig.snapshotsFolder)).length, 1);
});

test('a snapshot whose files are gone is refused with the reason, and can be deleted', async (t) => {
  const rig = await startNodeRig(quiet);
  t.after(() => rig.end());
  const {
    snapshot: { buildID, snapshotID },
  } = await rig.node.createSnapshot(TEAM, await create(rig), {});
  await rm(join(rig.snapshotsFolder, buildID), { recursive: true });
  await assert.rejects(create(rig, snapshotID), (error) => isCoppiceError(error, 'checkpoint_corrupt'));
  await rig.node.deleteSnapshot(TEAM, snapshotID);
  await nothingIsLeft(rig);
});

test('its image is kept for as long as it is there, by a path that moves with the home', async (t) => {
  const image = { hash: 'h', kernel: '/k/f', initrd: '/i/f', rootfs: '/r/f', agentDrive: '/a/f' };
  const templates = [BOTH_KINDS[0]!, { ...BOTH_KINDS[1]!, image }];
  templates[1] = {
    ...templates[1]!,
    checkpoint: {
      ...templates[1]!.checkpoint,
      manifest: { ...templates[1]!.checkpoint.manifest, imageHash: 'h' },
    },
  };
  const rig = await startNodeRig({ ...quiet, templates });
  t.after(() => rig.end());
  const database = join(dirname(rig.snapshotsFolder), 'node.db');
  const files = () => inUse(database, rig.snapshotsFolder).images.toSorted();
  assert.deepEqual(files(), []);
  const {
    snapshot: { snapshotID },
  } = await rig.node.createSnapshot(TEAM, await create(rig), {});
  assert.deepEqual(files(), ['/a/f', '/i/f', '/k/f', '/r/f']);
  assert.equal(rig.rows.snapshots.all()[0]!.image.rootfs, relative(rig.snapshotsFolder, '/r/f'));
  await rig.node.deleteSnapshot(TEAM, snapshotID);
  assert.deepEqual(files(), []);
  assert.deepEqual(inUse(join(rig.snapshotsFolder, 'nothing.db'), '/').images, []);
});

const KEPT = 'rootfs-0123456789abcdef-0123456789abcdef';
const UNUSED = 'rootfs-0123456789abcdef-fedcba9876543210';

/** Sweeps `imagesFolder`, with a snapshot on one image there; the images that are left. */
async function sweepImages(home: string, imagesFolder: string): Promise<string[]> {
  const builds = new TemplateBuilds({
    backends: new Backends([]),
    imagesFolder,
    templatesFolder: join(home, 'templates'),
    machinesFolder: join(home, 'machines'),
    inUse: () => ({ builds: new Set(), images: [join(imagesFolder, KEPT, 'rootfs.ext4')] }),
    uid: undefined,
    log: silentLog,
  });
  await builds.sweep();
  return (await readdir(imagesFolder)).filter((name) => name.startsWith('rootfs')).toSorted();
}

test('a sweep of images keeps what a snapshot lies on, and only that', async (t) => {
  const rig = await startNodeRig(quiet);
  t.after(() => rig.end());
  const home = dirname(rig.snapshotsFolder);
  const images = join(home, 'images');
  for (const name of [KEPT, UNUSED]) await mkdir(join(images, name), { recursive: true });
  assert.deepEqual(await sweepImages(home, images), [KEPT]);
});

test('images that another home lent by a link are not swept', async (t) => {
  const rig = await startNodeRig(quiet);
  t.after(() => rig.end());
  const home = dirname(rig.snapshotsFolder);
  const owners = join(home, 'owners');
  for (const name of [KEPT, UNUSED]) await mkdir(join(owners, name), { recursive: true });
  const lent = join(home, 'lent');
  await symlink(owners, lent);
  assert.deepEqual(await sweepImages(home, lent), [KEPT, UNUSED]);
});
