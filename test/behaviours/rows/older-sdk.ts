import assert from 'node:assert/strict';
import { Sandbox } from 'e2b-245';
import type { Behaviour } from '../support/behaviour.ts';

export default [
  {
    name: 'the older SDK 2.45.0 works: create, run, files, connect, list, kill',
    on: 'every kind',
    run: async ({ kind, service, atEnd }) => {
      const options = { ...service.sdk, validateApiKey: false };
      const sandbox = await Sandbox.create(kind.base, { ...options, metadata: { by: `2.45.0 ${kind.name}` } });
      atEnd(() => sandbox.kill());
      assert.equal((await sandbox.commands.run('echo $((6*7))')).stdout, '42\n');
      await sandbox.files.write('old.txt', 'of old');
      assert.equal(await sandbox.files.read('old.txt'), 'of old');
      const again = await Sandbox.connect(sandbox.sandboxId, options);
      assert.equal(await again.isRunning(), true);
      const query = { metadata: { by: `2.45.0 ${kind.name}` } };
      const listed = await Sandbox.list({ ...options, query }).nextItems();
      assert.deepEqual(
        listed.map((one) => one.sandboxId),
        [sandbox.sandboxId],
      );
      assert.equal(await sandbox.kill(), true);
      assert.equal(await sandbox.isRunning(), false);
    },
  },
] satisfies Behaviour[];
