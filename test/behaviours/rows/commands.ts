import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { CommandExitError, NotFoundError, Sandbox, TimeoutError } from 'e2b';
import { ask, eventually, PATIENT, python, say, start } from '../support/asks.ts';
import type { Behaviour } from '../support/behaviour.ts';

export default [
  {
    name: 'a command has its two outputs, its user, its folder, a login shell',
    on: 'every kind',
    run: async ({ sandbox: create }) => {
      const sandbox = await create();
      const run = await ask(
        sandbox,
        'echo out; echo err >&2; id -un; pwd; echo $HOME; shopt -q login_shell && echo login',
      );
      assert.deepEqual(
        [run.stdout, run.stderr, run.exitCode],
        ['out\nuser\n/home/user\n/home/user\nlogin\n', 'err\n', 0],
      );
      const streamed = { out: '', err: '' };
      await ask(sandbox, 'echo 1; echo 2 >&2; echo 3', {
        onStdout: (text) => {
          streamed.out += text;
        },
        onStderr: (text) => {
          streamed.err += text;
        },
      });
      assert.deepEqual(streamed, { out: '1\n3\n', err: '2\n' });
      assert.equal(await say(sandbox, 'pwd', { cwd: '/usr/share' }), '/usr/share');
      await assert.rejects(sandbox.commands.run('pwd', { cwd: '/no/such/folder' }), /no\/such\/folder/);
    },
  },
  {
    name: 'exit codes and signals are told as they were',
    on: 'every kind',
    run: async ({ sandbox: create }) => {
      const sandbox = await create();
      for (const [line, code] of [
        ['exit 7', 7],
        ['exit 255', 255],
        ['no-such-program-at-all', 127],
        ['/etc/hostname', 126],
        ['kill -KILL $$', -1],
      ] as const) {
        await assert.rejects(
          sandbox.commands.run(line, PATIENT),
          (error) => error instanceof CommandExitError && error.exitCode === code,
          line,
        );
      }
    },
  },
  {
    name: 'environment of the sandbox and of one command, whatever the characters',
    on: 'every kind',
    run: async ({ sandbox: create }) => {
      const odd = 'a "b" \'c\' $HOME `d`\n=é😀\t\\';
      const sandbox = await create({ envs: { MINE: 'yes', ODD: odd, BOTH: 'sandbox' } });
      const print = 'printf %s "$ODD"; echo; echo "$MINE $BOTH $ONE"';
      assert.equal(await say(sandbox, print), `${odd}\nyes sandbox `);
      assert.equal(await say(sandbox, print, { envs: { BOTH: 'command', ONE: '1' } }), `${odd}\nyes command 1`);
      assert.equal(await say(sandbox, print), `${odd}\nyes sandbox `, 'a command’s own end with it');
      const info = await sandbox.getInfo();
      const told = 'echo $E2B_SANDBOX $E2B_SANDBOX_ID $E2B_TEMPLATE_ID';
      assert.equal(await say(sandbox, told), `true ${info.sandboxId} ${info.templateId}`);
    },
  },
  {
    name: 'users: root, another one made inside, nobody of a made-up name, sudo without a password',
    on: 'every kind',
    run: async ({ sandbox: create }) => {
      const sandbox = await create();
      assert.equal(await say(sandbox, 'id -un; id -u; pwd', { user: 'root' }), 'root\n0\n/root');
      assert.equal(await say(sandbox, 'sudo -n id -u; sudo -n -u user id -un'), '0\nuser');
      assert.notEqual((await ask(sandbox, 'cat /etc/shadow')).exitCode, 0, 'user is not root');
      await say(
        sandbox,
        'sudo useradd -m -s /bin/bash maker && sudo -u maker sh -c "echo mine > ~/own; chmod 600 ~/own"',
      );
      assert.equal(await say(sandbox, 'id -un; pwd; cat own', { user: 'maker' }), 'maker\n/home/maker\nmine');
      assert.notEqual((await ask(sandbox, 'cat /home/maker/own')).exitCode, 0, 'another user’s file');
      await say(sandbox, 'touch f && sudo chown nobody:nogroup f && sudo chmod 4755 f');
      assert.equal(await say(sandbox, 'stat -c "%U %G %a" f'), 'nobody nogroup 4755');
      await assert.rejects(sandbox.commands.run('id', { user: 'no-such-user' }), /no-such-user/);
    },
  },
  {
    name: 'a background command is listed, left, joined again and killed',
    on: 'every kind',
    run: async ({ sandbox: create, service }) => {
      const sandbox = await create();
      const handle = await sandbox.commands.run('while :; do echo tick; sleep 0.2; done', {
        background: true,
        timeoutMs: 0,
        envs: { OWN: 'env' },
        cwd: '/tmp',
      });
      const listed = (await sandbox.commands.list()).find((one) => one.pid === handle.pid);
      assert.ok(listed, 'it is listed');
      assert.ok(listed.args.some((word) => word.includes('echo tick')));
      assert.deepEqual([listed.envs.OWN, listed.cwd], ['env', '/tmp']);
      await eventually(
        'it ticks',
        async () => handle.stdout,
        (text) => text.includes('tick'),
      );
      await handle.disconnect();
      // Another client, with nothing but the id and the pid.
      const other = await Sandbox.connect(sandbox.sandboxId, service.sdk);
      let seen = '';
      const joined = await other.commands.connect(handle.pid, {
        onStdout: (text) => {
          seen += text;
        },
        timeoutMs: 0,
      });
      await eventually(
        'it ticks on',
        async () => seen,
        (text) => text.includes('tick\n'),
      );
      const ended = assert.rejects(
        joined.wait(),
        (error) => error instanceof CommandExitError && error.exitCode === -1,
      );
      assert.equal(await other.commands.kill(handle.pid), true);
      await ended;
      assert.ok(!(await sandbox.commands.list()).some((one) => one.pid === handle.pid));
      assert.equal(await sandbox.commands.kill(handle.pid), false, 'it is gone');
      await assert.rejects(sandbox.commands.connect(999_999), NotFoundError);
    },
  },
  {
    name: 'what a command leaves behind goes on without it, and is no zombie when it ends',
    on: 'every kind',
    run: async ({ sandbox: create }) => {
      const sandbox = await create();
      await say(sandbox, 'setsid sh -c "sleep 0.3; echo late > ~/left" >/dev/null 2>&1 & disown; echo gone');
      await eventually(
        'it wrote',
        () => ask(sandbox, 'cat ~/left'),
        (run) => run.stdout === 'late\n',
      );
      await say(sandbox, 'for i in 1 2 3 4 5; do (setsid sleep 0.05 &) ; done');
      await eventually(
        'all are reaped',
        () => say(sandbox, 'ps -eo stat= | grep -c ^Z || true'),
        (zombies) => zombies === '0',
        15_000,
      );
    },
  },
  {
    name: 'input: sent in parts, closed, and at its end at once when nobody sends any',
    on: 'every kind',
    run: async ({ sandbox: create }) => {
      const sandbox = await create();
      const cat = await sandbox.commands.run('cat; echo over', { background: true, stdin: true, timeoutMs: 120_000 });
      await cat.sendStdin('one ');
      await sandbox.commands.sendStdin(cat.pid, 'two é\n');
      await cat.closeStdin();
      assert.equal((await cat.wait()).stdout, 'one two é\nover\n');
      assert.equal(await say(sandbox, 'cat; echo none', { timeoutMs: 30_000 }), 'none');
    },
  },
  {
    name: 'a command that takes too long is a TimeoutError and is ended',
    on: 'every kind',
    run: async ({ sandbox: create }) => {
      const sandbox = await create();
      await say(sandbox, 'true');
      await assert.rejects(
        sandbox.commands.run('echo $$ > ~/pid; exec sleep 1000', { timeoutMs: 2_500 }),
        (error) => error instanceof TimeoutError,
      );
      await eventually(
        'it is ended',
        () => ask(sandbox, 'kill -0 $(cat ~/pid)'),
        (run) => run.exitCode !== 0,
        15_000,
      );
    },
  },
  {
    name: 'four megabytes of output arrive whole and in order, and bytes cut anywhere stay text',
    on: 'every kind',
    run: async ({ sandbox: create }) => {
      const sandbox = await create();
      const lines = 65_536;
      const run = await ask(
        sandbox,
        `python3 -c "import sys; w=sys.stdout.write; [w('%063d\\n' % i) for i in range(${lines})]"`,
      );
      const expected = createHash('sha256');
      for (let i = 0; i < lines; i++) expected.update(`${String(i).padStart(63, '0')}\n`);
      assert.equal(createHash('sha256').update(run.stdout).digest('hex'), expected.digest('hex'));
      const cut = await python(
        sandbox,
        'import os, time\nfor b in "é😀ü\\n".encode():\n  os.write(1, bytes([b])); time.sleep(0.01)',
      );
      assert.equal(cut.stdout, 'é😀ü\n');
    },
  },
  {
    name: 'ten commands at once in one sandbox',
    on: 'every kind',
    run: async ({ sandbox: create }) => {
      const sandbox = await create();
      const outputs = await Promise.all(Array.from({ length: 10 }, (_, n) => say(sandbox, `sleep 0.2; echo ${n}`)));
      assert.deepEqual(
        outputs,
        Array.from({ length: 10 }, (_, n) => String(n)),
      );
      assert.deepEqual(await sandbox.commands.list(), []);
    },
  },
  {
    name: 'signals reach a command: trapped, sent between processes, to a whole group',
    on: 'every kind',
    run: async ({ sandbox: create }) => {
      const sandbox = await create();
      const trapping = await sandbox.commands.run("trap 'echo caught; exit 5' TERM; echo set; sleep 1000 & wait", {
        background: true,
        timeoutMs: 0,
      });
      const ended = assert.rejects(
        trapping.wait(),
        (error) => error instanceof CommandExitError && error.exitCode === 5 && error.stdout === 'set\ncaught\n',
      );
      await eventually(
        'the trap is set',
        async () => trapping.stdout,
        (text) => text === 'set\n',
      );
      await say(sandbox, `kill -TERM ${trapping.pid}`);
      await ended;
      await start(sandbox, 'exec -a of-the-group sleep 1000');
      await eventually(
        'it runs',
        () => ask(sandbox, 'pgrep -f "^of-the-group"'),
        (run) => run.exitCode === 0,
      );
      await say(sandbox, 'pkill -INT -f "^of-the-group"');
      await eventually(
        'it ended',
        () => ask(sandbox, 'pgrep -f "^of-the-group"'),
        (run) => run.exitCode === 1,
      );
    },
  },
] satisfies Behaviour[];
