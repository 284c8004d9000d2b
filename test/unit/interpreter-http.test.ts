/** The interpreter's HTTP contract over processes of this host: streams, contexts, errors, tokens, prestart. */
import assert from 'node:assert/strict';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import test, { after, before } from 'node:test';
import { prestartInterpreter, reseedInterpreters } from '../../src/envd/interpreter/index.ts';
import { silentLog } from '../../src/telemetry/log.ts';
import { createLocalAgent, type LocalAgent } from '../helpers/interpreter-local-agent.ts';
import { KERNELS, lacks } from '../helpers/interpreter-python.ts';
import { errorLine, type InterpreterServer, mainText, serveInterpreter } from '../helpers/interpreter-server.ts';

const options = { skip: lacks('IPython') };
const cwd = fs.realpathSync(fs.mkdtempSync(path.join(os.tmpdir(), 'coppice-interpreter-')));
const JSON_HEADERS = { 'content-type': 'application/json' };
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

test('GET /health answers a JSON string', async () => {
  assert.deepEqual(await server.fetch('/health'), { status: 200, text: '"OK"' });
});

test('/execute streams events; the last is end_of_execution', options, async () => {
  const lines = await server.execute({
    code: 'print("é")\n{"a": 1}',
    context_id: null,
    language: null,
    env_vars: null,
  });
  assert.deepEqual(
    lines.map((line) => line.type),
    ['number_of_executions', 'stdout', 'result', 'end_of_execution'],
  );
  assert.deepEqual(lines[0], { type: 'number_of_executions', execution_count: 1 });
  assert.equal(lines[1]!.text, 'é\n');
  assert.ok(!Number.isNaN(Date.parse(lines[1]!.timestamp)));
  assert.deepEqual(lines[2], { type: 'result', text: "{'a': 1}", json: { a: 1 }, is_main_result: true });
});

test('the wire is ASCII, so that no client can cut a character', options, async () => {
  const { text } = await server.fetch('/execute', {
    method: 'POST',
    headers: JSON_HEADERS,
    body: JSON.stringify({ code: 'print("é😀")\n"é"' }),
  });
  assert.match(text, /^[\x00-\x7e]*$/);
});

test('long results stream through and are one line of JSON', options, async () => {
  const lines = await server.execute({
    code: 'display({"text/plain": "é" * 300_000, "text/html": "<" * 200_000}, raw=True)\n1',
  });
  const [long, main] = lines.filter((line) => line.type === 'result');
  assert.equal(long!.text, 'é'.repeat(300_000));
  assert.equal(long!.html, '<'.repeat(200_000));
  assert.equal(long!.is_main_result, false);
  assert.equal(main!.text, '1');
});

test('the environment of create is there; env_vars are for one run', options, async () => {
  const code = 'import os; [os.environ.get("FROM_CREATE"), os.environ.get("ONCE")]';
  assert.equal(mainText(await server.execute({ code, env_vars: { ONCE: '1', FROM_CREATE: 'over' } })), "['over', '1']");
  assert.equal(mainText(await server.execute({ code })), "['yes', None]");
});

test(
  'contexts: created in order, apart from each other, with their own directory; restarted, removed',
  options,
  async () => {
    const first = await server.createContext();
    assert.deepEqual([first.language, first.cwd], ['python', cwd]);
    fs.mkdirSync(path.join(cwd, 'sub'));
    const second = await server.createContext({ language: 'Python', cwd: path.join(cwd, 'sub') });
    await server.execute({ code: 'x = "first"', context_id: first.id });
    await server.execute({ code: 'x = "second"', context_id: second.id });
    assert.equal(mainText(await server.execute({ code: 'x', context_id: first.id })), 'first');
    assert.equal(
      mainText(await server.execute({ code: 'import os; os.getcwd()', context_id: second.id })),
      path.join(cwd, 'sub'),
    );
    const list = JSON.parse((await server.fetch('/contexts')).text) as unknown[];
    assert.deepEqual(list.slice(-2), [first, second]);
    // An empty body that says it is JSON, as the SDKs send it.
    const restarted = await server.fetch(`/contexts/${first.id}/restart`, { method: 'POST', headers: JSON_HEADERS });
    assert.deepEqual(restarted, { status: 200, text: 'null' });
    const after = await server.execute({ code: 'x', context_id: first.id });
    assert.equal(errorLine(after)!.name, 'NameError');
    assert.equal(after[0]!.execution_count, 1);
    for (const { id } of [first, second]) {
      const removed = await server.fetch(`/contexts/${id}`, { method: 'DELETE', headers: JSON_HEADERS });
      assert.deepEqual(removed, { status: 200, text: 'null' });
      await assert.rejects(server.execute({ code: '1', context_id: id }), { message: `404 Context ${id} not found` });
    }
    assert.equal((JSON.parse((await server.fetch('/contexts')).text) as unknown[]).length, list.length - 2);
  },
);

test('refusals are plain text with the status that the SDKs expect', options, async () => {
  const post = (body: unknown, where = '/execute') =>
    server.fetch(where, {
      method: 'POST',
      headers: JSON_HEADERS,
      body: typeof body === 'string' ? body : JSON.stringify(body),
    });
  assert.deepEqual(await post({ code: '1', context_id: 'x', language: 'python' }), {
    status: 400,
    text: 'Only one of context_id or language can be provided',
  });
  assert.deepEqual(await post({ code: '1', context_id: 'nope' }), { status: 404, text: 'Context nope not found' });
  const unknown = await post({ code: '1', language: 'cobol' });
  assert.equal(unknown.status, 500);
  assert.match(unknown.text, /cobol/);
  const nowhere = await post({ cwd: '/does/not/exist' }, '/contexts');
  assert.equal(nowhere.status, 500);
  assert.match(nowhere.text, /\/does\/not\/exist/);
  for (const bad of [
    '{',
    '[]',
    '{"code":1}',
    '{}',
    '{"code":"1","env_vars":{"A":1}}',
    '{"code":"1","env_vars":{"A=B":"1"}}',
  ]) {
    assert.equal((await post(bad)).status, 400, bad);
  }
  assert.equal((await post({ code: 'x'.repeat(9 << 20) })).status, 413);
  assert.equal((await server.fetch('/nothing')).status, 404);
  assert.equal((await server.fetch('/execute')).status, 405);
  assert.equal((await server.fetch('/contexts/%E0%A4%A', { method: 'DELETE' })).status, 404);
});

test('a secured sandbox: /execute demands the token, /contexts only refuses a wrong one', options, async (t) => {
  const secured = await serveInterpreter(() => agent.client, {
    cwd,
    accessToken: 'tok',
    trafficAccessToken: undefined,
  });
  t.after(() => secured.stop());
  await assert.rejects(secured.execute({ code: '1' }), /^Error: 401 /);
  await assert.rejects(secured.execute({ code: '1' }, { 'x-access-token': 'tik' }), /^Error: 401 /);
  assert.equal(mainText(await secured.execute({ code: '1' }, { 'x-access-token': 'tok' })), '1');
  assert.equal((await secured.fetch('/contexts')).status, 200);
  assert.equal((await secured.fetch('/contexts', { headers: { 'x-access-token': 'no' } })).status, 401);
  const closed = await serveInterpreter(() => agent.client, { cwd, trafficAccessToken: 'in' });
  t.after(() => closed.stop());
  assert.equal((await closed.fetch('/health')).status, 403);
  assert.equal((await closed.fetch('/health', { headers: { 'e2b-traffic-access-token': 'in' } })).status, 200);
});

test(
  'prestart leaves a process that the first request finds, counting from 1; reseed reaches it',
  options,
  async (t) => {
    const own = createLocalAgent({ home: cwd });
    t.after(() => own.stop());
    // Without the warm-up: what it imports is not on every host.
    const kernels = { python: { ...KERNELS.python!, warmArgs: [] } };
    await prestartInterpreter(own.client, 'python', { log: silentLog, kernels, cwd });
    const processes = await own.client.processes({ services: true });
    assert.deepEqual(
      processes.map(({ tag, service, user }) => [tag, service, user]),
      [['interpreter:default:python', true, 'user']],
    );
    const entropy = Buffer.alloc(32, 1).toString('base64');
    const done = await reseedInterpreters(own.client, entropy, { log: silentLog, env: { GIVEN: 'env' } });
    assert.deepEqual(done, { reseeded: 1, late: 0 });
    const found = await serveInterpreter(() => own.client, { cwd, env: { GIVEN: 'env' } });
    t.after(() => found.stop());
    const list = JSON.parse((await found.fetch('/contexts')).text) as { id: string }[];
    assert.equal(list.length, 1);
    const lines = await found.execute({ code: 'import os\n[os.getpid(), os.environ["GIVEN"], Out]' });
    assert.equal(lines[0]!.execution_count, 1);
    assert.equal(mainText(lines), `[${processes[0]!.pid}, 'env', {}]`);
    // Another host process finds the same contexts again, by their tags.
    const again = await serveInterpreter(() => own.client, { cwd });
    t.after(() => again.stop());
    assert.deepEqual(JSON.parse((await again.fetch('/contexts')).text), list);
    assert.equal(
      mainText(await again.execute({ code: 'os.getpid()', context_id: list[0]!.id })),
      String(processes[0]!.pid),
    );
  },
);

test('a prestart that cannot work says why and leaves nothing', async (t) => {
  const own = createLocalAgent({ home: cwd });
  t.after(() => own.stop());
  const broken = { python: { cmd: '/bin/sh', args: ['-c', 'echo no such thing >&2; exit 3'] } };
  const failed = prestartInterpreter(own.client, 'python', { log: silentLog, kernels: broken, cwd });
  await assert.rejects(failed, /no such thing/);
  assert.deepEqual(await own.client.processes({ services: true }), []);
  const refused = await serveInterpreter(() => own.client, { cwd, kernels: broken });
  t.after(() => refused.stop());
  await assert.rejects(
    refused.execute({ code: '1' }),
    /500 Failed to start a python context: exit status 3: no such thing/,
  );
  assert.equal((await refused.fetch('/contexts')).text, '[]');
});

test('with no session the answer is the one of a dead sandbox', async (t) => {
  const dead = await serveInterpreter(
    () => {
      throw new Error('ended');
    },
    { cwd },
  );
  t.after(() => dead.stop());
  await assert.rejects(dead.execute({ code: '1' }), /502 .*The sandbox was not found/);
  assert.equal((await dead.fetch('/contexts')).status, 502);
});
