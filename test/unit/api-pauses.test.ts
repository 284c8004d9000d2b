/** Pausing and resuming over E2B's REST contract: statuses, shapes, refusals. */
import assert from 'node:assert/strict';
import test from 'node:test';
import { Sandbox as Newest } from 'e2b';
import { CoppiceError } from '../../src/contract/errors.ts';
import { createFakeNode, serveAPI } from '../helpers/fake-node.ts';
import { GENERATIONS } from '../helpers/generations.ts';

const JSON_TYPE = { 'content-type': 'application/json' };

/** A node whose clock the test sets. */
async function rig(t: test.TestContext) {
  let nowMs = 1_767_225_600_000;
  const node = createFakeNode({ now: () => nowMs });
  const api = await serveAPI(node);
  t.after(api.close);
  const create = async (body: object = {}): Promise<string> => {
    const wish = { templateID: 'base-jail', timeout: 100, ...body };
    return (await api.call('POST', '/v2/sandboxes', { body: wish })).json.sandboxID;
  };
  const read = async (id: string) => (await api.call('GET', `/sandboxes/${id}`)).json;
  const advance = (seconds: number): void => {
    nowMs += seconds * 1000;
  };
  return { node, ...api, create, read, now: () => nowMs, advance };
}

test('pause is 204 once, then 409; its end is when it was paused, and it outlives its deadline', async (t) => {
  const { call, create, read, now, advance } = await rig(t);
  const id = await create();
  advance(10);
  const paused = await call('POST', `/sandboxes/${id}/pause`, { headers: JSON_TYPE });
  assert.equal(paused.status, 204);
  assert.equal(paused.text, '');
  const again = await call('POST', `/sandboxes/${id}/pause`, { body: { memory: true } });
  assert.deepEqual(again.json, { code: 409, message: `Sandbox "${id}" is already paused` });
  const { state, startedAt, endAt } = await read(id);
  assert.equal(state, 'paused');
  assert.equal(Date.parse(endAt), now());
  assert.equal(Date.parse(startedAt), now() - 10_000);
  advance(100_000);
  assert.equal((await read(id)).state, 'paused');
  for (const verb of ['timeout', 'refreshes'])
    assert.equal((await call('POST', `/sandboxes/${id}/${verb}`, { body: { timeout: 1 } })).status, 404, verb);
  assert.equal((await call('DELETE', `/sandboxes/${id}`)).status, 204);
  assert.equal((await call('POST', `/sandboxes/${id}/pause`)).status, 404);
});

test('of a kind that cannot: 501 by name, and it goes on', async (t) => {
  const { node, call, create, read } = await rig(t);
  const id = await create();
  node.failNext(new CoppiceError('not_implemented', 'pause is not implemented for such sandboxes yet'));
  const answer = await call('POST', `/sandboxes/${id}/pause`);
  assert.deepEqual(answer.json, { code: 501, message: 'pause is not implemented for such sandboxes yet' });
  assert.equal((await read(id)).state, 'running');
});

test('a pause keeps memory unless it is told not to; other bodies that are none are 400', async (t) => {
  const { node, call, create, read } = await rig(t);
  const id = await create();
  for (const body of ['{', '[]', { memory: 'no' }, { memory: 1 }])
    assert.match((await call('POST', `/sandboxes/${id}/pause`, { body })).json.message, /^validation error: /);
  assert.equal((await read(id)).state, 'running');
  for (const [body, memory] of [
    [undefined, true],
    [{}, true],
    [{ memory: null }, true],
    [{ memory: true, aMemberOfTheFuture: 1 }, true],
    [{ memory: false }, false],
  ] as const) {
    assert.equal((await call('POST', `/sandboxes/${id}/pause`, { body })).status, 204);
    assert.deepEqual(node.wishes.at(-1), { memory });
    assert.equal((await call('POST', `/sandboxes/${id}/resume`)).status, 201);
  }
});

test('what was paused with its memory can be asked to boot, by each of the three verbs', async (t) => {
  const { node, call, create } = await rig(t);
  const id = await create();
  for (const verb of [`/sandboxes/${id}/connect`, `/v2/sandboxes/${id}/connect`, `/sandboxes/${id}/resume`])
    for (const [memory, wish] of [
      [false, { timeoutSeconds: 30, memory: false }],
      [true, { timeoutSeconds: 30 }],
    ] as const) {
      await call('POST', `/sandboxes/${id}/pause`);
      const answer = await call('POST', verb, { body: { timeout: 30, memory } });
      assert.equal(answer.status, 201, verb);
      assert.equal(answer.json.sandboxID, id);
      assert.deepEqual(node.wishes.at(-1), wish);
    }
});

test('the receipts come as Server-Timing, a capture with how long the machine stood', async (t) => {
  const { call, create } = await rig(t);
  const id = await create();
  const pause = await call('POST', `/sandboxes/${id}/pause`);
  assert.equal(pause.headers['server-timing'], 'capture;dur=5, pause;dur=2.25, total;dur=7.5');
  const resumed = 'restore;dur=2, total;dur=3;desc="shell"';
  for (const verb of [`/sandboxes/${id}/connect`, `/v2/sandboxes/${id}/connect`]) {
    const body = { timeout: 30 };
    assert.equal((await call('POST', verb, { body })).headers['server-timing'], resumed);
    const running = await call('POST', verb, { body });
    assert.equal(running.status, 200);
    assert.equal('server-timing' in running.headers, false, 'there was nothing to do');
    await call('POST', `/sandboxes/${id}/pause`);
  }
  assert.equal((await call('POST', `/sandboxes/${id}/resume`)).headers['server-timing'], resumed);
});

test('resume: 201 with now + timeout, 15 s when nothing is said, 409 when it runs', async (t) => {
  const { call, create, read, now } = await rig(t);
  const id = await create();
  const path = `/sandboxes/${id}/resume`;
  const running = await call('POST', path, { body: { timeout: 5000 } });
  assert.deepEqual(running.json, { code: 409, message: `Sandbox "${id}" is already running` });
  assert.equal(Date.parse((await read(id)).endAt), now() + 100_000, 'its deadline is as it was');
  for (const [body, seconds] of [
    [undefined, 15],
    [{}, 15],
    [{ timeout: 7, autoPause: false, memory: true }, 7],
    [{ timeout: null, aMemberOfTheFuture: 1 }, 15],
  ] as const) {
    assert.equal((await call('POST', `/sandboxes/${id}/pause`)).status, 204);
    const answer = await call('POST', path, { body, headers: JSON_TYPE });
    assert.equal(answer.status, 201);
    assert.equal(answer.json.sandboxID, id);
    assert.equal(Date.parse((await read(id)).endAt), now() + seconds * 1000);
  }
  await call('POST', `/sandboxes/${id}/pause`);
  assert.match((await call('POST', path, { body: { autoPause: true } })).json.message, /^autoPause is not supported/);
  for (const timeout of [0, -1, 86_401, 'x', 1.5])
    assert.equal((await call('POST', path, { body: { timeout } })).status, 400);
  assert.equal((await read(id)).state, 'paused');
  assert.equal((await call('POST', '/sandboxes/inothing/resume')).status, 404);
});

test('auto-pause of either kind and auto-resume are kept, shown and honoured', async (t) => {
  const { node, call, create, read, advance } = await rig(t);
  const table: [object, object, boolean][] = [
    [{ autoPause: true }, { onTimeout: 'pause' }, false],
    [{ autoPause: true, autoPauseMemory: true, autoResume: { enabled: false } }, { onTimeout: 'pause' }, false],
    [{ autoPause: true, autoPauseMemory: false }, { onTimeout: 'pause', pauseMemory: false }, false],
    [{ autoPause: true, autoResume: { enabled: true } }, { onTimeout: 'pause', autoResume: true }, true],
  ];
  for (const path of ['/sandboxes', '/v2/sandboxes'])
    for (const [members, wish, autoResume] of table) {
      const { json } = await call('POST', path, { body: { templateID: 'base', timeout: 100, ...members } });
      const { onTimeout, pauseMemory, autoResume: resumes } = node.requests.at(-1)!;
      const got = Object.entries({ onTimeout, pauseMemory, autoResume: resumes }).filter(([, value]) => value != null);
      assert.deepEqual(Object.fromEntries(got), wish);
      assert.deepEqual((await read(json.sandboxID)).lifecycle, { autoResume, onTimeout: 'pause' });
      advance(101);
      assert.equal((await read(json.sandboxID)).state, 'paused');
    }
  const plain = await create();
  for (const name of ['onTimeout', 'pauseMemory', 'autoResume']) assert.equal(name in node.requests.at(-1)!, false);
  assert.deepEqual((await read(plain)).lifecycle, { autoResume: false, onTimeout: 'kill' });
});

test('what does not go together is refused before the node is asked; what the node cannot, by its own words', async (t) => {
  const { node, call } = await rig(t);
  const table: [object, RegExp][] = [
    [{ autoResume: { enabled: true } }, /^autoResume only applies when autoPause is true/],
    [{ autoPause: false, autoResume: { enabled: true } }, /^autoResume only applies when autoPause is true/],
    [{ autoPauseMemory: false }, /^autoPauseMemory=false only applies when autoPause is true/],
    [{ autoPause: false, autoPauseMemory: false }, /^autoPauseMemory=false only applies when autoPause is true/],
    [
      { autoPause: true, autoPauseMemory: false, autoResume: { enabled: true } },
      /^autoPauseMemory=false cannot be combined with autoResume/,
    ],
  ];
  for (const path of ['/sandboxes', '/v2/sandboxes']) {
    for (const [members, message] of table) {
      const answer = await call('POST', path, { body: { templateID: 'base', ...members } });
      assert.equal(answer.status, 400);
      assert.match(answer.json.message, message);
    }
    assert.equal(node.requests.length, 0);
    node.failNext(new CoppiceError('unsupported_policy', 'autoPause is not supported for such sandboxes'));
    const refused = await call('POST', path, { body: { templateID: 'base', autoPause: true } });
    assert.deepEqual(refused.json, { code: 400, message: 'autoPause is not supported for such sandboxes' });
  }
});

for (const { name, sdk } of GENERATIONS)
  test(`${name}: pause, connect, lifecycle`, async (t) => {
    const { Sandbox } = sdk;
    const { url, key, node } = await rig(t);
    const options = { apiUrl: url, apiKey: key, sandboxUrl: url };
    const { sandboxId } = await Sandbox.create('base-jail', { ...options, lifecycle: { onTimeout: 'pause' } });
    const info = await Sandbox.getInfo(sandboxId, options);
    assert.equal(info.lifecycle?.onTimeout, 'pause');
    assert.equal(await Sandbox.pause(sandboxId, options), true);
    assert.equal(await Sandbox.pause(sandboxId, options), false);
    await assert.rejects(Sandbox.pause('inothing', options), { name: /NotFound/ });
    await Sandbox.connect(sandboxId, options);
    assert.equal((await Sandbox.getInfo(sandboxId, options)).state, 'running');
    assert.equal(await Sandbox.pause(sandboxId, { ...options, keepMemory: false }), true);
    assert.deepEqual(node.wishes.at(-1), { memory: false });
    await Sandbox.connect(sandboxId, options);
    await Sandbox.pause(sandboxId, options);
    assert.equal(await Sandbox.kill(sandboxId, options), true);
    const lifecycle = { onTimeout: 'pause', autoResume: true } as const;
    const resumes = await Sandbox.create('base', { ...options, lifecycle });
    assert.deepEqual((await Sandbox.getInfo(resumes.sandboxId, options)).lifecycle, lifecycle);
    const onTimeout = { action: 'pause', keepMemory: false } as const;
    await Sandbox.create('base', { ...options, lifecycle: { onTimeout } });
    const { pauseMemory, autoResume } = node.requests.at(-1)!;
    assert.deepEqual([pauseMemory, autoResume], [false, undefined]);
  });

test('e2b 2.51.0: onResume', async (t) => {
  const { url, key, node } = await rig(t);
  const options = { apiUrl: url, apiKey: key, sandboxUrl: url };
  const { sandboxId } = await Newest.create('base', options);
  for (const [onResume, memory] of [
    ['reboot', { memory: false }],
    ['restore', {}],
  ] as const) {
    await Newest.pause(sandboxId, options);
    await Newest.connect(sandboxId, { ...options, timeoutMs: 60_000, onResume });
    assert.deepEqual(node.wishes.at(-1), { timeoutSeconds: 60, ...memory });
  }
});
