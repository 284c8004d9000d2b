/**
 * What a jail has written is captured while it goes on, and others begin with it. Needs what the jails' other tests need, and
 * e2fsck, which is asked whether a copy is a whole file system.
 */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, statSync, truncateSync } from 'node:fs';
import { chmod, open } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { afterEach, test } from 'node:test';
import { isCoppiceError } from '../../src/contract/errors.ts';
import type { Checkpoint, Machine } from '../../src/isolation/backend.ts';
import { cgroupsOf, eachRuntime, type JailRig, SHAPE, said, sh, withAgent } from '../helpers/jail-rig.ts';
import { until } from '../helpers/until.ts';

const COUNT = 'setsid bash -c "i=0; while :; do i=\\$((i+1)); echo \\$i > /count; done" >/dev/null 2>&1 & echo';
/** Makes, links, renames, removes and overwrites, as fast as it can. */
const CHURN = `setsid bash -c 'mkdir -p /churn; while :; do for i in 1 2 3 4 5 6 7 8; do
  dd if=/dev/urandom of=/churn/a$i bs=64k count=8; ln -f /churn/a$i /churn/l$i; mkdir -p /churn/d$i/e; mv /churn/a$i /churn/d$i/e/f; rm -rf /churn/d$(((i+3)%8+1));
done; done' >/dev/null 2>&1 & echo`;
let captured = 0;

eachRuntime((rig) => {
  afterEach(() => rig.sweepAll());

  const capture = async (machine: Machine, signal?: AbortSignal): Promise<Checkpoint> =>
    (await rig.backend.capture!(machine, rig.wish(), nextOut(rig), signal)).checkpoint;
  const cloneOf = async (golden: Checkpoint, id: string): Promise<Machine> =>
    rig.backend.clone(golden, rig.image, await rig.spec(id));

  test('five clones see what was written, none sees what another writes, and the source goes on', async () => {
    assert.equal(rig.backend.capabilities.diskSnapshot, true);
    const source = await rig.clone('source');
    const snapshot = await withAgent(source, async (agent) => {
      await said(agent, 'echo kept > ~/file; echo secret > /run/gone; rm /etc/debian_version');
      await said(agent, COUNT);
      await until('it counts', async () => Number((await sh(agent, 'cat /count')).output) > 10);
      const made = await capture(source);
      const before = Number(await said(agent, 'cat /count || echo 0'));
      await until('it goes on counting', async () => Number((await sh(agent, 'cat /count')).output) > before + 10);
      return made;
    });
    assert.deepEqual(readdirSync(snapshot.folder).sort(), ['layer', 'manifest.json']);
    assert.equal(statSync(snapshot.folder).mode & 0o777, 0o700);
    assert.equal(statSync(join(snapshot.folder, 'layer')).size, SHAPE.diskSizeMB * 2 ** 20);
    check(snapshot);
    await rig.backend.openCheckpoint(snapshot.folder, { verify: true });
    assert.deepEqual(leftOvers(rig, 'source'), []);

    const ids = ['c1', 'c2', 'c3', 'c4', 'c5'];
    const clones = await Promise.all(ids.map((id) => cloneOf(snapshot, id)));
    await Promise.all(clones.map((clone, index) => withAgent(clone, (agent) => said(agent, `echo ${index} > /mine`))));
    for (const [index, clone] of clones.entries())
      await withAgent(clone, async (agent) => {
        assert.equal(await said(agent, 'cat ~/file'), 'kept');
        assert.equal(await said(agent, 'cat /mine'), String(index));
        assert.equal((await sh(agent, 'ls /run/gone /etc/debian_version')).code, 2);
        // Nobody counts here.
        assert.equal(await said(agent, 'cat /count > /tmp/a; sleep .1; cmp /count /tmp/a && echo same'), 'same');
        assert.equal(await said(agent, 'cat /etc/hostname; hostname'), `host-c${index + 1}\nhost-c${index + 1}`);
        assert.match(await said(agent, 'cat /etc/hosts'), new RegExp(`127\\.0\\.1\\.1\\s+host-c${index + 1}$`));
        assert.doesNotMatch(await said(agent, 'cat /etc/hosts'), /host-source/);
      });
    const machineIDs = await Promise.all(
      [source, ...clones].map((one) => withAgent(one, (agent) => said(agent, 'cat /etc/machine-id'))),
    );
    assert.equal(new Set(machineIDs).size, 6);
    await withAgent(source, async (agent) => assert.equal((await sh(agent, 'ls /mine')).code, 2));
  });

  test('owners, modes, attributes, links and what was removed of the template are kept', async () => {
    const source = await rig.clone('meta');
    const MAKE = [
      'mkdir -p /t/deep && echo x > /t/deep/file && chown 1000:2000 /t/deep/file && chmod 4751 /t/deep/file',
      'ln /t/deep/file /t/hard && ln -s deep/file /t/soft && mkfifo /t/pipe && chmod 1777 /t',
      `python3 -c "import os; os.setxattr('/t/hard', 'user.note', b'yes')"`,
      'touch -d @1000000000 /t/deep/file',
      'rm -rf /usr/share/doc && mkdir /usr/share/doc && echo own > /usr/share/doc/own',
      'mv /usr/share/common-licenses /usr/share/moved',
      'rm /bin/ls -f; truncate -s 100M /t/sparse',
    ].join(' && ');
    const SHOW = [
      `cd /t && stat -c '%n %u %g %a %h %s %Y %F' deep/file hard soft pipe . sparse`,
      `python3 -c "import os; print(os.getxattr('/t/deep/file', 'user.note'), os.stat('/t/hard').st_ino == os.stat('/t/deep/file').st_ino)"`,
      'cat /usr/share/doc/*; test ! -e /bin/ls && test ! -e /usr/share/common-licenses && cat /usr/share/moved/GPL-3 | md5sum',
    ].join(' && ');
    const wanted = await withAgent(source, async (agent) => {
      await said(agent, MAKE);
      return said(agent, SHOW);
    });
    assert.match(wanted, /deep\/file 1000 2000 4751 2 2 1000000000 regular file/);
    assert.match(wanted, /b'yes' True\nown\n/);
    const first = await capture(source);
    await source.destroy();
    const middle = await cloneOf(first, 'middle');
    await withAgent(middle, async (agent) => {
      assert.equal(await said(agent, SHOW), wanted);
      await said(agent, 'echo two > /two');
    });
    const second = await capture(middle);
    await middle.destroy();
    check(second);
    const last = await cloneOf(second, 'last');
    await withAgent(last, async (agent) => {
      assert.equal(await said(agent, SHOW), wanted);
      assert.equal(await said(agent, 'cat /two; cat /etc/hostname'), 'two\nhost-last');
      // A folder of the template can be moved on, as in any other jail.
      await said(agent, 'mv /usr/share/moved /usr/share/again && test -e /usr/share/again/GPL-3');
    });
  });

  test('copies taken under heavy writing are whole file systems, each as of one instant', async () => {
    const source = await rig.clone('churn');
    await withAgent(source, async (agent) => {
      await said(agent, CHURN);
      // Two files that are never more than one apart, in this order.
      await said(
        agent,
        'setsid bash -c "i=0; while :; do i=\\$((i+1)); printf %08d \\$i 1<>/first; printf %08d \\$i 1<>/second; done" >/dev/null 2>&1 & echo',
      );
      // Open and without a name: what it holds is nobody's in the copy.
      await said(
        agent,
        'setsid bash -c "exec 3<>/open; rm /open; while :; do head -c 1M /dev/urandom >&3; sleep .05; done" >/dev/null 2>&1 & echo',
      );
      await until(
        'all of them write',
        async () => (await sh(agent, 'test -s /second && test -e /churn/l8')).code === 0,
      );
    });
    for (let round = 0; round < 5; round++) {
      const snapshot = await capture(source);
      check(snapshot);
      await rig.backend.openCheckpoint(snapshot.folder, { verify: true });
      const clone = await cloneOf(snapshot, `r${round}`);
      await withAgent(clone, async (agent) => {
        const [first, second] = (await said(agent, 'cat /first; echo; cat /second')).split('\n').map(Number);
        assert.ok(first! > 0 && (first === second || first === second! + 1), `${first} and ${second}`);
        await said(agent, 'rm -rf /churn && echo fine > /after');
      });
      await clone.destroy();
    }
  });

  test('a parked jail stays parked, a woken one wakes after the capture, and both are captured', async () => {
    const machine = await rig.clone('parked');
    const cgroups = await cgroupsOf(rig.machines);
    await withAgent(machine, (agent) => said(agent, 'echo here > /file'));
    await machine.park();
    const snapshot = await capture(machine);
    assert.equal(cgroups.freezing('parked').asked, true);
    const capturing = capture(machine);
    machine.unpark();
    await capturing;
    await until('it runs', () => !cgroups.freezing('parked').asked);
    await withAgent(machine, async (agent) => assert.equal(await said(agent, 'cat /file'), 'here'));
    await withAgent(await cloneOf(snapshot, 'woken'), async (agent) =>
      assert.equal(await said(agent, 'cat /file'), 'here'),
    );
  });

  test('one that is given up, at any moment, leaves nothing, and the jail runs', async () => {
    const machine = await rig.clone('abort');
    await withAgent(machine, async (agent) => {
      await said(agent, 'head -c 100M /dev/urandom > /big');
      await said(agent, CHURN);
    });
    let givenUp = 0;
    for (const delayMs of [undefined, 0, 5, 20, 50, 100, 200, 400]) {
      const signal = delayMs === undefined ? AbortSignal.abort() : AbortSignal.timeout(delayMs);
      await capture(machine, signal).catch((error) => {
        assert.ok(isCoppiceError(error, 'aborted'), String(error));
        givenUp++;
      });
      assert.deepEqual(leftOvers(rig, 'abort'), []);
      const { cpuSeconds } = await machine.usage();
      await until('it runs', async () => (await machine.usage()).cpuSeconds > cpuSeconds);
    }
    assert.ok(givenUp >= 2);
    check(await capture(machine));
  });

  test('two at once of one jail: the second is refused; of a jail that ends: refused, and nothing is left', async () => {
    const machine = await rig.clone('twice');
    await withAgent(machine, (agent) => said(agent, 'head -c 100M /dev/urandom > /big'));
    const first = capture(machine);
    await assert.rejects(capture(machine), (error) => isCoppiceError(error, 'conflict'));
    check(await first);
    const ending = capture(machine);
    const outcome = assert.rejects(ending, (error) => isCoppiceError(error, 'unavailable'));
    await machine.destroy();
    await outcome;
    await assert.rejects(capture(machine), (error) => isCoppiceError(error, 'unavailable'));
    assert.deepEqual(
      readdirSync(rig.home).filter((name) => name.startsWith('.partial-')),
      [],
    );
    assert.deepEqual(await rig.backend.census(rig.machines), []);
  });

  test('a layer that is truncated, missing or altered is refused by its name, another size of disk by that', async () => {
    const machine = await rig.clone('corrupt');
    const snapshot = await capture(machine);
    await assert.rejects(
      rig.backend.clone(snapshot, rig.image, await rig.spec('wide', { shape: { ...SHAPE, diskSizeMB: 512 } })),
      (error) => isCoppiceError(error, 'bad_request') && /diskSizeMB/.test(error.message),
    );
    const layer = join(snapshot.folder, 'layer');
    const corrupt = (error: unknown) => isCoppiceError(error, 'checkpoint_corrupt') && error.message.includes(layer);
    await chmod(layer, 0o600);
    const handle = await open(layer, 'r+');
    await handle.write('x', 100 * 2 ** 20 + 17);
    await handle.close();
    await rig.backend.openCheckpoint(snapshot.folder);
    await assert.rejects(rig.backend.openCheckpoint(snapshot.folder, { verify: true }), corrupt);
    truncateSync(layer, SHAPE.diskSizeMB * 2 ** 20 - 1);
    await assert.rejects(rig.backend.openCheckpoint(snapshot.folder), corrupt);
    await assert.rejects(cloneOf(snapshot, 'short'), corrupt);
    execFileSync('rm', [layer]);
    await assert.rejects(rig.backend.openCheckpoint(snapshot.folder), corrupt);
    await machine.destroy();
    for (const id of ['wide', 'short']) await rig.backend.sweep(id, rig.machines);
    assert.deepEqual(await rig.backend.census(rig.machines), []);
  });
});

function nextOut(rig: JailRig): string {
  return join(rig.home, `snapshot${captured++}`);
}

/** e2fsck finds nothing at all to say of it. */
function check({ folder }: Checkpoint): void {
  execFileSync('e2fsck', ['-f', '-n', join(folder, 'layer')], { stdio: 'pipe' });
}

/** Notes and unfinished folders. */
function leftOvers(rig: JailRig, id: string): readonly string[] {
  const note = join(rig.machines, id, 'capture.json');
  return [
    ...readdirSync(rig.home).filter((name) => name.startsWith('.partial-')),
    ...(existsSync(note) ? [`${basename(dirname(note))}: ${readFileSync(note, 'utf8')}`] : []),
  ];
}
