import assert from 'node:assert/strict';
import { NotFoundError } from '@e2b/code-interpreter';
import { PATIENT, say } from '../support/asks.ts';
import type { Behaviour } from '../support/behaviour.ts';

/** The SDK's timer of a request that is refused runs on, and keeps this process up. */
const REFUSED = { requestTimeoutMs: 20_000 } as const;

export default [
  {
    name: 'run_code: state over calls, results, streams, errors, environment, who and where',
    on: 'every kind',
    run: async ({ codeSandbox }) => {
      const sandbox = await codeSandbox({ envs: { FROM_CREATE: 'here' } });
      const first = await sandbox.runCode('import os\nx = 20\nx + 1', PATIENT);
      assert.deepEqual([first.text, first.executionCount], ['21', 1]);
      assert.equal((await sandbox.runCode('x * 2', PATIENT)).text, '40');
      const env = "(os.environ['FROM_CREATE'], os.environ.get('ONE'))";
      assert.equal((await sandbox.runCode(env, { ...PATIENT, envs: { ONE: '1' } })).text, "('here', '1')");
      assert.equal((await sandbox.runCode(env, PATIENT)).text, "('here', None)");
      const who = await sandbox.runCode('import getpass\n(getpass.getuser(), os.getcwd())', PATIENT);
      assert.equal(who.text, "('user', '/home/user')");
      const out: string[] = [];
      const err: string[] = [];
      const streamed = await sandbox.runCode('import sys\nprint("a"); print("é😀"); print("e", file=sys.stderr)', {
        ...PATIENT,
        onStdout: (message) => void out.push(message.line),
        onStderr: (message) => void err.push(message.line),
      });
      assert.deepEqual([out.join(''), err.join('')], ['a\né😀\n', 'e\n']);
      assert.equal(streamed.logs.stdout.join(''), 'a\né😀\n');
      const failed = await sandbox.runCode('1/0', PATIENT);
      assert.equal(failed.error?.name, 'ZeroDivisionError');
      assert.match(failed.error?.traceback ?? '', /ZeroDivisionError/);
      assert.equal((await sandbox.runCode('x', PATIENT)).text, '20', 'an error ends nothing');
    },
  },
  {
    name: 'run_code: a picture with its chart, a table, a shell’s line',
    on: 'every kind',
    run: async ({ codeSandbox }) => {
      const sandbox = await codeSandbox();
      const plot = 'import matplotlib.pyplot as plt\nplt.plot([1, 2, 3], label="l"); plt.title("T"); plt.show()';
      const [picture] = (await sandbox.runCode(plot, PATIENT)).results;
      assert.match(picture?.png ?? '', /^iVBOR/);
      assert.deepEqual([picture?.chart?.type, picture?.chart?.title], ['line', 'T']);
      const [table] = (await sandbox.runCode('import pandas\npandas.DataFrame({"a": [1, 2]})', PATIENT)).results;
      assert.match(table?.html ?? '', /<table/);
      assert.deepEqual(table?.data, { a: [1, 2] });
      const shell = await sandbox.runCode('!echo from a shell', PATIENT);
      assert.equal(shell.logs.stdout.join('').trim(), 'from a shell');
    },
  },
  {
    name: 'run_code: contexts are apart; made, listed, restarted, removed',
    on: 'every kind',
    run: async ({ codeSandbox }) => {
      const sandbox = await codeSandbox();
      await sandbox.runCode('x = 1', PATIENT);
      const context = await sandbox.createCodeContext({ cwd: '/tmp', requestTimeoutMs: 120_000 });
      assert.equal((await sandbox.runCode('import os; os.getcwd()', { ...PATIENT, context })).text, '/tmp');
      assert.equal((await sandbox.runCode("y = 2\n'x' in dir()", { ...PATIENT, context })).text, 'False');
      assert.ok((await sandbox.listCodeContexts()).some((one) => one.id === context.id));
      await sandbox.restartCodeContext(context);
      assert.equal((await sandbox.runCode('y', { ...PATIENT, context })).error?.name, 'NameError');
      await sandbox.removeCodeContext(context);
      await assert.rejects(sandbox.runCode('1', { ...REFUSED, context }), NotFoundError);
      assert.equal((await sandbox.runCode('x', PATIENT)).text, '1');
    },
  },
  {
    name: 'run_code: too long is interrupted and keeps its state; a process that dies is replaced',
    on: 'every kind',
    run: async ({ codeSandbox }) => {
      const sandbox = await codeSandbox();
      await sandbox.runCode('kept = 3', PATIENT);
      const long = sandbox.runCode('import time\ntime.sleep(600)', { ...PATIENT, timeoutMs: 1_500 });
      await assert.rejects(long, /timed out/i);
      assert.equal((await sandbox.runCode('kept', PATIENT)).text, '3');
      const died = await sandbox.runCode('import os\nos._exit(1)', PATIENT);
      assert.ok(died.error, 'its end is told');
      assert.equal((await sandbox.runCode('6 * 7', PATIENT)).text, '42');
      await assert.rejects(sandbox.runCode('1', { ...REFUSED, language: 'cobol' }), /500/);
    },
  },
  {
    name: 'run_code in JavaScript and TypeScript: state, await, imports, streams, errors, environment, interrupts',
    on: 'every kind',
    run: async ({ codeSandbox }) => {
      const sandbox = await codeSandbox({ envs: { FROM_CREATE: 'here' } });
      const js = { ...PATIENT, language: 'js' } as const;
      const first = await sandbox.runCode('const x = await Promise.resolve(20); console.log("é😀"); x + 1', js);
      assert.deepEqual([first.text, first.executionCount, first.logs.stdout.join('')], ['21', 1, 'é😀\n']);
      const again = "import fs from 'fs'; const x = 21; fs.writeFileSync('by.js', 'js'); ({ x, user: os().username })";
      const [object] = (await sandbox.runCode(`const os = () => require('os').userInfo(); ${again}`, js)).results;
      assert.deepEqual(object?.json, { x: 21, user: 'user' });
      assert.equal(await sandbox.files.read('by.js'), 'js');
      const env = '[process.env.FROM_CREATE, process.env.ONE, process.cwd()].join()';
      assert.equal((await sandbox.runCode(env, { ...js, envs: { ONE: '1' } })).text, 'here,1,/home/user');
      assert.equal((await sandbox.runCode(env, js)).text, 'here,,/home/user');
      const failed = await sandbox.runCode('console.error("e"); null.x', js);
      assert.deepEqual([failed.error?.name, failed.logs.stderr.join('')], ['TypeError', 'e\n']);
      const long = sandbox.runCode('await null; while (true);', { ...js, timeoutMs: 2_500 });
      await assert.rejects(long, /timed out/i);
      assert.equal((await sandbox.runCode('x', js)).text, '21');
      const ts = { ...PATIENT, language: 'typescript' } as const;
      assert.equal((await sandbox.runCode('interface A { n: number }\nconst a: A = { n: 4 }; a.n', ts)).text, '4');
      assert.equal((await sandbox.runCode('enum E { B = 3 }\nE.B + a.n', ts)).text, '7');
      const languages = (await sandbox.listCodeContexts()).map(({ language }) => language);
      assert.deepEqual(languages.slice(0, 2), ['python', 'javascript']);
      assert.ok(languages.includes('typescript'));
    },
  },
  {
    name: 'run_code in Bash: one shell, its exit codes, environment, interrupts; a context of its own',
    on: 'every kind',
    run: async ({ codeSandbox }) => {
      const sandbox = await codeSandbox({ envs: { FROM_CREATE: 'here' } });
      const bash = { ...PATIENT, language: 'bash' } as const;
      assert.equal((await sandbox.runCode('x=20; cd /tmp', bash)).error, undefined);
      const said = await sandbox.runCode('echo $((x + 1)) $PWD $FROM_CREATE $ONE; whoami >&2', {
        ...bash,
        envs: { ONE: '1' },
      });
      assert.deepEqual([said.logs.stdout.join(''), said.logs.stderr.join('')], ['21 /tmp here 1\n', 'user\n']);
      assert.deepEqual((await sandbox.runCode('(exit 7)', bash)).error?.value, '7');
      await assert.rejects(sandbox.runCode('sleep 600', { ...bash, timeoutMs: 1_500 }), /timed out/i);
      assert.equal((await sandbox.runCode('echo $x', bash)).logs.stdout.join(''), '20\n');
      const context = await sandbox.createCodeContext({ language: 'bash', cwd: '/usr', requestTimeoutMs: 120_000 });
      assert.equal((await sandbox.runCode('pwd', { ...PATIENT, context })).logs.stdout.join(''), '/usr\n');
    },
  },
  {
    name: 'run_code in R: values, a plot, a table, an error, state',
    on: 'every kind',
    run: async ({ codeSandbox }) => {
      const sandbox = await codeSandbox();
      const r = { ...PATIENT, language: 'r' } as const;
      assert.equal((await sandbox.runCode('x <- 20; x + 1', r)).text, '[1] 21');
      const [picture, table] = (await sandbox.runCode('plot(1:3)\ndata.frame(a = 1:2)', r)).results;
      assert.match(picture?.png ?? '', /^iVBOR/);
      assert.deepEqual(table?.data, { a: [1, 2] });
      assert.equal((await sandbox.runCode('stop("no")', r)).error?.value, 'no');
      assert.equal((await sandbox.runCode('x', r)).text, '[1] 20');
    },
  },
  {
    name: 'run_code in Java: snippets, values, streams, an error, state',
    on: {
      microvm: {
        reason: 'minutes where machines are emulated: that it is there is all that is asked',
        refused: async ({ codeSandbox }) => {
          const sandbox = await codeSandbox();
          assert.match((await sandbox.commands.run('readlink -f $(command -v java)', PATIENT)).stdout, /bin\/java/);
        },
      },
    },
    run: async ({ codeSandbox }) => {
      const sandbox = await codeSandbox();
      // A virtual machine and a compiler, which an emulated guest translates first.
      const java = { timeoutMs: 300_000, requestTimeoutMs: 300_000, language: 'java' } as const;
      assert.equal((await sandbox.runCode('int x = 20;\nx + 1', java)).text, '21');
      assert.equal((await sandbox.runCode('System.out.println("é" + x);', java)).logs.stdout.join(''), 'é20\n');
      assert.equal((await sandbox.runCode('x / 0', java)).error?.name, 'ArithmeticException');
      assert.equal((await sandbox.runCode('x', java)).text, '20');
    },
  },
  {
    name: 'run_code, commands and files see one machine',
    on: 'every kind',
    run: async ({ codeSandbox }) => {
      const sandbox = await codeSandbox();
      await sandbox.files.write('data.csv', 'a,b\n1,2\n3,4\n');
      const sum = await sandbox.runCode('import pandas\nint(pandas.read_csv("data.csv").to_numpy().sum())', PATIENT);
      assert.equal(sum.text, '10');
      await sandbox.runCode('open("made.txt", "w").write("of code")', PATIENT);
      assert.equal(await sandbox.files.read('made.txt'), 'of code');
      assert.equal(await say(sandbox, 'cat made.txt; stat -c %U made.txt'), 'of codeuser');
      assert.match(await say(sandbox, 'node -e "console.log(process.version)"; pip --version'), /^v\d+.*\npip \d/);
    },
  },
] satisfies Behaviour[];
