/**
 * Shells: VMMs made ahead of knowing what they are to be. Needs root, qemu-system-x86_64, e2fsprogs, util-linux. Without
 * them it fails; nothing is skipped.
 */
import assert from 'node:assert/strict';
import { cp, rm } from 'node:fs/promises';
import { join } from 'node:path';
import test, { after, afterEach, before } from 'node:test';
import { readProcess } from '../../src/isolation/process-table.ts';
import { guestOf, type QemuRig, qemuRig } from '../helpers/qemu-rig.ts';

let rig: QemuRig;

before(async () => {
  rig = await qemuRig();
});

afterEach(() => rig.sweep());

after(() => rig.close());

const prepare = async () => rig.backend.prepare(rig.golden, rig.image, await rig.spec());

test('a shell becomes a clone of its base', async () => {
  const shell = await prepare();
  assert.ok(readProcess(shell.record.pid));
  const guest = await guestOf(await shell.restore(rig.golden));
  assert.deepEqual(guest.machine.record, shell.record);
  assert.equal(await guest.ask('read'), 'golden,');
  await assert.rejects(shell.restore(rig.golden), { code: 'conflict' });
  assert.equal(await guest.ask('echo still'), 'still');
  await guest.machine.destroy();
  assert.match((await shell.exited).reason, /SIGKILL/);
  assert.deepEqual(await rig.backend.census(rig.machines), []);
});

test('a shell becomes a clone of a checkpoint on its base, whose overlay it then reads', async () => {
  const source = await rig.clone();
  await source.ask('keep mine');
  await source.ask('write mine');
  // More than the tables of an empty overlay cover, so that what was read of it when it was opened would not do.
  await source.ask('store 24');
  const { checkpoint } = await rig.capture(source.machine);
  const shell = await prepare();
  const guest = await guestOf(await shell.restore(checkpoint));
  assert.equal(await guest.ask('kept'), 'mine');
  assert.equal(await guest.ask('stored'), await source.ask('stored'));
  assert.equal(await guest.ask('read'), 'golden,mine,');
  await guest.ask('store 12');
  await guest.ask('write more');
  const sum = await guest.ask('stored');
  const second = await rig.capture(guest.machine);
  const next = await guestOf(await (await prepare()).restore(second.checkpoint));
  assert.equal(await next.ask('stored'), sum);
  assert.equal(await next.ask('read'), 'golden,mine,more,');
  const { checkpoint: disk } = await rig.capture(next.machine, { memory: false });
  const booted = await rig.clone(disk);
  assert.equal(await booted.ask('stored'), sum);
});

test('shells of one base become different machines', async () => {
  const source = await rig.clone();
  await source.ask('keep snapshot');
  const { checkpoint } = await rig.capture(source.machine);
  const shells = await Promise.all([prepare(), prepare(), prepare()]);
  const guests = await Promise.all(
    [rig.golden, checkpoint, checkpoint].map(async (what, index) => guestOf(await shells[index]!.restore(what))),
  );
  assert.deepEqual(await Promise.all(guests.map(({ ask }) => ask('kept'))), ['', 'snapshot', 'snapshot']);
  await Promise.all(guests.map(({ ask }, index) => ask(`write ${index}`)));
  assert.deepEqual(await Promise.all(guests.map(({ ask }) => ask('read'))), ['golden,0,', 'golden,1,', 'golden,2,']);
});

test('a shell that cannot become what is asked says so and leaves nothing', async () => {
  const source = await rig.clone();
  const { checkpoint: disk } = await rig.capture(source.machine, { memory: false });
  await source.machine.destroy();
  await assert.rejects((await prepare()).restore(disk), { code: 'conflict', message: /boots/ });
  const twin = { ...rig.golden, folder: join(rig.home, 'twin') };
  await cp(rig.golden.folder, twin.folder, { recursive: true });
  await assert.rejects((await prepare()).restore(twin), { code: 'conflict', message: /another checkpoint/ });
  await rm(twin.folder, { recursive: true });
  await assert.rejects((await prepare()).restore(rig.golden, AbortSignal.abort()), { code: 'aborted' });
  await assert.rejects(rig.backend.prepare(disk, rig.image, await rig.spec()), { code: 'bad_request' });
  await rig.sweep();
  const shell = await prepare();
  process.kill(shell.record.pid, 'SIGKILL');
  assert.match((await shell.exited).reason, /SIGKILL/);
  await assert.rejects(shell.restore(rig.golden), { code: 'start_failed' });
  assert.deepEqual(await rig.backend.census(rig.machines), []);
});

test('a shell that nobody wants is gone without a trace', async () => {
  const shell = await prepare();
  await shell.destroy();
  await shell.destroy();
  await shell.exited;
  assert.deepEqual(await rig.backend.census(rig.machines), []);
});
