/**
 * The real @e2b/code-interpreter SDK, each generation of it, against the interpreter over the real agent; the control plane
 * is two canned replies.
 */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import http from 'node:http';
import type { AddressInfo } from 'node:net';
import { after, before, suite, test } from 'node:test';
import type { Sandbox } from '@e2b/code-interpreter';
import { createInterpreter, type Interpreter } from '../../src/envd/interpreter/index.ts';
import { silentLog } from '../../src/telemetry/log.ts';
import { INTERPRETER_GENERATIONS } from '../helpers/generations.ts';
import { type HostAgent, startHostAgent } from '../helpers/host-agent.ts';
import { KERNELS, type Loose, lacks } from '../helpers/interpreter-python.ts';

const options = { skip: lacks('IPython') };
const SANDBOX = {
  templateID: 'code-interpreter-v1',
  sandboxID: 'isdktest000000000000',
  clientID: '6532622b',
  envdVersion: '0.6.13',
  envdAccessToken: 'the-token',
};
for (const { name, sdk } of INTERPRETER_GENERATIONS)
  suite(name, () => {
    let agent: HostAgent;
    let interpreter: Interpreter;
    let server: http.Server;
    let sandbox: Sandbox;

    before(async () => {
      if (options.skip) return;
      agent = await startHostAgent();
      interpreter = createInterpreter(
        {
          sandboxID: SANDBOX.sandboxID,
          accessToken: SANDBOX.envdAccessToken,
          agent: () => agent.client,
          env: { AT_CREATE: 'env' },
          languages: ['python'],
        },
        { log: silentLog, kernels: KERNELS, cwd: `${agent.root}/home/user` },
      );
      server = http.createServer((req, res) => {
        if (req.headers['e2b-sandbox-port'] === '49999') return void interpreter.handle(req, res);
        res.setHeader('content-type', 'application/json');
        res.statusCode = 201;
        if (req.method === 'POST' && req.url === '/v2/sandboxes') return void res.end(JSON.stringify(SANDBOX));
        res.statusCode = 404;
        res.end(JSON.stringify({ code: 404, message: 'not here' }));
      });
      server.listen(0, '127.0.0.1');
      await once(server, 'listening');
      const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
      sandbox = await sdk.Sandbox.create({
        apiUrl: url,
        sandboxUrl: url,
        apiKey: `e2b_${'0'.repeat(40)}`,
        requestTimeoutMs: 10_000,
      });
    });
    after(async () => {
      interpreter?.close();
      server?.closeAllConnections();
      server?.close();
      await agent?.stop();
    });

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
