/** What a jail may hold of disk, memory and tasks ends where its shape says, hurts nobody else, and comes back. */
import assert from 'node:assert/strict';
import { readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, test } from 'node:test';
import { isAlive } from '../../src/isolation/process-table.ts';
import { cgroupsOf, eachRuntime, SHAPE, said, sh, withAgent } from '../helpers/jail-rig.ts';
import { until } from '../helpers/until.ts';

const MB = 2 ** 20;

eachRuntime((rig) => {
  afterEach(() => rig.sweepAll());

  test('the disk is as large as was sold, ends there with ENOSPC, and gives back what is removed', async () => {
    const machine = await rig.clone('disk');
    const layer = join(rig.machines, 'disk', 'layer.ext4');
    const held = () => statSync(layer).blocks * 512;
    const blank = held();
    assert.ok(blank < 2 * MB, `a blank layer holds ${blank} bytes of the host's disk`);
    await withAgent(machine, async (agent) => {
      const [size, free] = (await said(agent, 'df -B1 --output=size,avail / | tail -1')).split(/\s+/).map(Number);
      assert.ok(size! > 0.9 * SHAPE.diskSizeMB * MB && size! <= SHAPE.diskSizeMB * MB, `${size} bytes`);
      assert.ok(free! > 0.9 * size!, `${free} of ${size} free`);
      const full = await sh(agent, 'head -c 400M /dev/urandom > /home/user/big', 'user');
      assert.notEqual(full.code, 0);
      assert.match(full.output, /No space left on device/);
      const [written] = (await said(agent, 'stat -c %s /home/user/big')).split(/\s+/).map(Number);
      assert.ok(written! > 0.9 * free! && written! <= size!, `${written} bytes`);
      // It goes on working, and root inside has no more.
      assert.notEqual((await sh(agent, 'head -c 40M /dev/urandom > ~/more')).code, 0);
      await said(agent, 'sync');
      assert.ok(held() <= (SHAPE.diskSizeMB + 2) * MB, `${held()} bytes`);
      assert.ok(held() > 0.8 * written!);
      await said(agent, 'rm /home/user/big ~/more; sync; echo fine > ~/fine');
      await until('the host has its space back', () => held() < 16 * MB, 20_000);
    });
    await machine.destroy();
    assert.throws(() => statSync(layer), { code: 'ENOENT' });
  });

  test('a full disk of one jail is no other’s, and a layer is not seen by its neighbour', async () => {
    const [full, other] = await Promise.all([rig.clone('full'), rig.clone('other')]);
    await withAgent(full, (agent) => sh(agent, 'head -c 400M /dev/zero > /big; echo here > /etc/mark'));
    await withAgent(other, async (agent) => {
      assert.equal(await said(agent, 'head -c 64M /dev/urandom > /mine; stat -c %s /mine'), String(64 * MB));
      assert.notEqual((await sh(agent, 'test -e /etc/mark')).code, 0);
    });
  });

  test('what the tmpfs of a jail hold counts as its memory', async () => {
    const machine = await rig.clone('tmpfs');
    await withAgent(machine, async (agent) => {
      const before = (await machine.usage()).privateBytes;
      await said(agent, 'head -c 64M /dev/urandom > /dev/shm/x');
      assert.ok((await machine.usage()).privateBytes - before > 60 * MB);
      // Each is bounded by itself too.
      assert.match((await sh(agent, 'head -c 300M /dev/zero > /run/x')).output, /No space left|Killed|^$/);
      assert.ok((await machine.usage()).privateBytes <= SHAPE.memoryMB * MB);
      for (const folder of ['/dev', '/sys']) await sh(agent, `head -c 10M /dev/zero > ${folder}/x`);
      assert.equal(await said(agent, 'find /dev /sys -maxdepth 1 -name x -size +100k'), '');
    });
  });

  test('who takes too much memory is killed, and the jail lives', async () => {
    const machine = await rig.clone('memory');
    const neighbour = await rig.clone('neighbour');
    await withAgent(machine, async (agent) => {
      const bomb = await agent.spawn({
        cmd: '/bin/bash',
        args: ['-c', 'x=$(head -c 900M /dev/zero | tr "\\0" x); echo -n "$x" | wc -c'],
        stdin: false,
        user: 'user',
      });
      let output = '';
      for await (const event of bomb.output) output += event.type === 'data' ? Buffer.from(event.bytes).toString() : '';
      assert.doesNotMatch(output, /^943718400$/m);
      assert.equal(await said(agent, 'echo lives'), 'lives');
    });
    const groups = await cgroupsOf(rig.machines);
    const read = (file: string) => {
      for (const folder of groups.folders('memory'))
        try {
          return readFileSync(`${folder}/${file}`, 'utf8');
        } catch {}
      return '';
    };
    assert.match(`${read('memory.oom_control')}${read('memory.events')}`, /oom_kill [1-9]/);
    for (const { record } of [machine, neighbour])
      assert.ok(isAlive({ pid: record.pid, startTime: record.pidStartTime }));
    await withAgent(neighbour, (agent) => agent.ping());
  });

  test('a fork bomb ends at the limit of tasks, and the jail with it when it is destroyed', async () => {
    const machine = await rig.clone('forks', { shape: { ...SHAPE, memoryMB: 2_048 } });
    const neighbour = await rig.clone('calm');
    await withAgent(machine, async (agent) => {
      await sh(agent, 'setsid bash -c "b() { b | b & }; b" >/dev/null 2>&1 & echo', 'user');
      await until('tasks are at their limit', () => denied('forks').then((count) => count > 0), 60_000);
      assert.ok((await rig.pids('forks')).length <= 2_048);
      await withAgent(neighbour, (other) => said(other, 'echo calm'));
    });
    const start = performance.now();
    await machine.destroy();
    assert.ok(performance.now() - start < 20_000);
    assert.deepEqual(await rig.pids('forks'), []);
  });

  test('usage: an idle jail is small, what works is counted, and only its own', async () => {
    const idle = await rig.clone('idle');
    const busy = await rig.clone('busy');
    const before = await idle.usage();
    assert.ok(before.privateBytes > 0 && before.privateBytes < 2 * MB, `${before.privateBytes} bytes untouched`);
    assert.ok(before.cpuSeconds < 1);
    await withAgent(busy, async (agent) => {
      const was = await busy.usage();
      await said(agent, 'timeout 0.5 bash -c "while :; do :; done"; true');
      assert.ok((await busy.usage()).cpuSeconds - was.cpuSeconds > 0.2);
    });
    assert.equal((await idle.usage()).cpuSeconds, before.cpuSeconds);
  });

  test('two processors are two, and one is one', async () => {
    const one = await rig.clone('one');
    await withAgent(one, async (agent) => {
      const was = (await one.usage()).cpuSeconds;
      const start = performance.now();
      await said(agent, 'for i in 1 2 3; do timeout 2 bash -c "while :; do :; done" & done; wait; true');
      const cores = ((await one.usage()).cpuSeconds - was) / ((performance.now() - start) / 1000);
      assert.ok(cores < 1.2, `${cores} cores`);
    });
  });

  /** Times that the limit of tasks has refused one. */
  async function denied(id: string): Promise<number> {
    for (const folder of (await cgroupsOf(rig.machines)).folders(id))
      try {
        return Number(/^max (\d+)/m.exec(readFileSync(`${folder}/pids.events`, 'utf8'))?.[1] ?? 0);
      } catch {}
    return 0;
  }
});
