/** A volume in jails: one file system for all who have it, with ids as each has them, bounded, and of no rights beyond its files. */
import assert from 'node:assert/strict';
import { closeSync, existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, type TestContext, test } from 'node:test';
import type { IsolationBackend, Machine } from '../../src/isolation/backend.ts';
import { loopDevices } from '../../src/isolation/jail/oci/loop-devices.ts';
import { VolumeContent } from '../../src/volumes/content.ts';
import { makeVolumeImage } from '../../src/volumes/image.ts';
import { eachRuntime, said, sh, withAgent } from '../helpers/jail-rig.ts';
import { until } from '../helpers/until.ts';

const SIZE_MB = 32;

eachRuntime((rig) => {
  afterEach(() => rig.sweepAll());

  async function volume(t: TestContext, name: string): Promise<string> {
    const image = join(rig.home, `${name}.ext4`);
    await makeVolumeImage(image, SIZE_MB);
    t.after(() => rm(image, { force: true }));
    return image;
  }

  const having = (id: string, image: string, path = '/srv/shared'): Promise<Machine> =>
    rig.clone(id, { volumes: [{ image, path }] });

  const devicesOf = (image: string) => loopDevices().filter(({ file }) => file.startsWith(image));

  async function looking<T>(
    image: string,
    look: (content: VolumeContent, root: number) => Promise<T>,
    backend: IsolationBackend = rig.backend,
  ): Promise<T> {
    const root = await backend.openVolume!(image);
    try {
      return await look(new VolumeContent(root), root);
    } finally {
      closeSync(root);
    }
  }

  test('what one writes the other reads at once, and the host too, owned by the same number everywhere', async (t) => {
    const image = await volume(t, 'shared');
    const [one, two] = await Promise.all([having('one', image), having('two', image, '/home/user/deep/er')]);
    await withAgent(one, async (first) =>
      withAgent(two, async (second) => {
        await said(first, 'echo from-one > /srv/shared/a; mkdir /srv/shared/d', 'user');
        assert.equal(await said(second, 'cat /home/user/deep/er/a', 'user'), 'from-one');
        assert.equal(await said(second, "stat -c '%u %g' /home/user/deep/er/a"), '1000 1000');
        await said(second, 'echo from-two >> /home/user/deep/er/a; chown 7:8 /home/user/deep/er/d');
        assert.equal(await said(first, "cat /srv/shared/a; stat -c '%u %g' /srv/shared/d"), 'from-one\nfrom-two\n7 8');
        await looking(image, async (content) => {
          assert.deepEqual(
            (await content.list('/', 1)).map(({ path, type, uid, gid }) => [path, type, uid, gid]),
            [
              ['/a', 'file', 1000, 1000],
              ['/d', 'directory', 7, 8],
            ],
          );
          assert.equal(devicesOf(image).length, 1, 'one file system, however many have it');
        });
      }),
    );
    await Promise.all([one.destroy(), two.destroy()]);
    await until('nobody holds it', () => devicesOf(image).length === 0);
    const later = await having('later', image);
    await withAgent(later, async (agent) => {
      assert.equal(await said(agent, 'cat /srv/shared/a'), 'from-one\nfrom-two');
    });
  });

  test('it ends at its size, for all of them, and takes of the disk what it holds', async (t) => {
    const image = await volume(t, 'full');
    const machine = await having('fills', image);
    await withAgent(machine, async (agent) => {
      const full = await sh(agent, 'head -c 64M /dev/urandom > /srv/shared/big', 'user');
      assert.match(full.output, /No space left on device/);
      await looking(image, async (content) => {
        const { size } = await content.stat('/big');
        assert.ok(size <= SIZE_MB * 2 ** 20, `${size} bytes`);
      });
      assert.equal(
        await said(agent, 'rm /srv/shared/big; echo room > /srv/shared/small; cat /srv/shared/small'),
        'room',
      );
    });
  });

  test('a program that root left there gives no rights elsewhere; no devices; not another mount of it', async (t) => {
    const image = await volume(t, 'rights');
    const [one, two] = await Promise.all([having('leaves', image), having('finds', image)]);
    await withAgent(one, (agent) => said(agent, 'cp /usr/bin/id /srv/shared/id; chmod 4755 /srv/shared/id'));
    await withAgent(two, async (agent) => {
      assert.equal(await said(agent, '/srv/shared/id -u', 'user'), '1000');
      assert.notEqual((await sh(agent, 'mknod /srv/shared/disk b 7 0')).code, 0);
      assert.notEqual((await sh(agent, 'mount -o remount,suid /srv/shared')).code, 0);
      assert.notEqual((await sh(agent, 'umount /srv/shared')).code, 0);
    });
  });

  test('links that a jail leaves lead nobody out of it', async (t) => {
    const image = await volume(t, 'links');
    const outside = join(rig.home, 'outside');
    writeFileSync(outside, 'secret');
    const machine = await having('links', image);
    await withAgent(machine, (agent) =>
      said(agent, `cd /srv/shared; ln -s ${rig.home} up; ln -s ${outside} file; mkfifo pipe; ln -s / root`, 'user'),
    );
    await looking(image, async (content) => {
      for (const act of [
        () => content.read('/file'),
        () => content.read('/up/outside'),
        () => content.list('/root', 1),
        () => content.stat('/up/outside'),
        () => content.makeFolder('/up/made', {}, true),
        () => content.change('/file', { mode: 0o777 }),
        () => content.read('/pipe'),
      ])
        await assert.rejects(act(), { name: 'CoppiceError' });
      assert.equal((await content.stat('/file')).target, outside);
      await content.remove('/up');
      await content.remove('/root');
    });
    assert.equal(readFileSync(outside, 'utf8'), 'secret');
    assert.ok(!existsSync(join(rig.home, 'made')));
  });

  test('a mount point that is a link or a file is refused, and nothing is left of the birth', async (t) => {
    const image = await volume(t, 'unfit');
    for (const path of ['/etc/passwd', '/bin/below', '/etc/passwd/below', '/var/run/below'])
      await assert.rejects(having('unfit', image, path), (error: { code?: string; message: string }) => {
        assert.match(error.message, /volumeMounts: no volume can be mounted at/);
        return error.code === 'bad_request';
      });
    await until('nobody holds it', () => devicesOf(image).length === 0);
    assert.deepEqual(readdirSync(rig.machines), []);
  });

  test('another node finds it as it is: the same device, the same files', async (t) => {
    const image = await volume(t, 'again');
    const machine = await having('stays', image);
    await withAgent(machine, async (agent) => {
      await said(agent, 'echo before > /srv/shared/a');
      await looking(
        image,
        async (content, root) => {
          assert.equal(devicesOf(image).length, 1);
          assert.equal(readFileSync(`/proc/self/fd/${root}/a`, 'utf8'), 'before\n');
          await content.remove('/a');
        },
        rig.again(),
      );
      assert.equal(await said(agent, 'ls /srv/shared'), '');
    });
  });
});
