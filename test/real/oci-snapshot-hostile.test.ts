/** Root in a jail arranges its files against whoever writes names into a clone of them: nothing outside is touched. */
import assert from 'node:assert/strict';
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, test } from 'node:test';
import type { Machine } from '../../src/isolation/backend.ts';
import { eachRuntime, rootOf, said, sh, withAgent } from '../helpers/jail-rig.ts';
import { until } from '../helpers/until.ts';

let captured = 0;

eachRuntime((rig) => {
  afterEach(() => rig.sweepAll());

  const cloneOfDisk = async (source: Machine, id: string): Promise<Machine> => {
    const out = join(rig.home, `hostile${captured++}`);
    const { checkpoint: snapshot } = await rig.backend.capture!(source, rig.wish(), out);
    await source.destroy();
    return rig.backend.clone(snapshot, rig.image, await rig.spec(id));
  };
  /** A folder of the host that a link may lead to. */
  const canary = (name: string) => {
    const folder = join(rig.home, name);
    mkdirSync(folder, { recursive: true, mode: 0o777 });
    for (const file of ['hostname', 'machine-id', 'hosts']) writeFileSync(join(folder, file), 'untouched\n');
    return {
      folder,
      check: () => {
        assert.deepEqual(readdirSync(folder).sort(), ['hostname', 'hosts', 'machine-id']);
        for (const file of readdirSync(folder)) assert.equal(readFileSync(join(folder, file), 'utf8'), 'untouched\n');
      },
    };
  };

  test('links, pipes, folders and second names for the files', async () => {
    const { folder, check } = canary('files');
    const source = await rig.clone('files');
    await withAgent(source, (agent) =>
      said(
        agent,
        [
          `ln -sfn ${folder}/hostname /etc/hostname`,
          'rm /etc/machine-id /etc/hosts && mkfifo /etc/hosts && echo other > ~/name && ln ~/name /etc/machine-id',
          `mkdir -p /var/lib && rm -rf /var/lib/dbus && ln -s ${folder} /var/lib/dbus`,
        ].join(' && '),
      ),
    );
    const clone = await cloneOfDisk(source, 'files2');
    check();
    await withAgent(clone, async (agent) => {
      assert.equal(
        await said(agent, 'cat /etc/hostname; stat -c %F,%u,%a /etc/hostname'),
        'host-files2\nregular file,0,644',
      );
      assert.match(await said(agent, 'cat /etc/machine-id'), /^[0-9a-f]{32}$/);
      assert.equal(await said(agent, 'cat ~/name'), 'other');
      assert.match(await said(agent, 'cat /etc/hosts'), /localhost[\s\S]*host-files2/);
      assert.equal(await said(agent, 'readlink /var/lib/dbus'), folder);
      await said(agent, 'rm -rf /etc/hostname /etc/machine-id && mkdir -p /etc/hostname/in /etc/machine-id');
      await said(
        agent,
        'ln -sfn /dev/null /etc/hosts; rm /var/lib/dbus; mkdir /var/lib/dbus; ln -s /etc/hostname /var/lib/dbus/machine-id',
      );
    });
    const again = await cloneOfDisk(clone, 'files3');
    await withAgent(again, async (agent) => {
      assert.equal(await said(agent, 'ls /etc/hostname; hostname'), 'in\nhost-files3');
      assert.equal(await said(agent, 'stat -c %F /etc/hosts'), 'regular file');
      assert.equal(await said(agent, 'readlink /var/lib/dbus/machine-id'), '/etc/hostname');
    });
  });

  test('folders on the way that are links to the host', async () => {
    const { folder, check } = canary('folders');
    const source = await rig.clone('folders');
    // The agent looks users up in /etc/passwd, so all in one line.
    await withAgent(source, (agent) =>
      said(agent, `mv /var/lib /var/real; ln -s ${folder} /var/lib; mv /etc /real; ln -s ${folder} /etc`),
    );
    const clone = await cloneOfDisk(source, 'folders2');
    check();
    assert.equal(readFileSync(join(rootOf(clone), 'real/hostname'), 'utf8'), 'host-folders\n');
  });

  test('a folder that is gone, one that hides the template, and one that is a file', async () => {
    const source = await rig.clone('opaque');
    await withAgent(source, (agent) =>
      said(agent, 'cp /etc/passwd /etc/group /root; rm -rf /etc; mkdir /etc; cp ~/passwd ~/group /etc'),
    );
    const clone = await cloneOfDisk(source, 'opaque2');
    await withAgent(clone, async (agent) => {
      assert.equal(
        await said(agent, 'cat /etc/hostname; cd /etc; echo *'),
        'host-opaque2\ngroup hostname hosts machine-id passwd',
      );
      await said(agent, 'rm -rf /etc');
    });
    const gone = await cloneOfDisk(clone, 'opaque3');
    assert.throws(() => readdirSync(join(rootOf(gone), 'etc')), { code: 'ENOENT' });
    const file = await rig.clone('file');
    await withAgent(file, (agent) => said(agent, 'rm -rf /etc; echo mine > /etc'));
    const clone2 = await cloneOfDisk(file, 'file2');
    assert.equal(readFileSync(join(rootOf(clone2), 'etc'), 'utf8'), 'mine\n');
  });

  test('a disk without a byte left', async () => {
    const source = await rig.clone('full');
    await withAgent(source, async (agent) => {
      await sh(agent, 'dd if=/dev/zero of=/full bs=64k');
      // Space that was set aside for what is not yet on the disk comes back for a while.
      const fill = 'sync; dd if=/dev/zero of=/more$RANDOM bs=512; sync; ! { echo 1 > /tiny && grep 1 /tiny; }';
      await until('not a byte is left', async () => (await sh(agent, fill)).code === 0);
    });
    const clone = await cloneOfDisk(source, 'full2');
    await withAgent(clone, async (agent) => {
      assert.notEqual(await said(agent, 'cat /etc/hostname || echo none'), 'host-full');
      await said(agent, 'rm /full /more* && echo room > /tiny && cat /tiny');
    });
  });
});
