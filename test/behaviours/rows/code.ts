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
      await assert.rejects(sandbox.runCode('1', { ...REFUSED, language: 'r' }), /500/);
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
