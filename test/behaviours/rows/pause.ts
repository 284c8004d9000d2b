import assert from 'node:assert/strict';
import { setTimeout as sleep } from 'node:timers/promises';
import { NotFoundError, Sandbox } from 'e2b';
import { until } from '../../helpers/until.ts';
import { PATIENT, say } from '../support/asks.ts';
import type { Behaviour } from '../support/behaviour.ts';
import { processesOf } from '../support/processes.ts';

/** What a page of the sandbox's own answers, through the edge. */
const page = async (url: string, sandboxID: string, port: number): Promise<{ status: number; body: string }> => {
  const headers = { 'E2b-Sandbox-Id': sandboxID, 'E2b-Sandbox-Port': String(port) };
  const response = await fetch(`${url}/`, { headers, signal: AbortSignal.timeout(60_000) });
  return { status: response.status, body: await response.text() };
};

export default [
  {
    name: 'paused and resumed: files, processes and open shells kept, the time right, by the same id and token',
    on: 'every kind',
    run: async ({ sandbox: create, service }) => {
      const sandbox = await create({ metadata: { a: 'b' }, envs: { MINE: 'yes' } });
      const handle = await sandbox.commands.run('exec sleep 1000', { background: true, timeoutMs: 0 });
      await handle.disconnect();
      await sandbox.files.write('kept', 'kept');
      await say(sandbox, 'echo memory > /dev/shm/kept; sync');
      assert.equal(await sandbox.pause(PATIENT), true);
      assert.equal(await sandbox.pause(), false, 'it is paused already');
      assert.equal((await sandbox.getInfo()).state, 'paused');
      assert.equal(await sandbox.isRunning(), false);
      await assert.rejects(sandbox.commands.run('echo nobody'));
      await sleep(1_500);
      const again = await Sandbox.connect(sandbox.sandboxId, { ...service.sdk, ...PATIENT });
      assert.equal(await again.files.read('kept'), 'kept');
      assert.ok((await again.commands.list()).some((one) => one.pid === handle.pid));
      assert.equal(await say(again, 'cat /dev/shm/kept; echo $MINE; hostname'), `memory\nyes\n${sandbox.sandboxId}`);
      const skew = Math.abs(Number(await say(again, 'date +%s%3N')) - Date.now());
      assert.ok(skew < 5_000, `its clock is off by ${skew} ms`);
      assert.deepEqual((await again.getInfo()).metadata, { a: 'b' });
      const joined = await again.commands.connect(handle.pid, { timeoutMs: 0 });
      const ended = assert.rejects(joined.wait());
      assert.equal(await again.commands.kill(handle.pid), true);
      await ended;
    },
  },
  {
    name: 'code goes on after a pause where it was',
    on: 'every kind',
    run: async ({ codeSandbox: create }) => {
      const sandbox = await create();
      await sandbox.runCode('x = 41', PATIENT);
      await sandbox.pause(PATIENT);
      await sandbox.connect(PATIENT);
      assert.equal((await sandbox.runCode('x + 1', PATIENT)).text, '42');
    },
  },
  {
    name: 'paused without its memory: it boots when it is resumed, with its files, as the same machine to its programs',
    on: 'every kind',
    run: async ({ sandbox: create }) => {
      const sandbox = await create();
      await sandbox.files.write('kept', 'kept');
      await say(sandbox, 'echo gone > /dev/shm/gone');
      const machine = await say(sandbox, 'cat /etc/machine-id');
      await sandbox.commands.run('exec sleep 1000', { background: true, timeoutMs: 0 }).then((one) => one.disconnect());
      assert.equal(await sandbox.pause({ ...PATIENT, keepMemory: false }), true);
      assert.deepEqual(processesOf(sandbox.sandboxId), [], 'nothing of it is on the host');
      await sandbox.connect(PATIENT);
      assert.equal(await sandbox.files.read('kept'), 'kept');
      assert.equal(await say(sandbox, 'ls /dev/shm'), '');
      assert.equal(await say(sandbox, 'cat /etc/machine-id; hostname'), `${machine}\n${sandbox.sandboxId}`);
      assert.deepEqual(await sandbox.commands.list(), []);
    },
  },
  {
    name: 'paused at its deadline when it was created so, and killed while it is paused',
    on: 'every kind',
    run: async ({ sandbox: create, service }) => {
      const sandbox = await create({ timeoutMs: 2_000, lifecycle: { onTimeout: 'pause' } });
      const state = async (): Promise<string> => (await Sandbox.getInfo(sandbox.sandboxId, service.sdk)).state;
      await until('it is paused', async () => (await state()) === 'paused', 30_000);
      assert.equal(await Sandbox.kill(sandbox.sandboxId, service.sdk), true);
      await assert.rejects(state(), NotFoundError);
      await until('nothing leaks', async () => (await service.leaks()).details.length === 0, 10_000);
    },
  },
  {
    name: 'traffic resumes it, and every request that came meanwhile is answered',
    on: 'every kind',
    run: async ({ sandbox: create, service }) => {
      const sandbox = await create({ lifecycle: { onTimeout: 'pause', autoResume: true } });
      const id = sandbox.sandboxId;
      await sandbox.files.write('index.html', 'hello');
      const serve = 'exec python3 -m http.server 8099 --directory /home/user';
      await sandbox.commands.run(serve, { background: true, timeoutMs: 0 }).then((one) => one.disconnect());
      await until('it serves', async () => (await page(service.url, id, 8_099)).status === 200, 60_000);
      await sandbox.pause(PATIENT);
      const answers = await Promise.all(Array.from({ length: 10 }, () => page(service.url, id, 8_099)));
      assert.deepEqual(new Set(answers.map(({ status }) => status)), new Set([200]));
      assert.equal((await sandbox.getInfo()).state, 'running');
      await sandbox.pause(PATIENT);
      assert.equal(await say(sandbox, 'echo back'), 'back', 'a command of its owner does it too');
    },
  },
  {
    name: 'after everything was killed: what is paused on disk has its memory, the rest is lost or paused, as its owner wished',
    on: 'every kind',
    ownService: true,
    run: async ({ kind, sandbox: create, codeSandbox, service }) => {
      // A jail that is paused with its memory is held by the host, and ends with it.
      const coder = kind.ownKernel ? await codeSandbox() : undefined;
      await coder?.runCode('kept = 7', PATIENT);
      await coder?.pause(PATIENT);
      const wished = await create({ lifecycle: { onTimeout: 'pause' } });
      await wished.files.write('kept', 'kept');
      await say(wished, 'sync; echo gone > /dev/shm/gone');
      const lost = await create();
      const node = service.nodePid();
      const all = [wished, lost].flatMap(({ sandboxId }) => processesOf(sandboxId));
      process.kill(node, 'SIGKILL');
      for (const pid of all) process.kill(pid, 'SIGKILL');
      const serves = async (): Promise<boolean> => {
        const status = await service.node.status().catch(() => undefined);
        return service.nodePid() !== node && status?.ready === true;
      };
      await until('another node serves', serves, 60_000);
      await assert.rejects(lost.getInfo(), NotFoundError, 'it is told that it is lost');
      assert.equal((await wished.getInfo()).state, 'paused', 'its owner wants it paused rather than ended');
      await wished.connect(PATIENT);
      assert.equal(await wished.files.read('kept'), 'kept');
      assert.equal(await say(wished, 'ls /dev/shm'), '');
      if (!coder) return;
      await coder.connect(PATIENT);
      assert.equal((await coder.runCode('kept', PATIENT)).text, '7');
    },
  },
] satisfies Behaviour[];
