/**
 * The real @e2b/code-interpreter SDK, each generation of it, against the interpreter over the real agent; the control plane
 * is two canned replies.
 */
import assert from 'node:assert/strict';
import { after, before, suite, test } from 'node:test';
import type { Sandbox } from '@e2b/code-interpreter';
import { INTERPRETER_GENERATIONS } from '../helpers/generations.ts';
import { KERNELS, type Loose, lacks } from '../helpers/interpreter-python.ts';
import { type SdkInterpreter, serveSdkInterpreter } from '../helpers/interpreter-sdk.ts';

const options = { skip: lacks('IPython') };
for (const { name, sdk } of INTERPRETER_GENERATIONS)
  suite(name, () => {
    let served: SdkInterpreter | undefined;
    let sandbox: Sandbox;

    before(async () => {
      if (options.skip) return;
      served = await serveSdkInterpreter(['python'], KERNELS);
      sandbox = await sdk.Sandbox.create(served.connection);
    });
    after(() => served?.stop());

    test('runCode keeps state and gives text, logs, count', options, async () => {
      const first = await sandbox.runCode('x = 1\nx += 1\nprint("hello é😀")');
      assert.deepEqual(first.logs, { stdout: ['hello é😀\n'], stderr: [] });
      assert.equal(first.executionCount, 1);
      assert.equal(first.error, undefined);
      assert.equal((await sandbox.runCode('x')).text, '2');
    });

    test('callbacks get output as it comes', options, async () => {
      const seen: string[] = [];
      let early = false;
      const execution = await sandbox.runCode(
        'import sys, time\nprint("one")\ntime.sleep(0.5)\nprint("two", file=sys.stderr)\n42',
        {
          onStdout: (line) => {
            seen.push(`out ${line.line}`);
            early = !seen.some((it) => it.startsWith('err'));
          },
          onStderr: (line) => void seen.push(`err ${line.line}`),
          onResult: (result) => void seen.push(`result ${result.text}`),
        },
      );
      assert.deepEqual(seen, ['out one\n', 'err two\n', 'result 42']);
      assert.ok(early);
      assert.equal(execution.text, '42');
    });

    test('an error is told with name, value and traceback', options, async () => {
      const { error } = await sandbox.runCode('raise ValueError("no")');
      assert.deepEqual([error!.name, error!.value], ['ValueError', 'no']);
      assert.match(error!.traceback, /ValueError: no/);
    });

    test('a plot comes as png and as a chart', {
      skip: lacks('IPython', 'matplotlib', 'matplotlib_inline'),
    }, async () => {
      const execution = await sandbox.runCode(
        'import matplotlib.pyplot as plt\nplt.plot([1, 2], [3, 4], label="l")\nplt.title("T")\nplt.show()',
      );
      const [result] = execution.results;
      assert.match(result!.png!, /^iVBORw0KGgo/);
      const { chart } = result as unknown as { chart: Record<string, Loose> };
      assert.equal(chart.type, 'line');
      assert.deepEqual(chart.elements, [
        {
          label: 'l',
          points: [
            [1, 3],
            [2, 4],
          ],
        },
      ]);
    });

    test('environment of create and of one run', options, async () => {
      const code = 'import os\n(os.environ.get("AT_CREATE"), os.environ.get("RUN"))';
      assert.equal((await sandbox.runCode(code, { envs: { RUN: 'run' } })).text, "('env', 'run')");
      assert.equal((await sandbox.runCode(code)).text, "('env', None)");
    });

    test('contexts: create, list, run, restart, remove', options, async () => {
      const context = await sandbox.createCodeContext({ cwd: '/tmp' });
      assert.deepEqual([context.language, context.cwd], ['python', '/tmp']);
      assert.equal((await sandbox.runCode('y = 1\nimport os\nos.getcwd()', { context })).text, '/tmp');
      const list = await sandbox.listCodeContexts();
      assert.deepEqual(list.at(-1), context);
      assert.ok(list.length >= 2);
      await sandbox.restartCodeContext(context);
      assert.equal((await sandbox.runCode('y', { context })).error!.name, 'NameError');
      await sandbox.removeCodeContext(context.id);
      await assert.rejects(sandbox.runCode('1', { context, requestTimeoutMs: 2_000 }), sdk.NotFoundError);
      await assert.rejects(sandbox.restartCodeContext(context.id), sdk.NotFoundError);
    });

    test('a timeout aborts the run, and the next one works with the state', options, async () => {
      await sandbox.runCode('kept = 3');
      await assert.rejects(sandbox.runCode('import time\ntime.sleep(600)', { timeoutMs: 400 }), /Execution timed out/);
      assert.equal((await sandbox.runCode('kept')).text, '3');
    });

    test('a language that is not there is refused with the reason in the status', options, async () => {
      await assert.rejects(sandbox.runCode('1', { language: 'r', requestTimeoutMs: 2_000 }), /500/);
    });
  });
