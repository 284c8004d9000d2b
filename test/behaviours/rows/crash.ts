import assert from 'node:assert/strict';
import { setTimeout as sleep } from 'node:timers/promises';
import { Sandbox } from 'e2b';
import type { TestService } from '../../helpers/service.ts';
import { until } from '../../helpers/until.ts';
import { PATIENT, say } from '../support/asks.ts';
import type { Behaviour } from '../support/behaviour.ts';
import { firstProcessOf, processesOf } from '../support/processes.ts';

async function nodeIsBack(service: TestService, before: number): Promise<void> {
  await until('another node process', () => service.nodePid() !== 0 && service.nodePid() !== before, 60_000);
  const serves = (): Promise<boolean> =>
    service.node.status().then(
      (status) => status.ready,
      () => false,
    );
  await until('it serves', serves, 60_000);
}

export default [
  {
    name: 'SIGKILL of the node during creates: each is gone or whole, and nothing leaks',
    on: 'every kind',
    ownService: true,
    run: async ({ kind, service }) => {
      const mine = { metadata: { row: `creates ${kind.name}` } };
      await service.hot(1, kind.base);
      for (const delayMs of [0, 10, 40, 150]) {
        const node = service.nodePid();
        const creates = Array.from({ length: 3 }, () =>
          Sandbox.create(kind.base, { ...service.sdk, ...mine, requestTimeoutMs: 30_000 }).catch(() => undefined),
        );
        await sleep(delayMs);
        process.kill(node, 'SIGKILL');
        const made = (await Promise.all(creates)).filter((one) => one !== undefined);
        await nodeIsBack(service, node);
        for (const sandbox of made) {
          assert.equal(await sandbox.isRunning(), true, 'what was promised is there');
          assert.equal(await say(sandbox, 'echo whole'), 'whole');
          await sandbox.kill();
        }
        const left = await Sandbox.list({ ...service.sdk, query: mine }).nextItems();
        assert.deepEqual(left, [], 'a create that was not answered left no sandbox');
        assert.deepEqual((await service.leaks()).details, []);
      }
    },
  },
  {
    name: 'SIGKILL of the node while sandboxes run: they go on, with files, processes, code’s state, deadline',
    on: 'every kind',
    ownService: true,
    run: async ({ sandbox: create, codeSandbox, service }) => {
      const sandbox = await create({ timeoutMs: 600_000 });
      const coder = await codeSandbox();
      await coder.runCode('kept = 7', PATIENT);
      await sandbox.files.write('kept.txt', 'kept');
      const sleeper = await sandbox.commands.run('exec sleep 1000', { background: true, timeoutMs: 0 });
      const node = service.nodePid();
      process.kill(node, 'SIGKILL');
      await sleeper.wait().catch(() => {});
      await nodeIsBack(service, node);
      assert.equal(await sandbox.files.read('kept.txt'), 'kept');
      const pids = (await sandbox.commands.list()).map((one) => one.pid);
      assert.ok(pids.includes(sleeper.pid), 'its process lives');
      const joined = await sandbox.commands.connect(sleeper.pid, { timeoutMs: 0 });
      const ended = assert.rejects(joined.wait());
      assert.equal(await sandbox.commands.kill(sleeper.pid), true, 'and can be spoken to');
      await ended;
      assert.equal((await coder.runCode('kept', PATIENT)).text, '7');
      assert.ok((await sandbox.getInfo()).endAt.getTime() > Date.now() + 300_000);
    },
  },
  {
    name: 'SIGKILL of a sandbox’s first process: gone at once, its streams cut, nothing left',
    on: 'every kind',
    run: async ({ sandbox: create, service }) => {
      const sandbox = await create();
      const hanging = sandbox.commands.run('sleep 1000', { timeoutMs: 0 });
      const cut = assert.rejects(hanging);
      await until('it runs', async () => (await sandbox.commands.list()).length === 1, 30_000);
      process.kill(firstProcessOf(sandbox.sandboxId), 'SIGKILL');
      await cut;
      await until('it does not run', async () => !(await sandbox.isRunning()), 10_000);
      await until('nothing of it is left', async () => (await service.leaks()).details.length === 0, 30_000);
      assert.deepEqual(processesOf(sandbox.sandboxId), []);
      assert.equal(await Sandbox.kill(sandbox.sandboxId, service.sdk), false);
    },
  },
  {
    name: 'a deadline that passes while the node is dead is kept by the next one',
    on: 'every kind',
    ownService: true,
    run: async ({ sandbox: create, service }) => {
      const sandbox = await create({ timeoutMs: 2_000 });
      const node = service.nodePid();
      process.kill(node, 'SIGSTOP');
      await sleep(2_500);
      assert.ok(processesOf(sandbox.sandboxId).length > 0, 'nobody was there to end it');
      process.kill(node, 'SIGKILL');
      await nodeIsBack(service, node);
      await until('it is ended', () => processesOf(sandbox.sandboxId).length === 0, 10_000);
    },
  },
  {
    name: 'an agent that is stopped answers nothing, harms nobody, and its sandbox can be killed',
    on: 'every kind',
    run: async ({ sandbox: create, service }) => {
      const [sandbox, other] = await Promise.all([create(), create()]);
      // The brackets keep the pattern from matching the command line that it is in.
      const stop = "sudo pkill -STOP -f 'agent/main[.]js'";
      await sandbox.commands.run(stop, { timeoutMs: 5_000 }).catch(() => {});
      await assert.rejects(sandbox.commands.run('echo anybody', { timeoutMs: 2_000, requestTimeoutMs: 4_000 }));
      assert.equal(await say(other, 'echo me'), 'me');
      assert.equal(await sandbox.kill(), true);
      await until('nothing of it is left', () => processesOf(sandbox.sandboxId).length === 0, 10_000);
      await until('nothing leaks', async () => (await service.leaks()).details.length === 0, 10_000);
    },
  },
] satisfies Behaviour[];
