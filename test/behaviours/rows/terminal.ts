import assert from 'node:assert/strict';
import { CommandExitError, type Sandbox } from 'e2b';
import { eventually } from '../support/asks.ts';
import type { Behaviour } from '../support/behaviour.ts';

interface Screen {
  readonly pid: number;
  readonly wait: () => Promise<unknown>;
  text(): string;
  type(keys: string): Promise<void>;
  seen(what: RegExp): Promise<unknown>;
  disconnect(): Promise<void>;
}

async function open(
  sandbox: Sandbox,
  options: { user?: string; cwd?: string; envs?: Record<string, string>; join?: number } = {},
): Promise<Screen> {
  let screen = '';
  const onData = (bytes: Uint8Array): void => {
    screen += Buffer.from(bytes).toString();
  };
  const { join, ...more } = options;
  const handle = join
    ? await sandbox.pty.connect(join, { onData, timeoutMs: 0 })
    : await sandbox.pty.create({ cols: 80, rows: 24, timeoutMs: 0, onData, ...more });
  return {
    pid: handle.pid,
    wait: () => handle.wait(),
    text: () => screen,
    type: (keys) => sandbox.pty.sendInput(handle.pid, Buffer.from(keys)),
    seen: (what) =>
      eventually(
        `${what} is on the screen`,
        async () => screen,
        (text) => what.test(text),
      ),
    disconnect: () => handle.disconnect(),
  };
}

export default [
  {
    name: 'a terminal: its size, its device, Ctrl-C, its exit code',
    on: 'every kind',
    run: async ({ sandbox: create }) => {
      const sandbox = await create();
      const terminal = await open(sandbox);
      await sandbox.pty.resize(terminal.pid, { cols: 101, rows: 33 });
      await terminal.type('stty size; tty; test -t 0 && echo is a $((1))tty\n');
      await terminal.seen(/33 101\r\n\/dev\/pts\/\d+\r\nis a 1tty/);
      // The echo of what is typed has no number in it, the answer has: the sleep is there once its parent's line is.
      // One process that says so itself: a shell may lose an interrupt on its way into exec.
      await terminal.type(`perl -e '$| = 1; print "asleep ", 20 + 1, "\\n"; sleep 1000'\n`);
      await terminal.seen(/asleep 21/);
      await terminal.type('\x03');
      await terminal.type('echo still $((40+2)) $?\n');
      await terminal.seen(/still 42 130/);
      await terminal.type('exit 3\n');
      await assert.rejects(terminal.wait(), (error) => error instanceof CommandExitError && error.exitCode === 3);
    },
  },
  {
    name: 'a terminal of another user, folder and environment; left, joined again, killed',
    on: 'every kind',
    run: async ({ sandbox: create }) => {
      const sandbox = await create();
      const terminal = await open(sandbox, { user: 'root', cwd: '/usr', envs: { ASKED: 'for' } });
      await terminal.type('echo "<$(id -un) $PWD $ASKED>"; kept=1$((1))\n');
      await terminal.seen(/<root \/usr for>/);
      await terminal.disconnect();
      const again = await open(sandbox, { join: terminal.pid });
      await again.type('echo kept is $kept\n');
      await again.seen(/kept is 11/);
      const ended = assert.rejects(again.wait(), CommandExitError);
      assert.equal(await sandbox.pty.kill(terminal.pid), true);
      await ended;
      assert.equal(await sandbox.pty.kill(terminal.pid), false);
    },
  },
  {
    name: 'a full-screen program runs in a terminal and resizing reaches it',
    on: 'every kind',
    run: async ({ sandbox: create }) => {
      const sandbox = await create();
      const terminal = await open(sandbox, { envs: { TERM: 'xterm' } });
      await terminal.type("trap 'echo now $(stty size)' WINCH; echo rea''dy\n");
      await terminal.seen(/ready/);
      await sandbox.pty.resize(terminal.pid, { cols: 90, rows: 30 });
      await terminal.type('\n');
      await terminal.seen(/now 30 90/);
      await terminal.type('printf "a\\nb\\nc\\n" | less; echo after le""ss\n');
      await terminal.seen(/\x1b\[|\(END\)/);
      await terminal.type('q');
      await terminal.seen(/after less/);
      await sandbox.pty.kill(terminal.pid);
    },
  },
] satisfies Behaviour[];
