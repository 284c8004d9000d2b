/** Every language through the real @e2b/code-interpreter SDK and the real agent: contexts, state, environment, interrupts. */
import assert from 'node:assert/strict';
import test, { after, before } from 'node:test';
import { Sandbox } from '@e2b/code-interpreter';
import { reseedInterpreters } from '../../src/envd/interpreter/index.ts';
import { silentLog } from '../../src/telemetry/log.ts';
import { HOST_KERNELS, lacks } from '../helpers/interpreter-python.ts';
import { type SdkInterpreter, serveSdkInterpreter } from '../helpers/interpreter-sdk.ts';

const options = { skip: lacks('IPython') };
let served: SdkInterpreter | undefined;
let sandbox: Sandbox;

before(async () => {
  if (options.skip) return;
  served = await serveSdkInterpreter(['python', 'javascript', 'typescript', 'bash'], HOST_KERNELS);
  sandbox = await Sandbox.create(served.connection);
});
after(() => served?.stop());

/** What each language says of a variable of the environment, and how it keeps one of its own. */
const LANGUAGES = {
  javascript: {
    keep: 'const kept = 6',
    use: 'console.log(kept * 7)',
    env: (name: string) => `console.log(process.env.${name} ?? '')`,
  },
  js: {
    keep: 'let other = 6',
    use: 'console.log(kept * 7)',
    env: (name: string) => `console.log(process.env.${name} ?? '')`,
  },
  typescript: {
    keep: 'const kept: number = 6',
    use: 'console.log(kept * 7)',
    env: (name: string) => `console.log(process.env.${name} ?? '')`,
  },
  bash: { keep: 'kept=6', use: 'echo $((kept * 7))', env: (name: string) => `echo "$${name}"` },
} as const;

for (const [language, { keep, use, env }] of Object.entries(LANGUAGES))
  test(`${language}: state over runs, environment of create and of one run, counts, callbacks`, options, async () => {
    const first = await sandbox.runCode(keep, { language });
    assert.equal(first.error, undefined);
    const seen: string[] = [];
    const second = await sandbox.runCode(use, { language, onStdout: ({ line }) => void seen.push(line) });
    assert.deepEqual([seen.join(''), second.logs.stdout.join('')], ['42\n', '42\n']);
    assert.equal(second.executionCount, first.executionCount! + 1);
    const said = async (name: string, more = {}): Promise<string> =>
      (await sandbox.runCode(env(name), { language, ...more })).logs.stdout.join('');
    assert.equal(await said('AT_CREATE'), 'env\n');
    assert.equal(await said('RUN', { envs: { RUN: 'run' } }), 'run\n');
    assert.equal(await said('RUN'), '\n');
  });

test(
  'the default contexts of python and javascript are listed, those of others once they are used',
  options,
  async () => {
    const list = await sandbox.listCodeContexts();
    assert.deepEqual(
      list.slice(0, 4).map(({ language }) => language),
      ['python', 'javascript', 'typescript', 'bash'],
    );
    const code = 'console.log(1)';
    assert.equal((await sandbox.runCode(code, { context: list[1]! })).logs.stdout.join(''), '1\n');
  },
);

test('contexts of a language are apart: made in a directory, restarted, removed', options, async () => {
  const context = await sandbox.createCodeContext({ language: 'ts', cwd: '/tmp' });
  assert.deepEqual([context.language, context.cwd], ['typescript', '/tmp']);
  assert.equal((await sandbox.runCode('let own: string = process.cwd(); own', { context })).text, '/tmp');
  assert.equal((await sandbox.runCode('kept', { context })).error!.name, 'ReferenceError');
  await sandbox.restartCodeContext(context);
  assert.equal((await sandbox.runCode('own', { context })).error!.name, 'ReferenceError');
  await sandbox.removeCodeContext(context);
  assert.ok((await sandbox.listCodeContexts()).every(({ id }) => id !== context.id));
});

test('a timeout interrupts the run, and the next one works with the state', options, async () => {
  for (const [language, code] of [
    ['javascript', 'await null; while (true);'],
    ['javascript', 'while (true);'],
    ['bash', 'sleep 600'],
  ] as const)
    await assert.rejects(sandbox.runCode(code, { language, timeoutMs: 1_000 }), /Execution timed out/);
  assert.equal((await sandbox.runCode('kept', { language: 'javascript' })).text, '6');
  assert.equal((await sandbox.runCode('echo $kept', { language: 'bash' })).logs.stdout.join(''), '6\n');
});

test('a runtime that is killed is replaced, within a run and between runs', options, async () => {
  const died = await sandbox.runCode('process.kill(process.pid, "SIGKILL")', { language: 'js' });
  assert.equal(died.error!.name, 'UnexpectedEndOfExecution');
  assert.equal((await sandbox.runCode('1 + 1', { language: 'js' })).text, '2');
  const pid = (await sandbox.runCode('process.pid', { language: 'js' })).text!;
  process.kill(Number(pid), 'SIGKILL');
  await new Promise((resolve) => setTimeout(resolve, 200));
  assert.equal((await sandbox.runCode('typeof again', { language: 'js' })).text, 'undefined');
  assert.equal((await sandbox.runCode('exit 3', { language: 'bash' })).error!.value, '3');
  assert.equal((await sandbox.runCode('echo "new $kept"', { language: 'bash' })).logs.stdout.join(''), 'new \n');
});

test('reseeding reaches the programs of every language', options, async () => {
  const { reseeded, late } = await reseedInterpreters(served!.agent.client, Buffer.alloc(32, 1).toString('base64'), {
    log: silentLog,
    generation: 'g-7',
  });
  assert.ok(reseeded >= 3);
  assert.equal(late, 0);
  assert.equal((await sandbox.runCode('process.env.COPPICE_GENERATION', { language: 'js' })).text, 'g-7');
  assert.equal((await sandbox.runCode('echo $COPPICE_GENERATION', { language: 'bash' })).logs.stdout.join(''), 'g-7\n');
});
