/** Snapshots: made, listed, made into sandboxes, deleted. */
import assert from 'node:assert/strict';
import { PATIENT } from '../../behaviours/support/asks.ts';
import type { Row } from '../row.ts';

export default [
  {
    method: 'sandbox.createSnapshot',
    proves: 'a sandbox of it has its files, and the source goes on',
    run: async ({ create, sdk, sdkOptions, atEnd }) => {
      const source = await create();
      await source.files.write('kept', 'kept');
      const { snapshotId } = await source.createSnapshot(PATIENT);
      atEnd(() => sdk.Sandbox.deleteSnapshot(snapshotId, sdkOptions));
      await source.files.write('kept', 'changed');
      const made = await sdk.Sandbox.create(snapshotId, sdkOptions);
      atEnd(() => made.kill());
      assert.equal(await made.files.read('kept'), 'kept');
      assert.equal(await source.files.read('kept'), 'changed');
    },
  },
  {
    method: 'Sandbox.createSnapshot',
    proves: 'by id, under a name, which is a template to create from',
    run: async ({ create, sdk, sdkOptions, atEnd, tag }) => {
      const { sandboxId } = await create();
      const name = `snap-${tag}`;
      const { snapshotId, names } = await sdk.Sandbox.createSnapshot(sandboxId, { ...sdkOptions, ...PATIENT, name });
      atEnd(() => sdk.Sandbox.deleteSnapshot(snapshotId, sdkOptions));
      assert.deepEqual(names, [`${name}:default`]);
      const made = await sdk.Sandbox.create(name, sdkOptions);
      assert.equal(await made.kill(), true);
    },
  },
  {
    method: 'Sandbox.listSnapshots',
    proves: 'those of one sandbox, of all of the team’s',
    run: async ({ create, sdk, sdkOptions, atEnd }) => {
      const [one, other] = [await create(), await create()];
      const { snapshotId } = await one.createSnapshot(PATIENT);
      atEnd(() => sdk.Sandbox.deleteSnapshot(snapshotId, sdkOptions));
      const of = async (sandboxId?: string): Promise<string[]> =>
        (await sdk.Sandbox.listSnapshots({ ...sdkOptions, ...(sandboxId ? { sandboxId } : {}) }).nextItems()).map(
          (found) => found.snapshotId,
        );
      assert.deepEqual(await of(one.sandboxId), [snapshotId]);
      assert.deepEqual(await of(other.sandboxId), []);
      assert.ok((await of()).includes(snapshotId));
    },
  },
  {
    method: 'sandbox.listSnapshots',
    proves: 'its own alone',
    run: async ({ create, sdk, sdkOptions, atEnd }) => {
      const sandbox = await create();
      assert.deepEqual(await sandbox.listSnapshots().nextItems(), []);
      const { snapshotId } = await sandbox.createSnapshot(PATIENT);
      atEnd(() => sdk.Sandbox.deleteSnapshot(snapshotId, sdkOptions));
      const found = await sandbox.listSnapshots().nextItems();
      assert.deepEqual(
        found.map((one) => one.snapshotId),
        [snapshotId],
      );
    },
  },
  {
    method: 'snapshots.nextItems',
    proves: 'page by page, each once, to the end',
    run: async ({ create, sdk, sdkOptions, atEnd }) => {
      const sandbox = await create();
      const made: string[] = [];
      for (let count = 0; count < 2; count++) made.push((await sandbox.createSnapshot(PATIENT)).snapshotId);
      atEnd(() => Promise.all(made.map((id) => sdk.Sandbox.deleteSnapshot(id, sdkOptions))));
      const pages = sdk.Sandbox.listSnapshots({ ...sdkOptions, sandboxId: sandbox.sandboxId, limit: 1 });
      const found: string[] = [];
      while (pages.hasNext) found.push(...(await pages.nextItems()).map((one) => one.snapshotId));
      assert.deepEqual(found.sort(), made.sort());
    },
  },
  {
    method: 'Sandbox.deleteSnapshot',
    proves: 'nothing is made of it then; false when there is none',
    run: async ({ create, sdk, sdkOptions }) => {
      const { snapshotId } = await (await create()).createSnapshot(PATIENT);
      assert.equal(await sdk.Sandbox.deleteSnapshot(snapshotId, sdkOptions), true);
      assert.equal(await sdk.Sandbox.deleteSnapshot(snapshotId, sdkOptions), false);
      await assert.rejects(sdk.Sandbox.create(snapshotId, sdkOptions), /404/);
    },
  },
] satisfies Row[];
