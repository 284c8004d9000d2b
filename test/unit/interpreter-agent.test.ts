/** The interpreter through the real agent and channel: prestart, reseed, sessions that change, back pressure, interrupts. */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import test, { after, before } from 'node:test';
import { prestartInterpreter, reseedInterpreters } from '../../src/envd/interpreter/index.ts';
import { silentLog } from '../../src/telemetry/log.ts';
import { type HostAgent, startHostAgent } from '../helpers/host-agent.ts';
import { KERNELS, lacks } from '../helpers/interpreter-python.ts';
import {
  errorLine,
  type InterpreterServer,
  mainText,
  openExecution,
  serveInterpreter,
  stdoutOf,
} from '../helpers/interpreter-server.ts';

const options = { skip: lacks('IPython') };
let agent: HostAgent;
let server: InterpreterServer;
let cwd: string;
before(async () => {
  agent = await startHostAgent();
  cwd = `${agent.root}/home/user`;
  server = await serveInterpreter(() => agent.client, { cwd, env: { GIVEN: 'at create' } });
});
after(async () => {
  await server.stop();
  await agent.stop();
});

test('a pre-started process answers the first request, counting from 1, with its environment', options, async () => {
  const kernels = { python: { ...KERNELS.python!, warmArgs: [] } };
  await prestartInterpreter(agent.client, 'python', { log: silentLog, kernels, cwd });
  assert.deepEqual(await agent.client.processes(), []);
  const [info] = await agent.client.processes({ services: true });
  assert.equal(info!.tag, 'interpreter:default:python');
  // The clone's own session.
  await agent.reconnect();
  const entropy = randomBytes(32).toString('base64');
  assert.deepEqual(await reseedInterpreters(agent.client, entropy, { log: silentLog }), { reseeded: 1, late: 0 });
  await agent.reconnect();
  const lines = await server.execute({ code: 'import os\n(os.getpid(), os.environ["GIVEN"], Out)' });
  assert.equal(lines[0]!.execution_count, 1);
  assert.equal(mainText(lines), `(${info!.pid}, 'at create', {})`);
});

test('state outlives the session with the agent, in the default context and in others', options, async () => {
  const created = await server.fetch('/contexts', { method: 'POST', body: '{}' });
  const { id } = JSON.parse(created.text) as { id: string };
  await server.execute({ code: 'x = "default"' });
  await server.execute({ code: 'x = "mine"', context_id: id });
  await agent.reconnect();
  assert.equal(mainText(await server.execute({ code: 'x' })), 'default');
  assert.equal(mainText(await server.execute({ code: 'x', context_id: id })), 'mine');
});

test('a session that ends in the middle of a run cuts the stream; the run goes on in the guest', options, async () => {
  const run = await openExecution(server.url, {
    code: 'import time\nprint("on")\nfor i in range(30):\n    time.sleep(0.01); print(i)\nover = True',
  });
  while ((await run.next()).type !== 'stdout');
  agent.client.close();
  await assert.rejects(async () => {
    for (;;) await run.next();
  });
  await agent.reconnect();
  assert.equal(mainText(await server.execute({ code: 'over' })), 'True');
});

test('a client that leaves interrupts its run', options, async () => {
  const run = await openExecution(server.url, { code: 'kept = 5\nprint("on")\nwhile True: pass' });
  while ((await run.next()).type !== 'stdout');
  run.abort();
  assert.equal(mainText(await server.execute({ code: 'kept' })), '5');
});

test('a client that does not read holds its run back, and what it reads later is whole', options, async () => {
  const run = await openExecution(server.url, {
    code: 'import sys\nfor i in range(400): sys.stdout.write("y" * 32768)',
  });
  await new Promise((resolve) => setTimeout(resolve, 300));
  let bytes = 0;
  for (let line = await run.next(); line.type !== 'end_of_execution'; line = await run.next()) {
    if (line.type === 'stdout') bytes += line.text.length;
  }
  assert.equal(bytes, 400 * 32_768);
});

test('a process that dies is replaced', options, async () => {
  const died = await server.execute({ code: 'import os; os._exit(1)' });
  assert.equal(errorLine(died)!.name, 'UnexpectedEndOfExecution');
  const next = await server.execute({ code: 'import os\nprint(os.environ["GIVEN"])\n"over" in globals()' });
  assert.equal(stdoutOf(next), 'at create\n');
  assert.equal(mainText(next), 'False');
});

test('restart and remove end the process', options, async () => {
  const { id } = JSON.parse((await server.fetch('/contexts', { method: 'POST' })).text) as { id: string };
  const pidOf = async (): Promise<string> =>
    mainText(await server.execute({ code: 'import os\nos.getpid()', context_id: id }))!;
  const before = await pidOf();
  assert.equal((await server.fetch(`/contexts/${id}/restart`, { method: 'POST' })).status, 200);
  const after = await pidOf();
  assert.notEqual(after, before);
  assert.equal((await server.fetch(`/contexts/${id}`, { method: 'DELETE' })).status, 200);
  const pids = (await agent.client.processes({ services: true })).map(({ pid }) => String(pid));
  assert.ok(!pids.includes(before) && !pids.includes(after));
});
