/** Pausing and resuming over E2B's REST contract: statuses, shapes, refusals. */
import assert from 'node:assert/strict';
import test from 'node:test';
import { Sandbox as Newest } from 'e2b';
import { Sandbox as Older } from 'e2b-245';
import { createFakeNode, serveAPI } from '../helpers/fake-node.ts';

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
  const { call, create, read } = await rig(t);
  const id = await create({ templateID: 'base' });
  const answer = await call('POST', `/sandboxes/${id}/pause`);
  assert.deepEqual(answer.json, { code: 501, message: 'pause is not implemented for microvm sandboxes yet' });
  assert.equal((await read(id)).state, 'running');
});

test('a pause without memory is refused by name; other bodies that are none are 400', async (t) => {
  const { call, create, read } = await rig(t);
  const id = await create();
  const refused = await call('POST', `/sandboxes/${id}/pause`, { body: { memory: false } });
  assert.equal(refused.status, 400);
  assert.match(refused.json.message, /^memory is not supported/);
  for (const body of ['{', '[]', { memory: 'no' }, { memory: 1 }])
    assert.match((await call('POST', `/sandboxes/${id}/pause`, { body })).json.message, /^validation error: /);
  assert.equal((await read(id)).state, 'running');
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
  for (const [name, body] of [
    ['memory', { memory: false }],
    ['autoPause', { autoPause: true }],
  ] as const)
    assert.ok((await call('POST', path, { body })).json.message.startsWith(`${name} is not supported`), name);
  for (const timeout of [0, -1, 86_401, 'x', 1.5])
    assert.equal((await call('POST', path, { body: { timeout } })).status, 400);
  assert.equal((await read(id)).state, 'paused');
  assert.equal((await call('POST', '/sandboxes/inothing/resume')).status, 404);
});

test('auto-pause is kept, shown and honoured where it can be, and refused by name where not', async (t) => {
  const { node, call, create, read, advance } = await rig(t);
  for (const path of ['/sandboxes', '/v2/sandboxes']) {
    const body = { templateID: 'base-jail', timeout: 100, autoPause: true, autoPauseMemory: true };
    const { json } = await call('POST', path, { body });
    assert.equal(node.requests.at(-1)!.onTimeout, 'pause');
    assert.deepEqual((await read(json.sandboxID)).lifecycle, { autoResume: false, onTimeout: 'pause' });
    advance(101);
    assert.equal((await read(json.sandboxID)).state, 'paused');
    const refused = await call('POST', path, { body: { ...body, templateID: 'base' } });
    assert.equal(refused.status, 400);
    assert.match(refused.json.message, /^autoPause is not supported/);
    const resumes = await call('POST', path, { body: { ...body, autoResume: { enabled: true } } });
    assert.match(resumes.json.message, /^autoResume is not supported/);
    const without = await call('POST', path, { body: { ...body, autoPauseMemory: false } });
    assert.match(without.json.message, /^autoPauseMemory is not supported/);
  }
  const plain = await create();
  assert.equal('onTimeout' in node.requests.at(-1)!, false);
  assert.deepEqual((await read(plain)).lifecycle, { autoResume: false, onTimeout: 'kill' });
});

for (const [name, Sandbox] of [
  ['e2b 2.51.0', Newest],
  ['e2b 2.45.0', Older as unknown as typeof Newest],
] as const)
  test(`${name}: pause, connect, lifecycle`, async (t) => {
    const { url, key } = await rig(t);
    const options = { apiUrl: url, apiKey: key, sandboxUrl: url };
    const { sandboxId } = await Sandbox.create('base-jail', { ...options, lifecycle: { onTimeout: 'pause' } });
    const info = await Sandbox.getInfo(sandboxId, options);
    assert.equal(info.lifecycle?.onTimeout, 'pause');
    assert.equal(await Sandbox.pause(sandboxId, options), true);
    assert.equal(await Sandbox.pause(sandboxId, options), false);
    await assert.rejects(Sandbox.pause('inothing', options), { name: /NotFound/ });
    await Sandbox.connect(sandboxId, options);
    assert.equal((await Sandbox.getInfo(sandboxId, options)).state, 'running');
    await Sandbox.pause(sandboxId, options);
    assert.equal(await Sandbox.kill(sandboxId, options), true);
  });
