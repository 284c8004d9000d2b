/** Runs of the interpreter over processes of this host: interrupts, queues, keepalives, death and restart. */
import assert from 'node:assert/strict';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import test, { after, before } from 'node:test';
import { createLocalAgent, type LocalAgent } from '../helpers/interpreter-local-agent.ts';
import { lacks } from '../helpers/interpreter-python.ts';
import {
  errorLine,
  type InterpreterServer,
  mainText,
  openExecution,
  serveInterpreter,
  stdoutOf,
} from '../helpers/interpreter-server.ts';

const options = { skip: lacks('IPython') };
const cwd = fs.realpathSync(fs.mkdtempSync(path.join(os.tmpdir(), 'coppice-interpreter-')));
let agent: LocalAgent;
let server: InterpreterServer;
before(async () => {
  agent = createLocalAgent({ home: cwd });
  server = await serveInterpreter(() => agent.client, { cwd, env: { FROM_CREATE: 'yes' } });
});
after(async () => {
  await server.stop();
  await agent.stop();
  fs.rmSync(cwd, { recursive: true, force: true });
});

test('a client that leaves interrupts its run, and the next one goes on with the state', options, async () => {
  const { id } = await server.createContext();
  await server.execute({ code: 'kept = 1', context_id: id });
  const run = await openExecution(server.url, { code: 'import time\nprint("on")\ntime.sleep(600)', context_id: id });
  while ((await run.next()).type !== 'stdout');
  run.abort();
  const next = await server.execute({ code: 'kept', context_id: id });
  assert.equal(mainText(next), '1');
  assert.ok(agent.signals.some(({ signal }) => signal === 'SIGINT'));
});

test('a run that swallows one interrupt gets another', options, async () => {
  const { id } = await server.createContext();
  const code =
    'import time\nprint("on")\nfor i in range(3):\n    try:\n        time.sleep(600)\n    except KeyboardInterrupt: pass';
  const run = await openExecution(server.url, { code, context_id: id });
  while ((await run.next()).type !== 'stdout');
  run.abort();
  assert.equal(mainText(await server.execute({ code: '"next"', context_id: id })), 'next');
});

test(
  'runs of one context wait for each other, contexts run side by side; one that waits can leave',
  options,
  async () => {
    const { id } = await server.createContext();
    const gate = path.join(cwd, 'gate');
    const slow = await openExecution(server.url, {
      code: `import os, time\nprint("in")\nwhile not os.path.exists(${JSON.stringify(gate)}): time.sleep(0.01)\nstep = 1`,
      context_id: id,
    });
    while ((await slow.next()).type !== 'stdout');
    const leaving = await openExecution(server.url, { code: 'step = 100', context_id: id });
    const waiting = server.execute({ code: 'step', context_id: id });
    assert.equal(mainText(await server.execute({ code: '"side by side"' })), 'side by side');
    leaving.abort();
    await new Promise((resolve) => setTimeout(resolve, 50));
    fs.writeFileSync(gate, '');
    assert.equal(mainText(await waiting), '1');
  },
);

test('the queue of a context is bounded', options, async () => {
  const { id } = await server.createContext();
  const slow = await openExecution(server.url, { code: 'import time\nprint(1)\ntime.sleep(600)', context_id: id });
  while ((await slow.next()).type !== 'stdout');
  const many = await Promise.all(
    Array.from({ length: 64 }, () => openExecution(server.url, { code: '1', context_id: id })),
  );
  assert.deepEqual(
    many.map((it) => it.status).filter((status) => status !== 200),
    [429],
  );
  for (const it of [slow, ...many]) it.abort();
  const deadline = performance.now() + 10_000;
  let last: string | undefined;
  while (last === undefined && performance.now() < deadline) {
    last = await server.execute({ code: '2', context_id: id }).then(mainText, () => undefined);
  }
  assert.equal(last, '2');
});

test('a keepalive comes while nothing else does', options, async (t) => {
  const quick = await serveInterpreter(() => agent.client, { cwd, keepaliveMs: 30 });
  t.after(() => quick.stop());
  const lines = await quick.execute({ code: 'import time; time.sleep(0.3)' });
  assert.ok(lines.filter((line) => line.type === 'keepalive').length >= 2);
  assert.equal(lines.at(-1)!.type, 'end_of_execution');
});

test('a dead process ends its run with an error, and the next run has a new one', options, async () => {
  const { id } = await server.createContext();
  const died = await server.execute({ code: 'x = 1\nimport os\nos._exit(9)', context_id: id });
  assert.equal(errorLine(died)!.name, 'UnexpectedEndOfExecution');
  assert.match(errorLine(died)!.value, /exit status 9/);
  assert.equal(died.at(-1)!.type, 'end_of_execution');
  const healed = await server.execute({ code: '"x" in globals()', context_id: id });
  assert.equal(mainText(healed), 'False');
  assert.equal(healed[0]!.execution_count, 1);
});

test('a process that dies between runs is not noticed by the next run', options, async () => {
  const { id } = await server.createContext();
  const { pid } = (await agent.client.processes({ services: true })).find((info) => info.tag?.endsWith(id))!;
  process.kill(-pid, 'SIGKILL');
  assert.equal(mainText(await server.execute({ code: '1', context_id: id })), '1');
});

test('a restart tells the run that it ends, and those that wait go on', options, async () => {
  const { id } = await server.createContext();
  const run = await openExecution(server.url, { code: 'import time\nprint(1)\ntime.sleep(600)', context_id: id });
  while ((await run.next()).type !== 'stdout');
  const waiting = server.execute({ code: '"after"', context_id: id });
  await new Promise((resolve) => setTimeout(resolve, 50));
  assert.equal((await server.fetch(`/contexts/${id}/restart`, { method: 'POST' })).text, 'null');
  assert.equal((await run.next()).name, 'ContextRestarting');
  assert.equal((await run.next()).type, 'end_of_execution');
  assert.equal(mainText(await waiting), 'after');
});

test(
  'what is left on stdout by user code does not break the protocol, and a broken one is replaced',
  options,
  async () => {
    const { id } = await server.createContext();
    // 101: the duplicate of the program's own stdout (wire.py).
    const noise = await server.execute({
      code: `import os\nos.write(101, b'garbage {"type":"end_of_execution"}\\n{"type":[]}\\n')\nprint("still here")`,
      context_id: id,
    });
    assert.equal(stdoutOf(noise), 'still here\n');
    const flood = await server.execute({ code: 'for i in range(6): os.write(101, b"x" * 1_000_000)', context_id: id });
    assert.equal(errorLine(flood)!.name, 'UnexpectedEndOfExecution');
    assert.equal(mainText(await server.execute({ code: '"new"', context_id: id })), 'new');
  },
);
