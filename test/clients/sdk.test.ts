import assert from 'node:assert/strict';
import test from 'node:test';
import { Sandbox as CodeSandbox } from '@e2b/code-interpreter';
import { CommandExitError, Sandbox } from 'e2b';
import { Sandbox as OldSandbox } from 'e2b-245';
import { startService } from '../helpers/service.ts';

const service = await startService();
test.after(async () => assert.deepEqual((await service.stop()).details, []));

test('e2b 2.51.0: create, exec, files, list, timeout, connect, kill', async () => {
  const sandbox = await Sandbox.create('base', {
    ...service.sdk,
    metadata: { of: 'this test' },
    envs: { MINE: 'yes' },
  });
  const run = await sandbox.commands.run('echo out; echo err >&2; echo $MINE; id -un; pwd');
  assert.deepEqual([run.stdout, run.stderr, run.exitCode], ['out\nyes\nuser\n/home/user\n', 'err\n', 0]);
  await assert.rejects(
    sandbox.commands.run('exit 7'),
    (error) => error instanceof CommandExitError && error.exitCode === 7,
  );
  assert.equal((await sandbox.commands.run('sudo id -u')).stdout, '0\n');
  assert.equal((await sandbox.commands.run('cat', { stdin: true, background: true })).pid > 0, true);

  await sandbox.files.write('folder/note.txt', 'hello');
  assert.equal(await sandbox.files.read('folder/note.txt'), 'hello');
  assert.equal((await sandbox.commands.run('cat ~/folder/note.txt')).stdout, 'hello');
  assert.deepEqual(
    (await sandbox.files.list('folder')).map((entry) => entry.name),
    ['note.txt'],
  );
  assert.equal(await sandbox.files.exists('nothing'), false);

  const listed = await Sandbox.list({ ...service.sdk, query: { metadata: { of: 'this test' } } }).nextItems();
  assert.deepEqual(
    listed.map((one) => one.sandboxId),
    [sandbox.sandboxId],
  );
  await sandbox.setTimeout(600_000);
  const { endAt } = await sandbox.getInfo();
  assert.ok(Math.abs(endAt.getTime() - Date.now() - 600_000) < 30_000);
  const again = await Sandbox.connect(sandbox.sandboxId, service.sdk);
  assert.equal(await again.isRunning(), true);
  assert.equal(await sandbox.kill(), true);
  assert.equal(await sandbox.isRunning(), false);
  assert.equal(await Sandbox.kill(sandbox.sandboxId, service.sdk), false);
});

test('e2b 2.51.0: a terminal, its size, and Ctrl-C', async () => {
  const sandbox = await Sandbox.create('base', service.sdk);
  let screen = '';
  const terminal = await sandbox.pty.create({
    cols: 80,
    rows: 24,
    onData: (bytes) => {
      screen += Buffer.from(bytes).toString();
    },
    timeoutMs: 0,
  });
  const type = (text: string): Promise<void> => sandbox.pty.sendInput(terminal.pid, Buffer.from(text));
  const seen = async (what: RegExp): Promise<void> => {
    const deadline = Date.now() + 60_000;
    while (!what.test(screen)) {
      if (Date.now() > deadline) assert.fail(`${what} not on the screen: ${JSON.stringify(screen)}`);
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  };
  await sandbox.pty.resize(terminal.pid, { cols: 101, rows: 33 });
  await type('stty size; tty\n');
  await seen(/33 101\r\n\/dev\/pts\/\d+/);
  await type('sleep 1000; echo after $?\n');
  await seen(/sleep 1000; echo after/);
  await new Promise((resolve) => setTimeout(resolve, 1_000));
  await type('\x03');
  await type('echo still $((40+2))\n');
  await seen(/still 42/);
  await type('exit 3\n');
  await assert.rejects(terminal.wait(), (error) => error instanceof CommandExitError && error.exitCode === 3);
  await sandbox.kill();
});

test('e2b 2.51.0: watching a folder, and a file by its signed link', async () => {
  const sandbox = await Sandbox.create('base', service.sdk);
  await sandbox.files.makeDir('watched');
  const names: string[] = [];
  const watch = await sandbox.files.watchDir('watched', (event) => void names.push(event.name));
  await sandbox.files.write('watched/new.txt', 'x');
  const deadline = Date.now() + 30_000;
  while (!names.includes('new.txt') && Date.now() < deadline) await new Promise((resolve) => setTimeout(resolve, 50));
  assert.ok(names.includes('new.txt'));
  await watch.stop();
  const link = await sandbox.downloadUrl('watched/new.txt', { useSignatureExpiration: 60_000 });
  const response = await fetch(link);
  assert.deepEqual([response.status, await response.text()], [200, 'x']);
  assert.equal((await fetch(link.replace(/signature=v1_./, 'signature=v1_!'))).status, 401);
  await sandbox.kill();
});

test('@e2b/code-interpreter 2.8.0: state over calls, streams, a picture, an error, contexts', async () => {
  const sandbox = await CodeSandbox.create('code-interpreter-v1', { ...service.sdk, envs: { FROM_CREATE: 'here' } });
  const options = { timeoutMs: 120_000, requestTimeoutMs: 120_000 };
  const first = await sandbox.runCode('import os\nx = 20\nx + 1', options);
  assert.equal(first.text, '21');
  assert.equal(first.executionCount, 1);
  assert.equal((await sandbox.runCode('x * 2', options)).text, '40');
  assert.equal((await sandbox.runCode("os.environ['FROM_CREATE']", options)).text, 'here');
  const lines: string[] = [];
  await sandbox.runCode('print("a"); print("b")', { ...options, onStdout: (message) => void lines.push(message.line) });
  assert.equal(lines.join(''), 'a\nb\n');
  const failed = await sandbox.runCode('1/0', options);
  assert.equal(failed.error?.name, 'ZeroDivisionError');
  const picture = await sandbox.runCode('import matplotlib.pyplot as plt\nplt.plot([1,2,3]); plt.show()', options);
  assert.match(picture.results[0]?.png ?? '', /^iVBOR/);
  assert.equal(picture.results[0]?.chart?.type, 'line');
  const context = await sandbox.createCodeContext({ cwd: '/tmp' });
  assert.equal((await sandbox.runCode('import os; os.getcwd()', { ...options, context })).text, '/tmp');
  assert.equal((await sandbox.runCode("'x' in dir()", { ...options, context })).text, 'False');
  await sandbox.kill();
});

test('e2b 2.45.0: create, exec, kill by the older verbs', async () => {
  const sandbox = await OldSandbox.create('base', { ...service.sdk, validateApiKey: false });
  assert.equal((await sandbox.commands.run('echo $((6*7))')).stdout, '42\n');
  const again = await OldSandbox.connect(sandbox.sandboxId, { ...service.sdk, validateApiKey: false });
  assert.equal(await again.isRunning(), true);
  assert.equal(await sandbox.kill(), true);
  assert.equal(await sandbox.isRunning(), false);
});

test('a server in the sandbox is reached through its port, by headers and by path', async () => {
  const sandbox = await Sandbox.create('base', service.sdk);
  const server = await sandbox.commands.run(
    'cd /tmp && echo served > page && exec python3 -m http.server 8123 --bind 127.0.0.1',
    { background: true, timeoutMs: 0 },
  );
  const byPath = `${service.url}/sandbox/${sandbox.sandboxId}/8123/page`;
  const deadline = Date.now() + 60_000;
  let response = await fetch(byPath);
  while (response.status === 502 && Date.now() < deadline) response = await fetch(byPath);
  assert.deepEqual([response.status, await response.text()], [200, 'served\n']);
  const byHeaders = await fetch(`${service.url}/page`, {
    headers: { 'E2b-Sandbox-Id': sandbox.sandboxId, 'E2b-Sandbox-Port': '8123' },
  });
  assert.equal(await byHeaders.text(), 'served\n');
  await server.kill();
  await sandbox.kill();
  const dead = await fetch(byPath);
  assert.equal(dead.status, 502);
  assert.deepEqual(await dead.json(), {
    sandboxId: sandbox.sandboxId,
    message: 'The sandbox was not found',
    code: 502,
  });
});
