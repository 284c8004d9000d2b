/**
 * The QEMU backend end to end on a small image: one golden checkpoint, then every promise of a machine. Needs root,
 * qemu-system-x86_64, e2fsprogs, util-linux. Without them it fails; nothing is skipped.
 */
import assert from 'node:assert/strict';
import { execFile, spawn } from 'node:child_process';
import { chmod, copyFile, mkdir, mkdtemp, readdir, readFile, rm, stat, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { after, afterEach, before } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import type { Checkpoint, Machine, MachineImage } from '../../src/isolation/backend.ts';
import type { QemuBackend } from '../../src/isolation/microvm/qemu/driver.ts';
import { readProcess } from '../../src/isolation/process-table.ts';
import { ask, newBackend, SHAPE } from '../helpers/qemu-rig.ts';
import { tinyImage } from '../helpers/tiny-image.ts';
import { until } from '../helpers/until.ts';

const run = promisify(execFile);
let home: string;
let machines: string;
let image: MachineImage;
let backend: QemuBackend;
let golden: Checkpoint;

async function spec(id: string) {
  const folder = join(machines, id);
  await mkdir(folder, { recursive: true });
  return { id, folder, shape: SHAPE, names: { hostname: id, machineID: '0'.repeat(32) }, uid: 61_000 };
}

async function clone(id: string): Promise<Machine> {
  return backend.clone(golden, image, await spec(id));
}

before(async () => {
  home = await mkdtemp(join(tmpdir(), 'cpq-'));
  await chmod(home, 0o755);
  machines = join(home, 'machines');
  image = await tinyImage(join(home, 'image'));
  backend = newBackend(home, image);
  golden = await backend.makeGolden(
    image,
    await spec('golden'),
    join(home, 'golden'),
    async (machine, signal) => {
      const channel = await machine.openChannel(signal);
      assert.equal(await ask(channel, 'echo warm'), 'warm');
      assert.equal(await ask(channel, 'write golden'), 'ok');
      channel.destroy();
    },
    {},
  );
});

afterEach(async () => {
  for (const { id } of await backend.census(machines)) await backend.sweep(id, machines);
});

after(async () => {
  await rm(home, { recursive: true, force: true });
});

test('the golden checkpoint is whole, immutable, and leaves nothing else behind', async () => {
  assert.deepEqual((await readdir(home)).sort(), ['golden', 'image', 'machines', 'probe.json']);
  assert.deepEqual(await backend.census(machines), []);
  const opened = await backend.openCheckpoint(join(home, 'golden'), { verify: true });
  assert.deepEqual(opened.manifest, golden.manifest);
  for (const name of Object.keys(golden.manifest.files))
    assert.equal((await stat(join(home, 'golden', name))).mode & 0o777, 0o444, name);
});

test('a second backend finds the result of the self-test in its file', async () => {
  const start = performance.now();
  const probe = await newBackend(home, image).probe();
  assert.equal(probe.usable, true);
  assert.equal(probe.accelerator, 'tcg');
  assert.ok(probe.referenceBootSeconds! > 0);
  assert.ok(performance.now() - start < 2_000, 'it did not boot again');
});

test('three clones at once answer, run unprivileged and limited, and their layers are private', async () => {
  const all = await Promise.all(['a1', 'a2', 'a3'].map(clone));
  const channels = await Promise.all(all.map((machine) => machine.openChannel()));
  assert.deepEqual(await Promise.all(channels.map((channel, index) => ask(channel, `echo me${index}`))), [
    'me0',
    'me1',
    'me2',
  ]);
  for (const machine of all) {
    const status = await readFile(`/proc/${machine.record.pid}/status`, 'utf8');
    assert.match(status, /^Uid:\t61000\t61000\t61000\t61000$/m);
    assert.match(status, /^Gid:\t61000\t61000\t61000\t61000$/m);
    assert.match(status, /^CapEff:\t0+$/m);
    assert.match(status, /^NoNewPrivs:\t1$/m);
    assert.match(status, /^Seccomp:\t2$/m);
    assert.match(status, /^THP_enabled:\t0$/m);
    assert.match(
      await readFile(`/proc/${machine.record.pid}/cgroup`, 'utf8'),
      /memory:?[^\n]*\/coppice\/|^0::.*\/coppice\//m,
    );
  }
  assert.equal(await ask(channels[0]!, 'write first'), 'ok');
  assert.equal(await ask(channels[1]!, 'write second'), 'ok');
  assert.deepEqual(await Promise.all(channels.map((channel) => ask(channel, 'read'))), [
    'golden,first,',
    'golden,second,',
    'golden,',
  ]);
  assert.equal(await ask(channels[2]!, 'drives'), 'coppice-root coppice-agent coppice-layer');
  const usage = await all[0]!.usage();
  assert.ok(usage.privateBytes > 2 ** 20 && usage.privateBytes < SHAPE.memoryMB * 2 ** 20);
  assert.ok(usage.cpuSeconds > 0);
  await Promise.all(all.map((machine) => machine.destroy()));
  assert.deepEqual(await backend.census(machines), []);
  await backend.openCheckpoint(join(home, 'golden'), { verify: true });
});

test('a parked machine uses no CPU, and answers when woken with the time that passed', async () => {
  const machine = await clone('park');
  const channel = await machine.openChannel();
  const before = Number(await ask(channel, 'clock'));
  const since = performance.now();
  machine.park();
  machine.park();
  await until('stopped', () => readProcess(machine.record.pid)?.state === 'T');
  const { cpuSeconds } = await machine.usage();
  await sleep(1_500);
  assert.equal((await machine.usage()).cpuSeconds, cpuSeconds);
  machine.unpark();
  const after = Number(await ask(channel, 'clock'));
  const passed = (performance.now() - since) / 1000;
  assert.ok(Math.abs(after - before - passed) < 0.5, `guest ${after - before} s, host ${passed} s`);
  await machine.destroy();
});

test('a machine killed from outside is seen, and its channel ends', async () => {
  const machine = await clone('killed');
  const channel = await machine.openChannel();
  const closed = new Promise((resolve) => channel.once('close', resolve));
  channel.resume();
  process.kill(machine.record.pid, 'SIGKILL');
  assert.match((await machine.exited).reason, /SIGKILL/);
  await closed;
  await assert.rejects(machine.openChannel(), { code: 'unavailable' });
  await machine.destroy();
  assert.deepEqual(await backend.census(machines), []);
});

test('a machine is adopted by its record after its node has died by SIGKILL, and destroyed while parked', async () => {
  const { folder } = await spec('orphan');
  const program = `
    import { createQemuBackend } from ${JSON.stringify(new URL('../../src/isolation/microvm/qemu/driver.ts', import.meta.url).href)};
    import { silentLog } from ${JSON.stringify(new URL('../../src/telemetry/log.ts', import.meta.url).href)};
    const image = ${JSON.stringify(image)};
    const backend = createQemuBackend({ log: silentLog, home: { probeFile: ${JSON.stringify(join(home, 'probe.json'))} }, rootless: false, kvm: 'off', kernel: async () => image.kernel });
    const golden = await backend.openCheckpoint(${JSON.stringify(golden.folder)});
    const machine = await backend.clone(golden, image, { id: 'orphan', folder: ${JSON.stringify(folder)}, shape: ${JSON.stringify(SHAPE)}, uid: 61001 });
    process.stdout.write(JSON.stringify(machine.record) + '\\n');
    setInterval(() => {}, 1000);
  `;
  const node = spawn(process.execPath, ['--input-type=module-typescript', '--eval', program], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  let text = '';
  for await (const chunk of node.stdout) {
    text += chunk;
    if (text.includes('\n')) break;
  }
  const record = JSON.parse(text);
  node.kill('SIGKILL');
  await until('the node is gone', () => node.signalCode !== null);

  const machine = (await backend.adopt(record))!;
  assert.deepEqual(machine.record, record);
  const channel = await machine.openChannel();
  assert.equal(await ask(channel, 'echo adopted'), 'adopted');
  machine.park();
  await machine.destroy();
  await machine.destroy();
  await machine.exited;
  assert.equal(await backend.adopt(record), undefined);
  assert.equal(await backend.adopt({ ...record, pid: process.pid }), undefined);
  assert.deepEqual(await backend.census(machines), []);
});

test('a machine with a network runs in its namespace and holds its tap', async (t) => {
  const name = `cpq${process.pid}`;
  const ip = (...args: string[]) => run('ip', args);
  await ip('netns', 'add', name);
  t.after(() => ip('netns', 'del', name));
  await ip('-n', name, 'tuntap', 'add', 'dev', 'cptap', 'mode', 'tap', 'user', '61000');
  await ip('-n', name, 'link', 'set', 'cptap', 'up');
  const carrier = async () => (await ip('-n', name, 'link', 'show', 'cptap')).stdout.includes('LOWER_UP');
  assert.equal(await carrier(), false);
  const network = { kind: 'tap', port: 'cptap', namespace: `/run/netns/${name}` } as const;
  const machine = await backend.clone(golden, image, { ...(await spec('net')), network });
  assert.equal((await stat(`/proc/${machine.record.pid}/ns/net`)).ino, (await stat(network.namespace)).ino);
  assert.equal(await carrier(), true);
  const channel = await machine.openChannel();
  assert.equal(await ask(channel, 'echo connected'), 'connected');
  await machine.destroy();
  assert.equal(await carrier(), false);
});

test('sweep removes a machine that nobody remembers', async () => {
  const machine = await clone('swept');
  const kinds = (await backend.census(machines)).map(({ kind, id }) => `${kind} ${id}`).sort();
  assert.deepEqual(kinds, ['cgroup swept', 'file swept', 'process swept']);
  await backend.sweep('swept', machines);
  await backend.sweep('swept', machines);
  assert.deepEqual(await backend.census(machines), []);
  await machine.exited;
});

test('a clone that cannot start says why and leaves nothing', async () => {
  const giveUp = new AbortController();
  giveUp.abort();
  await assert.rejects(backend.clone(golden, image, await spec('given'), giveUp.signal), { code: 'aborted' });
  await assert.rejects(backend.clone(golden, { ...image, rootfs: join(home, 'absent') }, await spec('absent')), {
    code: 'start_failed',
    message: /absent/,
  });
  await assert.rejects(backend.clone(golden, { ...image, hash: 'other' }, await spec('other')), {
    code: 'checkpoint_corrupt',
  });
  await backend.sweep('other', machines);
  assert.deepEqual(await backend.census(machines), []);
});

test('a boot that fails tells the end of the console', async () => {
  const broken = join(home, 'broken-initrd');
  await writeFile(broken, 'not an archive');
  await assert.rejects(
    backend.makeGolden(
      { ...image, initrd: broken },
      await spec('panic'),
      join(home, 'never'),
      (_machine, signal) => new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason))),
      {},
    ),
    { code: 'start_failed', message: /Unable to mount root fs/ },
  );
  await rm(broken);
  assert.deepEqual(await backend.census(machines), []);
  assert.deepEqual((await readdir(home)).sort(), ['golden', 'image', 'machines', 'probe.json']);
});

for (const [what, spoil, code] of [
  ['no manifest', (folder: string) => rm(join(folder, 'manifest.json')), 'checkpoint_corrupt'],
  ['a manifest that is not JSON', (folder: string) => edit(folder, (text) => text.slice(0, 50)), 'checkpoint_corrupt'],
  [
    'a field missing',
    (folder: string) => edit(folder, (text) => text.replace('"imageHash"', '"x"')),
    'checkpoint_corrupt',
  ],
  ['a truncated state', (folder: string) => shorten(join(folder, 'state')), 'checkpoint_corrupt'],
  ['a file missing', (folder: string) => rm(join(folder, 'layer')), 'checkpoint_corrupt'],
  ['a changed byte', (folder: string) => change(join(folder, 'state')), 'checkpoint_corrupt'],
  [
    'another VMM',
    (folder: string) => edit(folder, (text) => text.replace(/"version": "[^"]*"/, '"version": "1.2.3"')),
    'host_unfit',
  ],
  ['another accelerator', (folder: string) => edit(folder, (text) => text.replace('"tcg"', '"kvm"')), 'host_unfit'],
] as const)
  test(`a checkpoint with ${what} is refused`, async () => {
    const folder = join(home, 'spoilt');
    await mkdir(folder);
    for (const name of await readdir(golden.folder)) {
      await copyFile(join(golden.folder, name), join(folder, name));
      await chmod(join(folder, name), 0o600);
    }
    await spoil(folder);
    await assert.rejects(backend.openCheckpoint(folder, { verify: true }), { code });
    await rm(folder, { recursive: true });
  });

async function edit(folder: string, change: (text: string) => string): Promise<void> {
  const path = join(folder, 'manifest.json');
  const text = await readFile(path, 'utf8');
  assert.notEqual(change(text), text);
  await writeFile(path, change(text));
}

async function shorten(path: string): Promise<void> {
  await truncate(path, (await stat(path)).size - 1);
}

async function change(path: string): Promise<void> {
  const bytes = await readFile(path);
  bytes[bytes.length >> 1]! ^= 1;
  await writeFile(path, bytes);
}
