/** What `@e2b/code-interpreter` adds to a sandbox. */
import assert from 'node:assert/strict';
import { PATIENT } from '../../behaviours/support/asks.ts';
import type { CodeRow } from '../row.ts';

export default [
  {
    method: 'sandbox.runCode',
    proves: 'state, text, output as it comes, an error with its traceback, environment',
    run: async ({ sandbox }) => {
      await sandbox.runCode('x = 41', PATIENT);
      const lines: string[] = [];
      const run = await sandbox.runCode('import os\nprint(os.environ["A"])\nx + 1', {
        ...PATIENT,
        envs: { A: 'b' },
        onStdout: ({ line }) => void lines.push(line),
      });
      assert.deepEqual([run.text, run.logs.stdout.join(''), lines.join('')], ['42', 'b\n', 'b\n']);
      const { error } = await sandbox.runCode('1 / 0', PATIENT);
      assert.equal(error?.name, 'ZeroDivisionError');
      assert.match(error?.traceback ?? '', /1 \/ 0/);
    },
  },
  {
    method: 'sandbox.runCode',
    proves: 'a picture and its chart, a table, JavaScript; too long is interrupted, the state kept',
    slow: true,
    run: async ({ sandbox }) => {
      const plot = 'kept = 3\nimport matplotlib.pyplot as plt\nplt.plot([1, 2]); plt.title("T"); plt.show()';
      const [picture] = (await sandbox.runCode(plot, PATIENT)).results;
      assert.match(picture?.png ?? '', /^iVBOR/);
      assert.equal(picture?.chart?.title, 'T');
      const [table] = (await sandbox.runCode('import pandas\npandas.DataFrame({"a": [1]})', PATIENT)).results;
      assert.deepEqual(table?.data, { a: [1] });
      assert.equal((await sandbox.runCode('20 + 1', { ...PATIENT, language: 'js' })).text, '21');
      await assert.rejects(sandbox.runCode('while True: pass', { ...PATIENT, timeoutMs: 1_000 }), /timed out/i);
      assert.equal((await sandbox.runCode('kept', PATIENT)).text, '3');
    },
  },
  {
    method: 'sandbox.createCodeContext',
    also: ['sandbox.listCodeContexts', 'sandbox.removeCodeContext'],
    proves: 'in its folder, apart from others; listed; removed, it runs nothing',
    run: async ({ sandbox, sdk }) => {
      await sandbox.runCode('mine = 1', PATIENT);
      const context = await sandbox.createCodeContext({ cwd: '/tmp', requestTimeoutMs: 120_000 });
      const code = 'import os; (os.getcwd(), "mine" in dir())';
      assert.equal((await sandbox.runCode(code, { ...PATIENT, context })).text, "('/tmp', False)");
      assert.ok((await sandbox.listCodeContexts()).some(({ id, cwd }) => id === context.id && cwd === '/tmp'));
      await sandbox.removeCodeContext(context);
      assert.ok(!(await sandbox.listCodeContexts()).some(({ id }) => id === context.id));
      // Of a request that is refused the SDK's timer runs on, and holds the process.
      await assert.rejects(sandbox.runCode('1', { requestTimeoutMs: 10_000, context }), sdk.NotFoundError);
    },
  },
  {
    method: 'sandbox.restartCodeContext',
    proves: 'it goes on without its state',
    run: async ({ sandbox }) => {
      const context = await sandbox.createCodeContext({ requestTimeoutMs: 120_000 });
      await sandbox.runCode('y = 2', { ...PATIENT, context });
      await sandbox.restartCodeContext(context);
      assert.equal((await sandbox.runCode('y', { ...PATIENT, context })).error?.name, 'NameError');
      await sandbox.removeCodeContext(context);
    },
  },
] satisfies CodeRow[];
