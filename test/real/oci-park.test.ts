/** A jail is frozen, thawed, found again by its record, and ended in any of these states. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { afterEach, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { connectAgent } from '../../src/channel/client.ts';
import type { Machine } from '../../src/isolation/backend.ts';
import { isAlive, readProcess } from '../../src/isolation/process-table.ts';
import { cgroupsOf, eachRuntime, type JailRig, said, sh, withAgent } from '../helpers/jail-rig.ts';
import { until } from '../helpers/until.ts';

const BUSY = 'setsid bash -c "while :; do :; done" >/dev/null 2>&1 & echo';

eachRuntime((rig) => {
  afterEach(() => rig.sweepAll());

  test('a parked jail uses no CPU, keeps its sessions, and goes on when woken', async () => {
    const machine = await rig.clone('park');
    const agent = await connectAgent(await machine.openChannel(), { deadlineMs: 20_000 });
    await said(agent, BUSY);
    const start = (await machine.usage()).cpuSeconds;
    await until('it is busy', async () => (await machine.usage()).cpuSeconds > start + 0.1);
    await machine.park();
    await machine.park();
    await frozen(rig, 'park');
    const { cpuSeconds } = await machine.usage();
    await sleep(700);
    assert.equal((await machine.usage()).cpuSeconds, cpuSeconds);
    machine.unpark();
    machine.unpark();
    assert.equal(await said(agent, 'echo back'), 'back');
    await until('it is busy again', async () => (await machine.usage()).cpuSeconds > cpuSeconds + 0.1);
    agent.close();
  });

  test('woken while it is being parked, it runs, however often', async () => {
    const machine = await rig.clone('race');
    await withAgent(machine, async (agent) => {
      await said(agent, BUSY);
      for (let round = 0; round < 50; round++) {
        void machine.park();
        machine.unpark();
        if (round % 10 === 0) await agent.ping(AbortSignal.timeout(10_000));
      }
      assert.equal(await said(agent, 'echo runs'), 'runs');
    });
  });

  test('a frozen jail is destroyed, with an agent, with a session and without either', async () => {
    const bare = await rig.clone('bare');
    await bare.park();
    const spoken = await rig.clone('spoken');
    await withAgent(spoken, (agent) => said(agent, BUSY));
    await spoken.park();
    const speaking = await rig.clone('speaking');
    const agent = await connectAgent(await speaking.openChannel(), { deadlineMs: 20_000 });
    await speaking.park();
    for (const id of ['bare', 'spoken', 'speaking']) await frozen(rig, id);
    const machines = [bare, spoken, speaking];
    const start = performance.now();
    await Promise.all(machines.map((machine) => machine.destroy()));
    const passed = performance.now() - start;
    assert.ok(passed < 5_000, `${passed} ms`);
    await agent.closed;
    for (const machine of machines) await machine.destroy();
    await Promise.all(machines.map(({ exited }) => exited));
    assert.deepEqual(await rig.backend.census(rig.machines), []);
  });

  test('after its end a machine says so, by that name, and parking it is nothing', async () => {
    const machine = await rig.clone('ended');
    await machine.destroy();
    await assert.rejects(machine.openChannel(), { code: 'unavailable' });
    await assert.rejects(machine.usage(), { code: 'unavailable' });
    await machine.park();
    machine.unpark();
    const killed = await rig.clone('killed');
    process.kill(killed.record.pid, 'SIGKILL');
    await killed.exited;
    await assert.rejects(killed.openChannel(), { code: 'unavailable' });
    await killed.destroy();
    assert.deepEqual(await rig.backend.census(rig.machines), []);
  });

  test('a jail that ends by itself is seen, and its channel ends', async () => {
    const machine = await rig.clone('self');
    const agent = await connectAgent(await machine.openChannel(), { deadlineMs: 20_000 });
    const start = performance.now();
    process.kill(machine.record.pid, 'SIGKILL');
    assert.ok((await machine.exited).reason.length > 0);
    await agent.closed;
    assert.ok(performance.now() - start < 10_000);
    await machine.destroy();
  });

  test('root inside cannot end its first process', async () => {
    const machine = await rig.clone('init');
    await withAgent(machine, async (agent) => {
      await sh(agent, 'for signal in $(seq 1 64); do kill -$signal 1; done');
      await agent.ping();
    });
    assert.ok(isAlive({ pid: machine.record.pid, startTime: machine.record.pidStartTime }));
    assert.notEqual(readProcess(machine.record.pid)?.state, 'T');
  });

  test('by its record another node finds it, frozen or not, and the same agent answers', async () => {
    const machine = await rig.clone('adopt');
    await withAgent(machine, (agent) => said(agent, 'echo kept > ~/kept; echo $PPID > ~/agent'));
    await machine.park();
    await frozen(rig, 'adopt');
    const record = JSON.parse(JSON.stringify(machine.record));
    const later = rig.again();
    const found = (await later.adopt(record))!;
    assert.deepEqual(found.record, record);
    found.unpark();
    await withAgent(found, async (agent) =>
      assert.equal(await said(agent, 'cat ~/kept; [ $PPID = $(cat ~/agent) ] && echo same'), 'kept\nsame'),
    );
    assert.ok((await found.usage()).privateBytes > 0);
    await found.destroy();
    await machine.exited;
    assert.equal(await later.adopt(record), undefined);
    assert.deepEqual(await later.census(rig.machines), []);
  });

  test('an agent is started for the first time by the node that adopts', async () => {
    const { record } = await rig.clone('fresh');
    const found = (await rig.again().adopt(record))!;
    await withAgent(found, async (agent) => assert.equal(await said(agent, 'hostname'), 'host-fresh'));
    await found.destroy();
  });

  test('a record of another process, jail, time or backend is refused', async () => {
    const machine = await rig.clone('mine');
    const other = await rig.clone('other');
    const { record } = machine;
    const own = readProcess(process.pid)!;
    const wrong: readonly Machine['record'][] = [
      { ...record, pidStartTime: String(Number(record.pidStartTime) + 1) },
      { ...record, pid: process.pid },
      { ...record, pid: own.pid, pidStartTime: own.startTime },
      { ...record, pid: other.record.pid, pidStartTime: other.record.pidStartTime },
      { ...record, id: 'absent' },
      { ...record, backend: 'qemu' },
      { ...record, pid: 0 },
      { ...record, pid: -1 },
    ];
    for (const each of wrong) assert.equal(await rig.backend.adopt(each), undefined, JSON.stringify(each));
    assert.ok(isAlive({ pid: record.pid, startTime: record.pidStartTime }));
    assert.ok(await rig.backend.adopt(record));
  });
});

/** Until every process of the jail has stopped. */
async function frozen(rig: JailRig, id: string): Promise<void> {
  const folders = (await cgroupsOf(rig.machines)).folders(id);
  await until(`${id} is frozen`, () =>
    folders.some((folder) => {
      for (const [file, state] of [
        ['freezer.state', /^FROZEN/],
        ['cgroup.events', /^frozen 1$/m],
      ] as const)
        try {
          if (state.test(readFileSync(`${folder}/${file}`, 'utf8'))) return true;
        } catch {
          // The other version's.
        }
      return false;
    }),
  );
}
