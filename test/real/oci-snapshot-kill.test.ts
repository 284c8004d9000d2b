/**
 * A node that is killed while it captures a disk: the node after it finds the jail, which goes on as before, and nothing is
 * left of the capture. This file is also the node that is killed.
 */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, test } from 'node:test';
import type { MachineRecord } from '../../src/isolation/backend.ts';
import { createOciBackend } from '../../src/isolation/jail/oci/driver.ts';
import type { RuntimeName } from '../../src/isolation/jail/oci/runtime.ts';
import { silentLog } from '../../src/telemetry/log.ts';
import {
  baseImage,
  cgroupsOf,
  eachRuntime,
  FIRST_UID,
  type JailRig,
  SHAPE,
  said,
  withAgent,
} from '../helpers/jail-rig.ts';
import { until } from '../helpers/until.ts';

/** Enough to compare, and always something to compare it for: a pause that the watching child cannot miss. */
const WRITES =
  'head -c 100M /dev/urandom > /big; setsid bash -c "while :; do date > /tick; done" >/dev/null 2>&1 & echo kept > /file';

interface Order {
  readonly home: string;
  readonly jails: string;
  readonly machines: string;
  readonly runtime: RuntimeName;
  readonly record: MachineRecord;
  /** Dies when the work folder is there, or when the jail stands still. */
  readonly at: 'copy' | 'pause';
}

if (process.argv[2] === '--node') await beNode(JSON.parse(process.argv[3]!) as Order);
else
  eachRuntime((rig) => {
    afterEach(() => rig.sweepAll());

    for (const at of ['copy', 'pause'] as const)
      test(`killed in the ${at}: the jail is found and goes on, and can be captured`, async () => {
        const machine = await rig.clone(`kill${at}`);
        await withAgent(machine, (agent) => said(agent, WRITES));
        await dieCapturing(rig, machine.record, at);
        assert.equal(await isFrozen(rig, machine.id), at === 'pause');
        assert.notDeepEqual(unfinished(rig), []);
        const backend = rig.again();
        const found = (await backend.adopt(machine.record))!;
        assert.equal(await isFrozen(rig, machine.id), false);
        assert.deepEqual(unfinished(rig), []);
        assert.equal(existsSync(join(machine.record.folder, 'capture.json')), false);
        await withAgent(found, async (agent) => assert.equal(await said(agent, 'cat /file'), 'kept'));
        const { checkpoint: snapshot } = await backend.capture!(found, rig.wish(), join(rig.home, `after-${at}`));
        await backend.openCheckpoint(snapshot.folder, { verify: true });
      });

    test('killed while it captures a parked jail: it is found parked', async () => {
      const machine = await rig.clone('killparked');
      await machine.park();
      await until('it is frozen', () => isFrozen(rig, machine.id));
      await dieCapturing(rig, machine.record, 'copy');
      const found = (await rig.again().adopt(machine.record))!;
      assert.equal(await isFrozen(rig, machine.id), true);
      assert.deepEqual(unfinished(rig), []);
      found.unpark();
      await withAgent(found, async (agent) => assert.equal(await said(agent, 'echo back'), 'back'));
    });

    test('killed in the pause and swept: nothing is left', async () => {
      const machine = await rig.clone('killswept');
      await withAgent(machine, (agent) => said(agent, WRITES));
      await dieCapturing(rig, machine.record, 'pause');
      const backend = rig.again();
      await backend.sweep(machine.id, rig.machines);
      assert.deepEqual(await backend.census(rig.machines), []);
      assert.deepEqual(unfinished(rig), []);
    });
  });

function unfinished(rig: JailRig): readonly string[] {
  return readdirSync(rig.home).filter((name) => name.startsWith('.partial-'));
}

async function isFrozen(rig: { readonly machines: string }, id: string): Promise<boolean> {
  return (await cgroupsOf(rig.machines)).freezing(id).asked;
}

async function dieCapturing({ home, jails, machines, runtime }: JailRig, record: MachineRecord, at: Order['at']) {
  const order: Order = { home, jails, machines, runtime, record, at };
  const child = spawn(
    process.execPath,
    ['--disable-warning=ExperimentalWarning', import.meta.filename, '--node', JSON.stringify(order)],
    { stdio: ['ignore', 'inherit', 'inherit'], env: { ...process.env, NODE_TEST_CONTEXT: '' } },
  );
  const [code, signal] = await new Promise<[number | null, string | null]>((resolve) => {
    child.once('exit', (...end) => resolve(end));
  });
  assert.deepEqual([code, signal], [null, 'SIGKILL']);
}

async function beNode({ home, jails, machines, runtime, record, at }: Order): Promise<void> {
  const uids = { first: FIRST_UID, slots: 4_096 };
  const backend = createOciBackend({ log: silentLog, folder: jails, uids, runtimes: [runtime] });
  const machine = (await backend.adopt(record))!;
  const cgroups = await cgroupsOf(machines);
  const due = () =>
    at === 'pause' ? cgroups.freezing(record.id).asked : readdirSync(home).some((name) => name.startsWith('.partial-'));
  const watch = (): void => {
    if (due()) process.kill(process.pid, 'SIGKILL');
    setImmediate(watch);
  };
  watch();
  const image = await baseImage();
  const base = await backend.openCheckpoint(join(home, 'golden'));
  const wish = { image, shape: SHAPE, base, memory: false, goesOn: true };
  await backend.capture!(machine, wish, join(home, 'never'));
  process.exit(0);
}
