/** The published SDKs, every generation of them, against envd over the real agent. Only the control API is made up. */
import assert from 'node:assert/strict';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { after, before, suite, test } from 'node:test';
import type { CommandExitError, Sandbox } from 'e2b';
import { createEnvd } from '../../src/envd/envd.ts';
import { silentLog } from '../../src/telemetry/log.ts';
import { GENERATIONS } from '../helpers/generations.ts';
import { type HostAgent, startHostAgent } from '../helpers/host-agent.ts';
import { bytesOf, TOKEN, until } from './envd-harness.ts';

const ENVD_VERSION = '0.6.13';
const OPTIONS = { apiKey: `e2b_${'0'.repeat(40)}`, requestTimeoutMs: 20_000 };

/** The SDKs' create, get and kill, and their sandbox traffic, on one port. */
async function startWorld(agent: HostAgent) {
  const sandbox = {
    sandboxID: 'isdk',
    templateID: 'base',
    accessToken: TOKEN,
    agent: () => agent.client,
    env: { E2B_SANDBOX: 'true' },
    defaultUser: 'user',
  };
  const world = { envd: createEnvd(sandbox, { log: silentLog }), url: '' };
  const server = createServer((req, res) => {
    if (req.headers['e2b-sandbox-id'] !== undefined || req.url?.startsWith('/files'))
      return world.envd.handle(req, res);
    const reply = (status: number, body: unknown): void => {
      res.writeHead(status, { 'Content-Type': 'application/json' });
      res.end(JSON.stringify(body));
    };
    req.resume();
    if (req.method === 'POST' && /^\/(v2\/)?sandboxes$/.test(req.url ?? '')) {
      return reply(201, {
        sandboxID: 'isdk',
        templateID: 'base',
        clientID: '6532622b',
        envdVersion: ENVD_VERSION,
        envdAccessToken: TOKEN,
      });
    }
    return reply(404, { code: 404, message: 'not here' });
  });
  server.listen(0, '127.0.0.1');
  await new Promise((resolve) => server.once('listening', resolve));
  world.url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  return {
    ...world,
    get envd() {
      return world.envd;
    },
    /** As after a restart of the host: nothing is remembered. */
    renew(): void {
      world.envd.close(new Error('renewed'));
      world.envd = createEnvd(sandbox, { log: silentLog });
    },
    async stop(): Promise<void> {
      world.envd.close(new Error('the test is over'));
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

for (const { name, sdk } of GENERATIONS) {
  suite(name, () => {
    let agent: HostAgent;
    let world: Awaited<ReturnType<typeof startWorld>>;
    let sandbox: Sandbox;

    before(async () => {
      agent = await startHostAgent();
      world = await startWorld(agent);
      sandbox = await sdk.Sandbox.create({ ...OPTIONS, apiUrl: world.url, sandboxUrl: world.url });
    });
    after(async () => {
      await world?.stop();
      await agent?.stop();
    });

    test('runs commands: output, exit status, environment, folder', async () => {
      assert.equal(await sandbox.isRunning(), true);
      const result = await sandbox.commands.run('echo "$GREETING" from $(pwd); echo oops >&2', {
        envs: { GREETING: 'hällo' },
        cwd: '/tmp',
      });
      assert.deepEqual([result.stdout, result.stderr, result.exitCode], ['hällo from /tmp\n', 'oops\n', 0]);
      await assert.rejects(sandbox.commands.run('exit 9'), (error: Error) => {
        assert.ok(error instanceof sdk.CommandExitError);
        assert.equal(error.exitCode, 9);
        assert.equal(error.error, 'exit status 9');
        return true;
      });
      await assert.rejects(sandbox.commands.run('true', { cwd: '/no/such' }), sdk.InvalidArgumentError);
      await assert.rejects(sandbox.commands.run('true', { user: 'eve' }), sdk.AuthenticationError);
    });

    test('a deadline is a TimeoutError and ends the process', async () => {
      await assert.rejects(sandbox.commands.run('sleep 1000', { timeoutMs: 500 }), sdk.TimeoutError);
      await untilAsync(async () => (await sandbox.commands.list()).length === 0, 'the process is gone');
    });

    test('background commands: list, input, join, kill, after a restart of the host too', async () => {
      const cat = await sandbox.commands.run('cat', { background: true, stdin: true });
      assert.ok((await sandbox.commands.list()).some(({ pid }) => pid === cat.pid));
      await sandbox.commands.sendStdin(cat.pid, 'line one\n');
      await until(() => cat.stdout === 'line one\n', 'the echo');
      cat.disconnect();
      // A handle that is let go reports its broken stream to whoever waits; nobody does.
      cat.wait().catch(() => {});
      world.renew();
      let joined = '';
      const again = await sandbox.commands.connect(cat.pid, {
        onStdout: (data) => {
          joined += data;
        },
      });
      await sandbox.commands.sendStdin(cat.pid, 'line two\n');
      await until(() => joined === 'line two\n', 'output after joining');
      assert.equal(await sandbox.commands.kill(cat.pid), true);
      await assert.rejects(again.wait(), sdk.CommandExitError);
      assert.equal(await sandbox.commands.kill(cat.pid), false);
      await assert.rejects(sandbox.commands.sendStdin(cat.pid, 'x'), sdk.NotFoundError);
      await assert.rejects(sandbox.commands.connect(999_999), sdk.NotFoundError);
    });

    test('stdin is closed on request, and is not there unless asked for', async () => {
      const sorted = await sandbox.commands.run('sort', { background: true, stdin: true });
      await sandbox.commands.sendStdin(sorted.pid, 'b\na\n');
      await sandbox.commands.closeStdin(sorted.pid);
      assert.equal((await sorted.wait()).stdout, 'a\nb\n');
      const sleeper = await sandbox.commands.run('sleep 100', { background: true });
      await assert.rejects(sandbox.commands.sendStdin(sleeper.pid, 'x'), sdk.SandboxError);
      await sleeper.kill();
      await sleeper.wait().catch(() => {});
    });

    test('a terminal: size, input, resize, exit', async () => {
      let output = '';
      const terminal = await sandbox.pty.create({
        cols: 91,
        rows: 33,
        onData: (data) => {
          output += Buffer.from(data).toString();
        },
      });
      await sandbox.pty.sendInput(terminal.pid, Buffer.from('stty size\n'));
      await until(() => output.includes('33 91'), 'the size');
      await sandbox.pty.resize(terminal.pid, { cols: 70, rows: 20 });
      await sandbox.pty.sendInput(terminal.pid, Buffer.from('stty size\n'));
      await until(() => output.includes('20 70'), 'the new size');
      await sandbox.pty.sendInput(terminal.pid, Buffer.from('exit 4\n'));
      await assert.rejects(terminal.wait(), (error: Error) => (error as CommandExitError).exitCode === 4);
    });

    test('a megabyte of output arrives whole, and text cut anywhere stays text', async () => {
      const result = await sandbox.commands.run('for i in $(seq 1 40000); do echo "zeile $i ööö"; done');
      assert.equal(Buffer.byteLength(result.stdout), 40_000 * 14 + digits(40_000));
      assert.equal(result.stdout.split('\n')[39_999], 'zeile 40000 ööö');
    });

    test('files: write, read in each format, and what is missing', async () => {
      const info = await sandbox.files.write('notes/a.txt', 'hello');
      assert.equal(info.name, 'a.txt');
      assert.equal(info.path, `${agent.root}/home/user/notes/a.txt`);
      assert.equal(await sandbox.files.read('notes/a.txt'), 'hello');
      const bytes = Uint8Array.from({ length: 700_000 }, (_, i) => (i * 31) % 256);
      await sandbox.files.write('b.bin', new Blob([bytes]));
      assert.deepEqual(await sandbox.files.read('b.bin', { format: 'bytes' }), bytes);
      const stream = await sandbox.files.read('b.bin', { format: 'stream' });
      assert.deepEqual(await bytesOf(stream as AsyncIterable<Uint8Array>), Buffer.from(bytes));
      await sandbox.files.write('empty', '');
      assert.equal(await sandbox.files.read('empty'), '');
      const many = await sandbox.files.write([
        { path: 'm/1', data: 'one' },
        { path: 'm/2', data: 'two' },
      ]);
      assert.deepEqual(
        many.map(({ name }) => name),
        ['1', '2'],
      );
      await assert.rejects(sandbox.files.read('nope'), sdk.NotFoundError);
      await assert.rejects(sandbox.files.read('m'), sdk.InvalidArgumentError);
    });

    test('folders: make, list, rename, remove, exists, info', async () => {
      assert.equal(await sandbox.files.makeDir('tree/x/y'), true);
      assert.equal(await sandbox.files.makeDir('tree/x/y'), false);
      await sandbox.files.write('tree/x/f', '12345');
      const names = async (depth?: number) =>
        (await sandbox.files.list('tree', depth === undefined ? {} : { depth })).map(({ name, type }) => [name, type]);
      assert.deepEqual(await names(), [['x', 'dir']]);
      assert.deepEqual(await names(3), [
        ['x', 'dir'],
        ['f', 'file'],
        ['y', 'dir'],
      ]);
      const info = await sandbox.files.getInfo('tree/x/f');
      assert.equal(info.size, 5);
      assert.match(info.permissions, /^-rw/);
      assert.ok(info.modifiedTime && Math.abs(info.modifiedTime.getTime() - Date.now()) < 60_000);
      const moved = await sandbox.files.rename('tree/x/f', 'tree/new/g');
      assert.equal(moved.path, `${agent.root}/home/user/tree/new/g`);
      assert.equal(await sandbox.files.exists('tree/x/f'), false);
      await sandbox.files.remove('tree');
      await sandbox.files.remove('tree');
      assert.equal(await sandbox.files.exists('tree'), false);
      await assert.rejects(sandbox.files.list('tree'), sdk.NotFoundError);
      await assert.rejects(sandbox.files.getInfo('tree'), sdk.NotFoundError);
    });

    test('a folder is watched', async () => {
      await sandbox.files.makeDir('w');
      const events: [string, string][] = [];
      const handle = await sandbox.files.watchDir('w', ({ name, type }) => void events.push([name, type]), {
        recursive: true,
      });
      await sandbox.files.write('w/one.txt', 'x');
      await sandbox.files.makeDir('w/sub');
      await until(() => events.some(([name]) => name === 'sub'), 'the folder is seen');
      await sandbox.files.write('w/sub/two.txt', 'x');
      await until(() => events.some(([name, type]) => name === 'one.txt' && type === 'write'), 'the write is seen');
      await until(() => events.some(([name]) => name === 'sub/two.txt'), 'the new folder is watched as well');
      await sandbox.files.remove('w/one.txt');
      await until(() => events.some(([name, type]) => name === 'one.txt' && type === 'remove'), 'the removal is seen');
      await handle.stop();
      await assert.rejects(
        sandbox.files.watchDir('nope', () => {}),
        sdk.NotFoundError,
      );
    });

    test('signed URLs work without any header', async () => {
      const up = await sandbox.uploadUrl('signed dir/ü.txt', { useSignatureExpiration: 60 });
      const form = new FormData();
      form.append('file', new Blob(['signed content']), 'ignored.txt');
      assert.equal((await fetch(up, { method: 'POST', body: form })).status, 200);
      const down = await sandbox.downloadUrl('signed dir/ü.txt', { user: 'user' });
      assert.equal(await (await fetch(down)).text(), 'signed content');
      assert.equal((await fetch(up)).status, 401, 'not for reading');
    });

    test('a sandbox that ends cuts its streams, and the SDK knows why', async () => {
      const sleeper = await sandbox.commands.run('sleep 100', { background: true });
      const waiting = assert.rejects(sleeper.wait(), sdk.TimeoutError);
      world.envd.close(new Error('killed'));
      await waiting;
      assert.equal(await sandbox.isRunning(), false);
      await assert.rejects(sandbox.files.read('notes/a.txt'), sdk.TimeoutError);
      world.renew();
      assert.equal(await sandbox.isRunning(), true);
    });
  });
}

/** Digits of the numbers from 1 to `last`, all together. */
function digits(last: number): number {
  let count = 0;
  for (let i = 1; i <= last; i++) count += String(i).length;
  return count;
}

async function untilAsync(condition: () => Promise<boolean>, what: string): Promise<void> {
  const deadline = Date.now() + 5_000;
  while (!(await condition())) {
    if (Date.now() > deadline) throw new Error(`${what}: not in time`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}
