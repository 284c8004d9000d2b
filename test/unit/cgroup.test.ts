import assert from 'node:assert/strict';
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import { homeTag, openCgroups } from '../../src/isolation/cgroup.ts';

const LIMITS = { memoryBytes: 2 ** 28, cpus: 1.5, tasks: 90 };

/** Plain folders in place of the kernel's: what is written where can be read back. */
async function fakeMounts(
  t: TestContext,
  lines: (folder: string) => string,
): Promise<{ folder: string; mounts: string }> {
  const folder = await mkdtemp(join(tmpdir(), 'coppice-cgroup-'));
  t.after(() => rm(folder, { recursive: true, force: true }));
  for (const name of ['memory', 'cpu', 'pids', 'unified']) await mkdir(join(folder, name));
  const mounts = join(folder, 'mounts');
  await writeFile(mounts, lines(folder));
  return { folder, mounts };
}

test('v1: each controller gets its limits in its own hierarchy', async (t) => {
  const { folder, mounts } = await fakeMounts(t, (f) =>
    ['memory', 'cpu', 'pids'].map((name) => `cgroup ${f}/${name} cgroup rw,relatime,${name} 0 0`).join('\n'),
  );
  const cgroups = await openCgroups('/home/machines', { mountsFile: mounts });
  assert.deepEqual([...cgroups.controllers].sort(), ['cpu', 'memory', 'pids']);
  assert.deepEqual(cgroups.notices, []);
  await cgroups.create('m1', LIMITS);
  await cgroups.add('m1', 4242);
  const read = (name: string, file: string) =>
    readFile(join(folder, name, 'coppice', homeTag('/home/machines'), 'm1', file), 'utf8');
  assert.equal(await read('memory', 'memory.limit_in_bytes'), String(2 ** 28));
  assert.equal(await read('cpu', 'cpu.cfs_quota_us'), '150000');
  assert.equal(await read('pids', 'pids.max'), '90');
  for (const name of ['memory', 'cpu', 'pids']) assert.equal(await read(name, 'cgroup.procs'), '4242');
  assert.deepEqual(await cgroups.list(), ['m1']);
});

test('v2 is taken where its controllers are, and they are handed down', async (t) => {
  const { folder, mounts } = await fakeMounts(t, (f) => `cgroup2 ${f}/unified cgroup2 rw 0 0\n`);
  await writeFile(join(folder, 'unified/cgroup.controllers'), 'cpuset cpu io memory pids\n');
  const cgroups = await openCgroups('/h', { mountsFile: mounts });
  await cgroups.create('m1', LIMITS);
  const home = join(folder, 'unified/coppice', homeTag('/h'));
  assert.equal(await readFile(join(home, 'm1/memory.max'), 'utf8'), String(2 ** 28));
  assert.equal(await readFile(join(home, 'm1/cpu.max'), 'utf8'), '150000 100000');
  assert.equal(await readFile(join(home, 'cgroup.subtree_control'), 'utf8'), '+memory +cpu +pids');
});

test('an empty v2 beside v1 leaves the controllers to v1', async (t) => {
  const { folder, mounts } = await fakeMounts(
    t,
    (f) => `cgroup ${f}/memory cgroup rw,memory 0 0\ncgroup2 ${f}/unified cgroup2 rw 0 0\n`,
  );
  await writeFile(join(folder, 'unified/cgroup.controllers'), '\n');
  const cgroups = await openCgroups('/h', { mountsFile: mounts });
  assert.deepEqual(cgroups.controllers, ['memory']);
  assert.equal(cgroups.notices.length, 2);
  assert.match(cgroups.notices.join(), /no cpu limit.*no pids limit/);
});

test('a hierarchy that cannot be written is named, and the rest is used', async (t) => {
  const { mounts } = await fakeMounts(
    t,
    (f) => `cgroup ${f}/memory cgroup rw,memory 0 0\ncgroup ${f}/absent cgroup rw,pids 0 0\n`,
  );
  const cgroups = await openCgroups('/h', { mountsFile: mounts });
  assert.deepEqual(cgroups.controllers, ['memory']);
  assert.match(cgroups.notices.join(), /no pids limit for machines: .*absent cannot be used \(ENOENT\)/);
});

test('two homes do not see each other, and an id that is a path is refused', async (t) => {
  const { folder, mounts } = await fakeMounts(t, (f) => `cgroup ${f}/memory cgroup rw,memory 0 0\n`);
  const [one, two] = [
    await openCgroups('/one', { mountsFile: mounts }),
    await openCgroups('/two', { mountsFile: mounts }),
  ];
  await one.create('m1', LIMITS);
  await two.create('m2', LIMITS);
  assert.deepEqual(await two.list(), ['m2']);
  for (const id of ['../m1', '', 'A', 'x'.repeat(33)])
    await assert.rejects(one.create(id, LIMITS), { code: 'bad_request' });
  assert.deepEqual(await readdir(join(folder, 'memory/coppice')), [homeTag('/one'), homeTag('/two')].sort());
});

test('removing a group that is not there is no failure', async (t) => {
  const { mounts } = await fakeMounts(t, (f) => `cgroup ${f}/memory cgroup rw,memory 0 0\n`);
  await (await openCgroups('/h', { mountsFile: mounts })).remove('m1');
});
