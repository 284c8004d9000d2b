import assert from 'node:assert/strict';
import { Sandbox } from 'e2b';
import { PATIENT, say } from '../support/asks.ts';
import type { Behaviour, BehaviourContext } from '../support/behaviour.ts';

/** Coppice's own verb; E2B's SDKs have no word for it. */
async function rollBack({ service }: BehaviourContext, sandboxID: string, snapshotID: string): Promise<number> {
  const response = await fetch(`${service.url}/sandboxes/${sandboxID}/rollback`, {
    method: 'POST',
    headers: { 'X-API-Key': service.apiKey, 'Content-Type': 'application/json' },
    body: JSON.stringify({ snapshotID }),
  });
  await response.arrayBuffer();
  return response.status;
}

export default [
  {
    name: 'a snapshot becomes a template, and outlives its source',
    on: 'every kind',
    run: async ({ sandbox: create, service, atEnd }) => {
      const sandbox = await create();
      await sandbox.files.write('kept', 'kept');
      const { snapshotId } = await sandbox.createSnapshot(PATIENT);
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
  {
    name: 'a snapshot of a snapshot’s sandbox, and of a paused one',
    on: 'every kind',
    run: async ({ sandbox: create, service, atEnd }) => {
      const first = await create();
      await first.files.write('one', '1');
      const { snapshotId } = await first.createSnapshot(PATIENT);
      const second = await Sandbox.create(snapshotId, service.sdk);
      atEnd(() => second.kill());
      await second.files.write('two', '2');
      await second.pause(PATIENT);
      const { snapshotId: deeper } = await second.createSnapshot(PATIENT);
      assert.equal((await second.getInfo()).state, 'paused');
      const third = await Sandbox.create(deeper, service.sdk);
      atEnd(() => third.kill());
      assert.equal(await say(third, 'cat one two'), '12');
      await Promise.all([snapshotId, deeper].map((id) => Sandbox.deleteSnapshot(id, service.sdk)));
      await second.connect(PATIENT);
      assert.equal(await say(second, 'cat one two'), '12');
    },
  },
  {
    name: 'rolled back in place to what it was, running and paused',
    on: 'every kind',
    run: async (context) => {
      const sandbox = await context.sandbox();
      await sandbox.files.write('file', 'early');
      const { snapshotId } = await sandbox.createSnapshot(PATIENT);
      await sandbox.files.write('file', 'late');
      await sandbox.files.write('other', 'late');
      assert.equal(await rollBack(context, sandbox.sandboxId, snapshotId), 201);
      assert.equal(await sandbox.files.read('file'), 'early');
      assert.equal(await sandbox.files.exists('other'), false);
      await sandbox.files.write('file', 'late');
      await sandbox.pause(PATIENT);
      assert.equal(await rollBack(context, sandbox.sandboxId, snapshotId), 201);
      assert.equal(await sandbox.files.read('file'), 'early');
      assert.equal(await rollBack(context, sandbox.sandboxId, 'nothing'), 404);
      await Sandbox.deleteSnapshot(snapshotId, context.service.sdk);
    },
  },
] satisfies Behaviour[];
