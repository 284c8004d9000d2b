import assert from 'node:assert/strict';
import { NotFoundError, Sandbox } from 'e2b';
import { until } from '../../helpers/until.ts';
import { say } from '../support/asks.ts';
import type { Behaviour } from '../support/behaviour.ts';
import { notYet } from '../support/not-yet.ts';

const pause = notYet((sandbox) => sandbox.pause());
const snapshot = notYet((sandbox) => sandbox.createSnapshot());

export default [
  {
    name: 'paused and resumed, files and processes kept',
    on: { microvm: pause },
    run: async ({ sandbox: create, service }) => {
      const sandbox = await create();
      const handle = await sandbox.commands.run('exec sleep 1000', { background: true, timeoutMs: 0 });
      await handle.disconnect();
      await sandbox.files.write('kept', 'kept');
      assert.equal(await sandbox.pause(), true);
      assert.equal(await sandbox.pause(), false, 'it is paused already');
      assert.equal((await sandbox.getInfo()).state, 'paused');
      assert.equal(await sandbox.isRunning(), false);
      await assert.rejects(sandbox.commands.run('echo nobody'));
      const again = await Sandbox.connect(sandbox.sandboxId, service.sdk);
      assert.equal(await again.files.read('kept'), 'kept');
      assert.ok((await again.commands.list()).some((one) => one.pid === handle.pid));
    },
  },
  {
    name: 'code goes on after a pause where it was',
    on: { microvm: pause },
    run: async ({ codeSandbox: create }) => {
      const sandbox = await create();
      await sandbox.runCode('x = 41');
      await sandbox.pause();
      await sandbox.connect();
      assert.equal((await sandbox.runCode('x + 1')).text, '42');
    },
  },
  {
    name: 'paused at its deadline when it was created so, and killed while it is paused',
    on: {
      microvm: {
        reason: 'not there yet',
        refused: async ({ sandbox: create }) => {
          await assert.rejects(create({ lifecycle: { onTimeout: 'pause' } }), /autoPause/);
        },
      },
    },
    run: async ({ sandbox: create, service }) => {
      const sandbox = await create({ timeoutMs: 2_000, lifecycle: { onTimeout: 'pause' } });
      const state = async (): Promise<string> => (await Sandbox.getInfo(sandbox.sandboxId, service.sdk)).state;
      await until('it is paused', async () => (await state()) === 'paused', 30_000);
      assert.equal(await Sandbox.kill(sandbox.sandboxId, service.sdk), true);
      await assert.rejects(state(), NotFoundError);
    },
  },
  {
    name: 'a snapshot becomes a template, and outlives its source',
    on: { microvm: snapshot },
    run: async ({ sandbox: create, service, atEnd }) => {
      const sandbox = await create();
      await sandbox.files.write('kept', 'kept');
      const { snapshotId } = await sandbox.createSnapshot();
      await sandbox.files.write('kept', 'changed');
      assert.equal(await sandbox.files.read('kept'), 'changed', 'the source goes on');
      await sandbox.kill();
      const made = await Promise.all(Array.from({ length: 3 }, () => Sandbox.create(snapshotId, service.sdk)));
      atEnd(() => Promise.all(made.map((one) => one.kill())));
      for (const [index, one] of made.entries()) {
        assert.equal(await one.files.read('kept'), 'kept');
        assert.equal(await say(one, 'hostname'), one.sandboxId, 'it is itself');
        await one.files.write('own', String(index));
      }
      for (const [index, one] of made.entries()) assert.equal(await one.files.read('own'), String(index));
      assert.equal(await Sandbox.deleteSnapshot(snapshotId, service.sdk), true);
      await assert.rejects(Sandbox.create(snapshotId, service.sdk));
      assert.equal(await made[0]!.files.read('kept'), 'kept', 'what was made from it goes on');
    },
  },
] satisfies Behaviour[];
