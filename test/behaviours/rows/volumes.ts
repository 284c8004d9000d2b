import assert from 'node:assert/strict';
import { Sandbox, Volume } from 'e2b';
import type { TestService } from '../../helpers/service.ts';
import { say } from '../support/asks.ts';
import type { Behaviour, BehaviourContext } from '../support/behaviour.ts';

async function volume({ service, kind, atEnd }: BehaviourContext, name: string): Promise<Volume> {
  const made = await Volume.create(`${name}-${kind.name}`, service.sdk);
  atEnd(() => Volume.destroy(made.volumeId, service.sdk));
  return made;
}

const content = ({ url }: TestService) => ({ apiUrl: url });

export default [
  {
    name: 'a volume is shared, stays mounted through a pause and a snapshot’s sandbox, and outlives them all',
    on: {},
    run: async (context) => {
      const { sandbox: create, service, atEnd } = context;
      const shared = await volume(context, 'shared');
      const mounts = { volumeMounts: { '/mnt/shared': shared } };
      const [one, two] = await Promise.all([create(mounts), create({ volumeMounts: { '/data': shared.name } })]);
      const told = await fetch(`${service.url}/sandboxes/${one.sandboxId}`, {
        headers: { 'x-api-key': service.apiKey },
      });
      assert.deepEqual(((await told.json()) as { volumeMounts: unknown }).volumeMounts, [
        { name: shared.name, path: '/mnt/shared' },
      ]);
      await one.files.write('/mnt/shared/a', 'from one');
      assert.equal(await two.files.read('/data/a'), 'from one');
      await one.files.write('/mnt/shared/a', 'from one, at once');
      assert.equal(await two.files.read('/data/a'), 'from one, at once');
      await two.commands.run('mkdir /data/d && echo from two > /data/d/b');
      assert.equal(await shared.readFile('/d/b', content(service)), 'from two\n');
      await shared.writeFile('/c', 'from outside', content(service));
      assert.equal(await say(one, 'cat /mnt/shared/c'), 'from outside');

      await one.pause();
      await two.commands.run('echo meanwhile > /data/e');
      const again = await Sandbox.connect(one.sandboxId, service.sdk);
      assert.equal(await say(again, 'cat /mnt/shared/e'), 'meanwhile');

      // What is captured of a sandbox is its own: its volumes are who asks for them.
      const { snapshotId } = await again.createSnapshot();
      atEnd(() => Sandbox.deleteSnapshot(snapshotId, service.sdk));
      const plain = await Sandbox.create(snapshotId, service.sdk);
      atEnd(() => plain.kill());
      assert.equal(await say(plain, 'ls -A /mnt/shared'), '');
      const having = await Sandbox.create(snapshotId, { ...service.sdk, ...mounts });
      atEnd(() => having.kill());
      assert.equal(await say(having, 'cat /mnt/shared/e'), 'meanwhile');

      await assert.rejects(Volume.destroy(shared.volumeId, service.sdk), /is mounted in sandbox/);
      for (const each of [again, two, plain, having]) await each.kill();
      assert.equal(await shared.readFile('/e', content(service)), 'meanwhile\n');
    },
  },
] satisfies Behaviour[];
