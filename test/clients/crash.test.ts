import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import test from 'node:test';
import { Sandbox } from 'e2b';
import { listPids } from '../../src/isolation/process-table.ts';
import { startService } from '../helpers/service.ts';
import { until } from '../helpers/until.ts';

const service = await startService({ COPPICE_POOL: '1', COPPICE_POOL_MOST: '2' });
test.after(async () => assert.deepEqual((await service.stop()).details, []));

/** Pids of the VMM that holds this sandbox's folder. */
function vmmsOf(sandboxID: string): number[] {
  return listPids().filter((pid) => {
    try {
      const command = readFileSync(`/proc/${pid}/cmdline`, 'utf8');
      return command.startsWith('qemu-system') && command.includes(sandboxID);
    } catch {
      return false;
    }
  });
}

async function nodeIsBack(before: number): Promise<void> {
  await until('another node process', () => service.nodePid() !== 0 && service.nodePid() !== before, 60_000);
  await until(
    'it serves',
    () =>
      service.node.status().then(
        (status) => status.ready,
        () => false,
      ),
    60_000,
  );
}

test('SIGKILL of the node during creates: each is gone or whole, and nothing leaks', async () => {
  await service.hot(1);
  for (const delayMs of [0, 5, 20, 60, 150]) {
    const node = service.nodePid();
    const creates = Array.from({ length: 3 }, () =>
      Sandbox.create('base', { ...service.sdk, requestTimeoutMs: 30_000 }).catch(() => undefined),
    );
    await new Promise((resolve) => setTimeout(resolve, delayMs));
    process.kill(node, 'SIGKILL');
    const made = (await Promise.all(creates)).filter((one) => one !== undefined);
    await nodeIsBack(node);
    for (const sandbox of made) {
      assert.equal(await sandbox.isRunning(), true, 'what was promised is there');
      assert.equal((await sandbox.commands.run('echo whole', { timeoutMs: 120_000 })).stdout, 'whole\n');
      await sandbox.kill();
    }
    const left = await Sandbox.list(service.sdk).nextItems();
    assert.deepEqual(left, [], 'a create that was not answered left no sandbox');
    assert.deepEqual((await service.leaks()).details, []);
  }
});

test('SIGKILL of the node while sandboxes run: they go on, with files, processes and deadline', async () => {
  const sandbox = await Sandbox.create('base', { ...service.sdk, timeoutMs: 600_000 });
  await sandbox.files.write('kept.txt', 'kept');
  const sleeper = await sandbox.commands.run('exec sleep 1000', { background: true, timeoutMs: 0 });
  const node = service.nodePid();
  process.kill(node, 'SIGKILL');
  await sleeper.wait().catch(() => {});
  await nodeIsBack(node);
  assert.equal(await sandbox.files.read('kept.txt'), 'kept');
  assert.ok(
    (await sandbox.commands.list()).some((one) => one.pid === sleeper.pid),
    'its process lives',
  );
  assert.ok((await sandbox.getInfo()).endAt.getTime() > Date.now() + 300_000);
  await sandbox.kill();
});

test('SIGKILL of a VMM while its sandbox runs: gone at once, answered 502, nothing left', async () => {
  const sandbox = await Sandbox.create('base', service.sdk);
  const [vmm] = vmmsOf(sandbox.sandboxId);
  assert.ok(vmm, 'its VMM is found');
  const hanging = sandbox.commands.run('sleep 1000', { timeoutMs: 0 });
  const cut = assert.rejects(hanging);
  process.kill(vmm, 'SIGKILL');
  await cut;
  await until('it does not run', async () => !(await sandbox.isRunning()), 10_000);
  await until('nothing of it is left', async () => (await service.leaks()).details.length === 0, 30_000);
  assert.equal(await Sandbox.kill(sandbox.sandboxId, service.sdk), false);
});

test('a deadline that passes while the node is dead is kept by the next one', async () => {
  const sandbox = await Sandbox.create('base', { ...service.sdk, timeoutMs: 2_000 });
  const node = service.nodePid();
  process.kill(node, 'SIGSTOP');
  await new Promise((resolve) => setTimeout(resolve, 2_500));
  assert.equal(vmmsOf(sandbox.sandboxId).length, 1, 'nobody was there to end it');
  process.kill(node, 'SIGKILL');
  await nodeIsBack(node);
  assert.equal(vmmsOf(sandbox.sandboxId).length, 0);
});

test('a sandbox ends within a second of its deadline', async () => {
  const sandbox = await Sandbox.create('base', { ...service.sdk, timeoutMs: 3_000 });
  const { endAt } = await sandbox.getInfo();
  await until('it is gone', async () => !(await sandbox.isRunning()), 10_000);
  const late = Date.now() - endAt.getTime();
  assert.ok(late >= 0 && late < 1_000, `${late} ms after its deadline`);
});

test('a guest whose agent is stopped answers nothing, harms nobody, and can be killed', async () => {
  const sandbox = await Sandbox.create('base', service.sdk);
  const other = await Sandbox.create('base', service.sdk);
  // The agent is the child of PID 1.
  const stop = 'sudo pkill -STOP -P 1 -f agent/main.js';
  await sandbox.commands.run(stop, { timeoutMs: 5_000 }).catch(() => {});
  await assert.rejects(sandbox.commands.run('echo anybody', { timeoutMs: 2_000, requestTimeoutMs: 4_000 }));
  assert.equal((await other.commands.run('echo me', { timeoutMs: 120_000 })).stdout, 'me\n');
  assert.equal(await sandbox.kill(), true);
  await other.kill();
  assert.deepEqual((await service.leaks()).details, []);
});
