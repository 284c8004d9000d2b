/** Commands of a sandbox, the handles of those that run, terminals. */
import assert from 'node:assert/strict';
import type { Sandbox } from 'e2b';
import { eventually } from '../../behaviours/support/asks.ts';
import type { Row } from '../row.ts';

const BACKGROUND = { background: true, timeoutMs: 0 } as const;

async function cat(sandbox: Sandbox) {
  const handle = await sandbox.commands.run('exec cat', { ...BACKGROUND, stdin: true });
  return { handle, ended: handle.wait() };
}

async function sleeper(sandbox: Sandbox) {
  const handle = await sandbox.commands.run('exec sleep 1000', BACKGROUND);
  const ended = handle.wait().then(
    () => 'well',
    () => 'killed',
  );
  return { handle, ended };
}

async function terminal(sandbox: Sandbox) {
  let screen = '';
  const onData = (bytes: Uint8Array): void => {
    screen += Buffer.from(bytes).toString();
  };
  const handle = await sandbox.pty.create({ cols: 80, rows: 24, timeoutMs: 0, onData });
  const type = (keys: string): Promise<void> => sandbox.pty.sendInput(handle.pid, Buffer.from(keys));
  const seen = (what: RegExp): Promise<string> =>
    eventually(
      String(what),
      async () => screen,
      (text) => what.test(text),
    );
  return { handle, type, seen, onData };
}

export default [
  {
    method: 'commands.run',
    proves: 'output of both kinds, user, folder, environment; an exit code is an error with the output',
    run: async ({ sandbox, sdk }) => {
      const seen: string[] = [];
      const line = 'echo $A; pwd; id -un; echo e >&2';
      const result = await sandbox.commands.run(line, {
        envs: { A: 'b c' },
        cwd: '/tmp',
        user: 'root',
        onStdout: (text) => void seen.push(text),
      });
      assert.deepEqual([result.stdout, result.stderr, result.exitCode], ['b c\n/tmp\nroot\n', 'e\n', 0]);
      assert.equal(seen.join(''), result.stdout);
      await assert.rejects(sandbox.commands.run('echo o; exit 9'), (error) => {
        assert.ok(error instanceof sdk.CommandExitError);
        assert.deepEqual([error.exitCode, error.stdout], [9, 'o\n']);
        return true;
      });
    },
  },
  {
    method: 'commands.run',
    proves: 'too long is a TimeoutError, and the process has ended',
    run: async ({ sandbox, sdk }) => {
      await assert.rejects(sandbox.commands.run('exec sleep 987', { timeoutMs: 500 }), sdk.TimeoutError);
      await eventually(
        'it has ended',
        () => sandbox.commands.list(),
        (list) => !list.some(({ args }) => args.some((arg) => arg.includes('sleep 987'))),
      );
    },
  },
  {
    method: 'commands.list',
    proves: 'what runs, with pid, arguments, environment',
    run: async ({ sandbox }) => {
      const handle = await sandbox.commands.run('exec sleep 1001', { ...BACKGROUND, envs: { A: 'b' }, cwd: '/tmp' });
      handle.wait().catch(() => {});
      const found = (await sandbox.commands.list()).find(({ pid }) => pid === handle.pid);
      assert.deepEqual([found?.envs.A, found?.cwd], ['b', '/tmp']);
      assert.ok(found?.args.join(' ').includes('sleep 1001'));
      await handle.kill();
    },
  },
  {
    method: 'commands.sendStdin',
    proves: 'text and its bytes arrive as they are',
    run: async ({ sandbox }) => {
      const { handle, ended } = await cat(sandbox);
      await sandbox.commands.sendStdin(handle.pid, 'zeile ü\n');
      await sandbox.commands.sendStdin(handle.pid, 'x'.repeat(100_000));
      await sandbox.commands.closeStdin(handle.pid);
      assert.equal((await ended).stdout, `zeile ü\n${'x'.repeat(100_000)}`);
    },
  },
  {
    method: 'commands.closeStdin',
    proves: 'the process sees the end of its input',
    run: async ({ sandbox }) => {
      const { handle, ended } = await cat(sandbox);
      await sandbox.commands.closeStdin(handle.pid);
      assert.equal((await ended).exitCode, 0);
    },
  },
  {
    method: 'commands.kill',
    proves: 'ends it; false when there is nothing to end',
    run: async ({ sandbox }) => {
      const { handle, ended } = await sleeper(sandbox);
      assert.equal(await sandbox.commands.kill(handle.pid), true);
      assert.equal(await ended, 'killed');
      assert.equal(await sandbox.commands.kill(handle.pid), false);
    },
  },
  {
    method: 'commands.connect',
    proves: 'joins what runs: its output from then on, its exit code',
    run: async ({ sandbox, sdk }) => {
      const { handle, ended } = await cat(sandbox);
      ended.catch(() => {});
      await handle.disconnect();
      const joined = await sandbox.commands.connect(handle.pid, { timeoutMs: 0 });
      await sandbox.commands.sendStdin(handle.pid, 'joined\n');
      await sandbox.commands.closeStdin(handle.pid);
      assert.equal((await joined.wait()).stdout, 'joined\n');
      await assert.rejects(sandbox.commands.connect(4_194_303), sdk.NotFoundError);
    },
  },
  {
    method: 'handle.wait',
    proves: 'the whole result; a failure is thrown',
    run: async ({ sandbox, sdk }) => {
      const handle = await sandbox.commands.run('echo done', BACKGROUND);
      const { stdout, exitCode } = await handle.wait();
      assert.deepEqual([stdout, exitCode, handle.stdout, handle.exitCode], ['done\n', 0, 'done\n', 0]);
      await assert.rejects(async () => (await sandbox.commands.run('exit 3', BACKGROUND)).wait(), sdk.CommandExitError);
    },
  },
  {
    method: 'handle.disconnect',
    proves: 'the process goes on without it',
    run: async ({ sandbox }) => {
      const { handle } = await sleeper(sandbox);
      await handle.disconnect();
      assert.ok((await sandbox.commands.list()).some(({ pid }) => pid === handle.pid));
      assert.equal(await sandbox.commands.kill(handle.pid), true);
    },
  },
  {
    method: 'handle.kill',
    proves: 'ends it; false when there is nothing to end',
    run: async ({ sandbox }) => {
      const { handle, ended } = await sleeper(sandbox);
      assert.equal(await handle.kill(), true);
      assert.equal(await ended, 'killed');
      assert.equal(await handle.kill(), false);
    },
  },
  {
    method: 'handle.sendStdin',
    proves: 'its input',
    run: async ({ sandbox }) => {
      const { handle, ended } = await cat(sandbox);
      await handle.sendStdin('by the handle');
      await handle.closeStdin();
      assert.equal((await ended).stdout, 'by the handle');
    },
  },
  {
    method: 'handle.closeStdin',
    proves: 'the process sees the end of its input',
    run: async ({ sandbox }) => {
      const { handle, ended } = await cat(sandbox);
      await handle.closeStdin();
      assert.equal((await ended).exitCode, 0);
    },
  },
  {
    method: 'pty.create',
    proves: 'a terminal of its size, with a login shell; its exit code',
    run: async ({ sandbox, sdk }) => {
      const { handle, type, seen } = await terminal(sandbox);
      await type('stty size; test -t 0 && echo a $((1))tty\n');
      await seen(/24 80\r\na 1tty/);
      await type('exit 3\n');
      await assert.rejects(handle.wait(), (error) => error instanceof sdk.CommandExitError && error.exitCode === 3);
    },
  },
  {
    method: 'pty.sendInput',
    proves: 'keys, Ctrl-C among them',
    run: async ({ sandbox }) => {
      const { handle, type, seen } = await terminal(sandbox);
      // One process that says so itself: a shell may lose an interrupt on its way into exec.
      await type(`perl -e '$| = 1; print "asleep ", 20 + 1, "\\n"; sleep 1000'\n`);
      await seen(/asleep 21/);
      await type('\x03');
      await type('echo then $?\n');
      await seen(/then 130/);
      await handle.kill();
    },
  },
  {
    method: 'pty.resize',
    proves: 'the program in it sees the new size',
    run: async ({ sandbox }) => {
      const { handle, type, seen } = await terminal(sandbox);
      await sandbox.pty.resize(handle.pid, { cols: 101, rows: 33 });
      await type('stty size\n');
      await seen(/33 101/);
      await handle.kill();
    },
  },
  {
    method: 'pty.connect',
    proves: 'joins a terminal that was left',
    run: async ({ sandbox }) => {
      const { handle, type, seen, onData } = await terminal(sandbox);
      await type('kept=1$((1))\n');
      await handle.disconnect();
      const joined = await sandbox.pty.connect(handle.pid, { onData, timeoutMs: 0 });
      assert.equal(joined.pid, handle.pid);
      await type('echo it is $kept\n');
      await seen(/it is 11/);
      await joined.kill();
    },
  },
  {
    method: 'pty.kill',
    proves: 'ends it; false when there is nothing to end',
    run: async ({ sandbox, sdk }) => {
      const { handle } = await terminal(sandbox);
      const ended = assert.rejects(handle.wait(), sdk.CommandExitError);
      assert.equal(await sandbox.pty.kill(handle.pid), true);
      await ended;
      assert.equal(await sandbox.pty.kill(handle.pid), false);
    },
  },
] satisfies Row[];
