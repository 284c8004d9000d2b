/** What is left of jails that nobody remembers is counted, whatever it is, and swept, however often and whenever. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { commandLine, listPids } from '../../src/isolation/process-table.ts';
import type { MakerData } from '../helpers/jail-maker.ts';
import { cgroupsOf, eachRuntime, FIRST_UID, type JailRig, said, UIDS_EACH, withAgent } from '../helpers/jail-rig.ts';
import { until } from '../helpers/until.ts';

/** Ranges of users that the processes which are killed give to their jails. */
const DOOMED_UID = FIRST_UID + 2_000 * UIDS_EACH;
const ROUNDS = 16;

eachRuntime((rig) => {
  afterEach(() => rig.sweepAll());

  test('a jail is counted whole, and swept whole, without its record; twice is as once', async () => {
    const machine = await rig.clone('lost');
    await withAgent(machine, (agent) => said(agent, 'setsid sleep 999 > /dev/null 2>&1 & echo'));
    assert.deepEqual(await kinds(rig), ['cgroup lost', 'file lost', 'mount lost', 'process lost']);
    const later = rig.again();
    await later.sweep('lost', rig.machines);
    assert.deepEqual(await later.census(rig.machines), []);
    await later.sweep('lost', rig.machines);
    await later.sweep('neverwas', rig.machines);
    assert.deepEqual(await later.census(rig.machines), []);
    await machine.exited;
    assertNothing(rig);
  });

  test('a frozen one is swept, and its neighbour goes on', async () => {
    const [frozen, other] = await Promise.all([rig.clone('frozen'), rig.clone('other')]);
    await frozen.park();
    await rig.again().sweep('frozen', rig.machines);
    assert.deepEqual(
      (await rig.backend.census(rig.machines)).filter(({ id }) => id !== 'other'),
      [],
    );
    await withAgent(other, (agent) => agent.ping());
    await frozen.exited;
  });

  for (const [what, kind, make] of [
    [
      'a group',
      'cgroup',
      async () => (await cgroupsOf(rig.machines)).create('part', { memoryBytes: 2 ** 24, cpus: 1, tasks: 9 }),
    ],
    ['a folder', 'file', async () => mkdirSync(join(rig.machines, 'part', 'layer', 'upper'), { recursive: true })],
    [
      'what the runtime noted',
      'file',
      async () => {
        mkdirSync(join(rig.jails, 'state', 'part'), { recursive: true });
        writeFileSync(join(rig.jails, 'state', 'part', 'status'), '{"pid": 1}');
        writeFileSync(join(rig.jails, 'state', 'part', 'state.json'), '{"init_process_pid": 1}');
      },
    ],
  ] as const)
    test(`${what} alone is counted and swept`, async () => {
      await make();
      assert.deepEqual(await kinds(rig), [`${kind} part`]);
      await rig.backend.sweep('part', rig.machines);
      assert.deepEqual(await rig.backend.census(rig.machines), []);
      assertNothing(rig);
    });

  test('a group in a hierarchy that limits nothing is counted and swept', async (t) => {
    const groups = await cgroupsOf(rig.machines);
    const used = new Set(groups.folders('stray').map((folder) => folder.slice(0, -groups.path('stray').length)));
    const other = cgroupMounts().find((mount) => !used.has(mount));
    if (other === undefined) return t.skip('this host has no other hierarchy');
    mkdirSync(`${other}${groups.path('stray')}`, { recursive: true });
    assert.deepEqual(await kinds(rig), ['cgroup stray']);
    await rig.backend.sweep('stray', rig.machines);
    assert.deepEqual(await rig.backend.census(rig.machines), []);
  });

  test('what is no id is refused', async () => {
    for (const id of ['', '..', 'a/b', 'A', 'a'.repeat(33)])
      await assert.rejects(rig.backend.sweep(id, rig.machines), { code: 'bad_request' });
  });

  test('jails whose maker is killed at any point of their making are swept, and nothing comes after', async () => {
    for (let round = 0; round < ROUNDS; round++) {
      const maker = startMaker(rig, round);
      await maker.making;
      // Over the whole of a birth: evenly, so that each run meets each part of it.
      await sleep((round * 140) / ROUNDS);
      maker.kill('SIGKILL');
      await maker.gone;
      const later = rig.again();
      for (const id of new Set((await later.census(rig.machines)).map((item) => item.id)))
        await later.sweep(id, rig.machines);
      await until(`round ${round} is swept`, async () => (await later.census(rig.machines)).length === 0);
      // What was under way on its own when its maker died has failed, and left nothing later either.
      await until('nobody makes any more', () => strangers(rig).length === 0);
      assert.deepEqual(await later.census(rig.machines), [], `round ${round}`);
      assertNothing(rig);
    }
    const machine = await rig.clone('after');
    await withAgent(machine, (agent) => agent.ping());
  });

  test('jails whose maker is killed while it starts their agents are swept', async () => {
    for (let round = 0; round < 4; round++) {
      const maker = startMaker(rig, round, true);
      await maker.making;
      await sleep(60 + round * 40);
      maker.kill('SIGKILL');
      await maker.gone;
      const later = rig.again();
      for (const id of new Set((await later.census(rig.machines)).map((item) => item.id)))
        await later.sweep(id, rig.machines);
      await until(`round ${round} is swept`, async () => (await later.census(rig.machines)).length === 0);
      await until('nobody makes any more', () => strangers(rig).length === 0);
      assertNothing(rig);
    }
  });
});

async function kinds(rig: JailRig): Promise<string[]> {
  return [...new Set((await rig.backend.census(rig.machines)).map(({ kind, id }) => `${kind} ${id}`))].sort();
}

function cgroupMounts(): string[] {
  return readFileSync('/proc/self/mounts', 'utf8')
    .split('\n')
    .map((line) => line.split(' '))
    .filter(([, , type]) => type === 'cgroup' || type === 'cgroup2')
    .map(([, mount]) => mount!);
}

/** Nothing of the rig's machines is on the host, by the host's own tables and not by the backend's count. */
function assertNothing(rig: JailRig): void {
  assert.deepEqual(readdirSync(rig.machines), []);
  assert.deepEqual(readdirSync(join(rig.jails, 'state')), []);
  assert.ok(!readFileSync('/proc/self/mountinfo', 'utf8').includes(rig.machines));
}

/** Processes that name the rig's machines, or are users of the doomed, and still run. */
function strangers(rig: JailRig): number[] {
  return listPids().filter((pid) => {
    if (pid === process.pid) return false;
    const line = commandLine(pid);
    if (line.some((word) => word.includes(`${rig.machines}/half`))) return true;
    try {
      const [uid] = /^Uid:\s+(\d+)/m
        .exec(readFileSync(`/proc/${pid}/status`, 'utf8'))!
        .slice(1)
        .map(Number);
      return line.length > 0 && uid! >= DOOMED_UID && uid! < DOOMED_UID + 1_000 * UIDS_EACH;
    } catch {
      return false;
    }
  });
}

/** A process that makes jails, three at once, until it is killed; `making` when it has begun with the first. */
function startMaker(rig: JailRig, round: number, agents = false) {
  const data = {
    ...{ runtime: rig.runtime, jails: rig.jails, machines: rig.machines, golden: rig.golden.folder, image: rig.image },
    ...{ name: `half${round}`, firstUid: DOOMED_UID, agents },
  } satisfies MakerData;
  const program = join(import.meta.dirname, '..', 'helpers', 'jail-maker.ts');
  const child = spawn(process.execPath, ['--disable-warning=ExperimentalWarning', program, JSON.stringify(data)], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  return {
    making: new Promise<void>((resolve, reject) => {
      child.stdout.once('data', () => resolve());
      child.once('exit', () => reject(new Error('the maker ended by itself')));
    }),
    gone: new Promise<void>((resolve) => child.once('exit', () => resolve())),
    kill: (signal: NodeJS.Signals) => child.kill(signal),
  };
}
