/**
 * Checkpoints of running microVMs, on a small image: what is in them, what becomes of the machine, and what is refused.
 * Needs root, qemu-system-x86_64, e2fsprogs, util-linux. Without them it fails; nothing is skipped.
 */
import assert from 'node:assert/strict';
import { execFile, spawn } from 'node:child_process';
import { chmod, cp, mkdir, open, readdir, readFile, rm, stat, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test, { after, afterEach, before } from 'node:test';
import { promisify } from 'node:util';
import { type Checkpoint, contentOf, type Machine } from '../../src/isolation/backend.ts';
import { connectQmp } from '../../src/isolation/microvm/qemu/qmp.ts';
import { readProcess } from '../../src/isolation/process-table.ts';
import { guestOf, newBackend, type QemuRig, qemuRig, SHAPE } from '../helpers/qemu-rig.ts';
import { until } from '../helpers/until.ts';

const run = promisify(execFile);
let rig: QemuRig;

before(async () => {
  rig = await qemuRig();
});

afterEach(async () => {
  await rig.sweep();
  assert.deepEqual(await rig.leftovers(), []);
});

after(() => rig.close());

async function statusOf(machine: Machine): Promise<unknown> {
  const qmp = await connectQmp(join(machine.record.folder, 'qmp.sock'));
  try {
    return ((await qmp.execute('query-status')) as { status: unknown }).status;
  } finally {
    qmp.close();
  }
}

const stateOf = (machine: Machine) => readProcess(machine.record.pid)?.state;

test('a machine is captured while it goes on; a clone has its memory and its disk', async () => {
  const source = await rig.clone();
  assert.equal(await source.ask('keep first'), 'ok');
  assert.equal(await source.ask('write mine'), 'ok');
  assert.equal(await source.ask('fill 8'), 'ok');
  assert.equal(await source.ask('store 2'), 'ok');
  const { checkpoint, pauseMs, ownBytes } = await rig.capture(source.machine);
  assert.ok(pauseMs > 0 && pauseMs < 10_000, `${pauseMs} ms`);
  assert.ok(ownBytes > 10 * 2 ** 20 && ownBytes < 40 * 2 ** 20, `${ownBytes} bytes`);
  assert.equal(checkpoint.manifest.memory, 'own');
  assert.equal(checkpoint.manifest.base, contentOf(rig.golden.manifest));
  assert.deepEqual((await readdir(checkpoint.folder)).sort(), ['manifest.json', 'overlay.qcow2', 'pages', 'state']);

  assert.equal(await source.ask('kept'), 'first');
  assert.equal(await source.ask('keep later'), 'ok');
  assert.equal(await source.ask('write later'), 'ok');
  const opened = await rig.backend.openCheckpoint(checkpoint.folder, { verify: true, base: rig.golden });
  assert.deepEqual(opened.manifest, checkpoint.manifest);
  const clone = await rig.clone(opened);
  assert.equal(await clone.ask('kept'), 'first');
  assert.equal(await clone.ask('read'), 'golden,mine,');
  assert.equal(await clone.ask('sum'), await source.ask('sum'));
  assert.equal(await clone.ask('stored'), await source.ask('stored'));
  assert.equal(await source.ask('kept'), 'later');
});

test('five clones of one checkpoint at once are five machines', async () => {
  const source = await rig.clone();
  await source.ask('keep common');
  await source.ask('write common');
  const { checkpoint } = await rig.capture(source.machine);
  const clones = await Promise.all([1, 2, 3, 4, 5].map(() => rig.clone(checkpoint)));
  await Promise.all(clones.map(({ ask }, index) => ask(`write w${index}`)));
  assert.deepEqual(
    await Promise.all(clones.map(({ ask }) => ask('read'))),
    clones.map((_, index) => `golden,common,w${index},`),
  );
  await Promise.all(clones.map(({ ask }, index) => ask(`keep k${index}`)));
  assert.deepEqual(
    await Promise.all(clones.map(({ ask }) => ask('kept'))),
    clones.map((_, index) => `k${index}`),
  );
  assert.equal(await source.ask('read'), 'golden,common,');
});

test('a clone of a checkpoint is captured as its source was, and lies on the same base', async () => {
  const first = await rig.clone();
  await first.ask('keep one');
  await first.ask('store 1');
  const one = await rig.capture(first.machine);
  const sum = await first.ask('stored');
  await first.machine.destroy();
  const second = await rig.clone(one.checkpoint);
  await second.ask('write two');
  const two = await rig.capture(second.machine);
  assert.equal(two.checkpoint.manifest.base, contentOf(rig.golden.manifest));
  await rm(one.checkpoint.folder, { recursive: true });
  const third = await rig.clone(two.checkpoint);
  assert.equal(await third.ask('kept'), 'one');
  assert.equal(await third.ask('read'), 'golden,two,');
  assert.equal(await third.ask('stored'), sum);
});

test('captures of a machine that writes have each line that was acknowledged before', async () => {
  const source = await rig.clone();
  let acknowledged = 0;
  let over = false;
  const writing = (async () => {
    while (!over && (await source.ask(`write ${acknowledged}`)) === 'ok') acknowledged++;
  })();
  const captures: { readonly least: number; readonly checkpoint: Checkpoint }[] = [];
  for (let count = 0; count < 3; count++) {
    const least = acknowledged + 1;
    await until('another line', () => acknowledged > least, 60_000);
    captures.push({ least, checkpoint: (await rig.capture(source.machine)).checkpoint });
  }
  over = true;
  await writing;
  for (const { least, checkpoint } of captures) {
    const clone = await rig.clone(checkpoint);
    // The write that was under way goes on in the clone, and its answer comes first.
    let lines = await clone.ask('read');
    if (lines === 'ok') lines = await clone.ask('echo');
    const numbers = lines.split(',').slice(1, -1).map(Number);
    assert.deepEqual(numbers, [...numbers.keys()]);
    assert.ok(numbers.length >= least, `${numbers.length} lines of ${least}`);
    await clone.machine.destroy();
  }
});

test('a parked machine is captured and stays parked', async () => {
  const source = await rig.clone();
  await source.ask('keep asleep');
  await source.machine.park();
  await until('parked', () => stateOf(source.machine) === 'T');
  const { checkpoint } = await rig.capture(source.machine);
  await until('parked again', () => stateOf(source.machine) === 'T');
  source.machine.unpark();
  assert.equal(await source.ask('kept'), 'asleep');
  assert.equal(await statusOf(source.machine), 'running');
  assert.equal(await (await rig.clone(checkpoint)).ask('kept'), 'asleep');
});

test('what is asked of a machine during its capture is done after it', async () => {
  const source = await rig.clone();
  const capturing = rig.capture(source.machine);
  await source.machine.park();
  await capturing;
  await until('parked', () => stateOf(source.machine) === 'T');
  const again = rig.capture(source.machine);
  source.machine.unpark();
  await again;
  assert.equal(await source.ask('echo awake'), 'awake');
});

test('a machine that does not go on stands still until it is woken, and can be captured again meanwhile', async () => {
  const source = await rig.clone();
  await source.ask('keep still');
  await source.ask('write still');
  const { checkpoint, pauseMs } = await rig.capture(source.machine, { goesOn: false });
  assert.ok(pauseMs > 0);
  assert.equal(await statusOf(source.machine), 'paused');
  await rig.capture(source.machine);
  assert.equal(await statusOf(source.machine), 'paused');
  source.machine.unpark();
  assert.equal(await source.ask('kept'), 'still');
  assert.equal(await statusOf(source.machine), 'running');
  await rig.capture(source.machine, { goesOn: false });
  await source.machine.destroy();
  const clone = await rig.clone(checkpoint);
  assert.equal(await clone.ask('kept'), 'still');
  assert.equal(await clone.ask('read'), 'golden,still,');
});

test('a checkpoint without memory boots with its disk, and what has booted is captured like any other', async () => {
  const source = await rig.clone();
  await source.ask('keep lost');
  await source.ask('store 2');
  await source.ask('write disk');
  const { checkpoint } = await rig.capture(source.machine, { memory: false });
  assert.deepEqual((await readdir(checkpoint.folder)).sort(), ['manifest.json', 'overlay.qcow2']);
  const opened = await rig.backend.openCheckpoint(checkpoint.folder, { verify: true, base: rig.golden });
  const booted = await rig.clone(opened);
  assert.equal(await booted.ask('kept'), '');
  assert.equal(await booted.ask('read'), 'golden,disk,');
  assert.equal(await booted.ask('stored'), await source.ask('stored'));
  await booted.ask('keep anew');
  await booted.ask('write anew');
  const second = await rig.capture(booted.machine);
  const clone = await rig.clone(second.checkpoint);
  assert.equal(await clone.ask('kept'), 'anew');
  assert.equal(await clone.ask('read'), 'golden,disk,anew,');
  await rig.backend.openCheckpoint(rig.golden.folder, { verify: true });
});

test('a machine whose node was killed in the middle of a capture goes on when it is found', async () => {
  const source = await rig.clone();
  await source.ask('keep orphan');
  for (const parked of [false, true]) {
    const url = (path: string) => JSON.stringify(new URL(path, import.meta.url).href);
    const program = `
      import { newBackend } from ${url('../helpers/qemu-rig.ts')};
      const backend = newBackend(${JSON.stringify(rig.home)}, ${JSON.stringify(rig.image)});
      const machine = await backend.adopt(${JSON.stringify(source.machine.record)});
      if (${parked}) machine.park();
      await machine.standStill(() => new Promise(() => {
        process.stdout.write('stands still\\n');
        setInterval(() => {}, 1000);
      }), { goesOn: true });
    `;
    const node = spawn(process.execPath, ['--input-type=module-typescript', '--eval', program], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    for await (const chunk of node.stdout) if (String(chunk).includes('\n')) break;
    node.kill('SIGKILL');
    await until('the node is gone', () => node.signalCode !== null);
    assert.equal(await statusOf(source.machine), 'paused');
    const found = (await newBackend(rig.home, rig.image).adopt(source.machine.record))!;
    if (parked) {
      await until('parked', () => stateOf(source.machine) === 'T');
      found.unpark();
    }
    assert.equal(await source.ask('kept'), 'orphan');
    assert.equal(await statusOf(source.machine), 'running');
  }
});

test('a VMM that hangs makes the capture fail in time, and goes on when it wakes', async () => {
  const source = await rig.clone();
  await source.ask('keep hung');
  process.kill(source.machine.record.pid, 'SIGSTOP');
  const since = performance.now();
  await assert.rejects(rig.capture(source.machine), { code: 'unavailable', message: /stop: no answer from the VMM/ });
  assert.ok(performance.now() - since < 30_000);
  assert.deepEqual(await rig.leftovers(), []);
  process.kill(source.machine.record.pid, 'SIGCONT');
  assert.equal(await source.ask('kept'), 'hung');
  const { checkpoint } = await rig.capture(source.machine);
  assert.equal(await statusOf(source.machine), 'running');
  assert.equal(await (await rig.clone(checkpoint)).ask('kept'), 'hung');
});

test('a machine that ends during its capture leaves nothing of it', async () => {
  const source = await rig.clone();
  await source.ask('fill 20');
  const capturing = rig.capture(source.machine);
  const refused = assert.rejects(capturing, { code: 'unavailable' });
  await source.machine.destroy();
  await refused;
});

test('a full disk is said, nothing is left on it, and the machine goes on', async (t) => {
  const folder = join(rig.home, 'small');
  await mkdir(folder);
  await run('mount', ['-t', 'tmpfs', '-o', 'size=4m', 'none', folder]);
  t.after(() => run('umount', [folder]));
  const source = await rig.clone();
  await source.ask('fill 8');
  for (const goesOn of [true, false]) {
    const out = join(folder, 'out');
    await assert.rejects(rig.capture(source.machine, { goesOn, out }), { code: 'capacity' });
    assert.deepEqual(await readdir(folder), []);
    assert.equal(await source.ask('echo on'), 'on');
  }
});

test('a capture that fails late lets the machine go on as it was', async () => {
  const source = await rig.clone();
  const { checkpoint } = await rig.capture(source.machine);
  await assert.rejects(rig.capture(source.machine, { goesOn: false, out: checkpoint.folder }), { code: 'conflict' });
  assert.equal(await source.ask('echo on'), 'on');
  await source.machine.park();
  await assert.rejects(rig.capture(source.machine, { goesOn: false, out: checkpoint.folder }), { code: 'conflict' });
  await until('parked', () => stateOf(source.machine) === 'T');
  source.machine.unpark();
  assert.equal(await source.ask('echo on'), 'on');
  await assert.rejects(rig.capture(source.machine, { signal: AbortSignal.abort() }), { code: 'aborted' });
  await assert.rejects(rig.capture(source.machine, { base: checkpoint }), { code: 'bad_request' });
  const one = rig.capture(source.machine);
  await assert.rejects(rig.capture(source.machine), { code: 'conflict' });
  await one;
  assert.equal(await source.ask('echo on'), 'on');
});

test('a machine over another base than the one given is not captured', async () => {
  const source = await rig.clone();
  const folder = join(rig.home, 'twin');
  await cp(rig.golden.folder, folder, { recursive: true });
  await assert.rejects(rig.capture(source.machine, { base: { ...rig.golden, folder } }), {
    code: 'internal',
    message: /0 mappings of its golden memory/,
  });
  assert.equal(await source.ask('echo on'), 'on');
  await rm(folder, { recursive: true });
});

test('checkpoints that are not what they should be are refused by name', async () => {
  const source = await rig.clone();
  await source.ask('keep whole');
  const { checkpoint } = await rig.capture(source.machine);
  const verify = { verify: true, base: rig.golden };
  const refused = async (
    what: string,
    spoil: (folder: string) => Promise<unknown>,
    code: string,
    message: RegExp,
    options: Parameters<typeof rig.backend.openCheckpoint>[1] = { base: rig.golden },
  ) => {
    const folder = join(rig.home, 'spoilt');
    await cp(checkpoint.folder, folder, { recursive: true });
    for (const name of await readdir(folder)) await chmod(join(folder, name), 0o600);
    await spoil(folder);
    await assert.rejects(rig.backend.openCheckpoint(folder, options), { code, message }, what);
    await rm(folder, { recursive: true });
  };
  const edit = (from: string | RegExp, to: string) => async (folder: string) => {
    const text = await readFile(join(folder, 'manifest.json'), 'utf8');
    assert.notEqual(text.replace(from, to), text);
    await writeFile(join(folder, 'manifest.json'), text.replace(from, to));
  };
  const poke = (name: string, at: number, bytes: string) => async (folder: string) => {
    const handle = await open(join(folder, name), 'r+');
    await handle.write(Buffer.from(bytes, 'latin1'), 0, bytes.length, at < 0 ? (await handle.stat()).size + at : at);
    await handle.close();
  };
  const nothing = async () => {};
  const corrupt = 'checkpoint_corrupt';
  await refused('no base', nothing, corrupt, /which is not there/, {});
  const other = { ...rig.golden, manifest: { ...rig.golden.manifest, files: { state: { bytes: 1, sha256: '0' } } } };
  await refused('another base', nothing, corrupt, /and the one given is/, { base: other });
  await refused('a snapshot as base', nothing, corrupt, /not golden/, { base: checkpoint });
  await refused('cut', (folder) => truncate(join(folder, 'pages'), 5000), corrupt, /pages has 5000 bytes/);
  await refused('no state', (folder) => rm(join(folder, 'state')), corrupt, /state is missing/);
  await refused('spoilt pages', poke('pages', 0, 'x'), corrupt, /pages is no page file/);
  await refused('a spoilt table', poke('pages', 4096, 'x'), corrupt, /pages has another checksum/);
  await refused('another byte', poke('pages', -100, 'coppice'), corrupt, /pages has another hash/, verify);
  await refused('a foreign overlay', poke('overlay.qcow2', 8, '\0\0\0\0\0\0\x02\0\0\0\0\x05'), corrupt, /backing file/);
  const upgraded = edit(/"version": "[^"]*"/, '"version": "1.2.3"');
  await refused('another QEMU', upgraded, 'host_unfit', /QEMU 1\.2\.3/);
  await refused('another format', edit('"format": 2', '"format": 3'), corrupt, /format/);
  await refused('another shape', edit('"memoryMB": 128', '"memoryMB": 256'), corrupt, /memoryMB/);
  await refused('other files', edit('"pages"', '"memory"'), corrupt, /files/);

  // Of another QEMU its disk is good, whatever became of its memory, and it is good to lie on.
  const old = join(rig.home, 'old');
  await cp(checkpoint.folder, old, { recursive: true });
  for (const name of await readdir(old)) await chmod(join(old, name), 0o600);
  await upgraded(old);
  await truncate(join(old, 'pages'), 5000);
  const disk = await rig.backend.openCheckpoint(old, { base: rig.golden, use: 'disk' });
  assert.deepEqual([disk.manifest.memory, Object.keys(disk.manifest.files)], ['none', ['overlay.qcow2']]);
  await rm(old, { recursive: true });
  const base = join(rig.home, 'old-golden');
  await cp(rig.golden.folder, base, { recursive: true });
  await chmod(join(base, 'manifest.json'), 0o600);
  await upgraded(base);
  await assert.rejects(rig.backend.openCheckpoint(base), { code: 'host_unfit' });
  const oldGolden = await rig.backend.openCheckpoint(base, { use: 'base' });
  await assert.rejects(rig.clone(oldGolden), { code: 'host_unfit' });
  await rig.backend.openCheckpoint(checkpoint.folder, { base: oldGolden });
  await rm(base, { recursive: true });

  // A bit that turns in the data, which no size and no table tells of, is found before the machine runs.
  for (const [name, at] of [
    ['pages', -100],
    ['state', 5000],
    ['overlay.qcow2', -100],
  ] as const) {
    const turned = join(rig.home, 'turned');
    await cp(checkpoint.folder, turned, { recursive: true });
    for (const file of await readdir(turned)) await chmod(join(turned, file), 0o600);
    await poke(name, at, 'coppice')(turned);
    const opened = await rig.backend.openCheckpoint(turned, { base: rig.golden });
    await assert.rejects(rig.clone(opened), { code: corrupt, message: new RegExp(`${name} has another hash`) }, name);
    await rm(turned, { recursive: true });
  }

  // One that is changed after it was opened.
  const folder = join(rig.home, 'late');
  await cp(checkpoint.folder, folder, { recursive: true });
  const late = await rig.backend.openCheckpoint(folder, { base: rig.golden });
  for (const name of await readdir(folder)) await chmod(join(folder, name), 0o600);
  await poke('overlay.qcow2', 8, '\0\0\0\0\0\0\x02\0\0\0\0\x05')(folder);
  await assert.rejects(rig.clone(late), { code: corrupt, message: /backing file/ });
  await rm(folder, { recursive: true });
  await source.machine.destroy();
  await rig.sweep();
  assert.deepEqual(await rig.backend.census(rig.machines), []);
  assert.equal((await stat(checkpoint.folder)).mode & 0o777, 0o700);
  assert.deepEqual(checkpoint.manifest.shape, SHAPE);
});

test('a machine that was found again is captured as before', async () => {
  const source = await rig.clone();
  await source.ask('keep found');
  const backend = newBackend(rig.home, rig.image);
  const found = (await backend.adopt(source.machine.record))!;
  const request = { image: rig.image, shape: SHAPE, base: rig.golden, memory: true, goesOn: true };
  const { checkpoint } = await backend.capture(found, request, rig.nextOut());
  const clone = await guestOf(await backend.clone(checkpoint, rig.image, await rig.spec()));
  assert.equal(await clone.ask('kept'), 'found');
});
