/** Forks over E2B's REST contract: each with its own outcome, statuses, shapes, refusals. */
import assert from 'node:assert/strict';
import test from 'node:test';
import { CoppiceError } from '../../src/contract/errors.ts';
import type { ForkWish } from '../../src/contract/node-api.ts';
import { createFakeNode, serveAPI } from '../helpers/fake-node.ts';
import { GENERATIONS } from '../helpers/generations.ts';

/** @param capacity sandboxes that the node has room for */
async function rig(t: test.TestContext, capacity = 1000) {
  const fake = createFakeNode({ capacity });
  const wishes: ForkWish[] = [];
  const signals: (AbortSignal | undefined)[] = [];
  const node: typeof fake = {
    ...fake,
    forkSandbox: (teamID, sandboxID, wish, signal) => {
      wishes.push(wish);
      signals.push(signal);
      return fake.forkSandbox(teamID, sandboxID, wish, signal);
    },
  };
  const api = await serveAPI(node, { domain: 'sandboxes.test' });
  t.after(api.close);
  const create = async (templateID = 'base'): Promise<string> =>
    (await api.call('POST', '/v2/sandboxes', { body: { templateID, metadata: { a: 'b' } } })).json.sandboxID;
  return { node, wishes, signals, ...api, create };
}

test('201 with one entry a fork, each a sandbox of its own; 15 s and one when nothing is said', async (t) => {
  const { call, create, wishes } = await rig(t);
  const id = await create();
  const path = `/sandboxes/${id}/fork`;
  for (const [body, count, timeoutSeconds] of [
    [undefined, 1, 15],
    [{}, 1, 15],
    [{ count: null, timeout: null, aMemberOfTheFuture: 1 }, 1, 15],
    [{ count: 3, timeout: 60 }, 3, 60],
    [{ count: 100 }, 100, 15],
  ] as const) {
    const answer = await call('POST', path, { body, headers: { 'content-type': 'application/json' } });
    assert.equal(answer.status, 201, answer.text);
    assert.deepEqual(wishes.at(-1), { count, timeoutSeconds });
    assert.equal(answer.headers['server-timing'], 'capture;dur=5, pause;dur=2.25, total;dur=7.5');
    const ids = answer.json.map((one: { sandbox: { sandboxID: string } }) => one.sandbox.sandboxID);
    assert.equal(new Set([id, ...ids]).size, count + 1);
    assert.equal(answer.json[0].sandbox.domain, 'sandboxes.test');
    assert.match(answer.json[0].sandbox.envdAccessToken, /^[0-9a-f]{64}$/);
    const { state, startedAt, endAt, metadata } = (await call('GET', `/sandboxes/${ids[0]}`)).json;
    assert.equal(state, 'running');
    assert.equal(Date.parse(endAt) - Date.parse(startedAt), timeoutSeconds * 1000);
    assert.deepEqual(metadata, { a: 'b' });
  }
  assert.equal((await call('GET', `/sandboxes/${id}`)).json.state, 'running', 'the source goes on');
});

test('those that found no room say so beside those that did, with the status of their error', async (t) => {
  const { call, create } = await rig(t, 3);
  const id = await create();
  const { status, json } = await call('POST', `/sandboxes/${id}-6532622b/fork`, { body: { count: 4 } });
  assert.equal(status, 201);
  assert.deepEqual(
    json.map((one: object) => Object.keys(one)),
    [['sandbox'], ['sandbox'], ['error'], ['error']],
  );
  assert.deepEqual(json[3], { error: { code: 503, message: 'no memory left for another sandbox' } });
});

test('refusals: unknown, foreign, paused, of a kind that cannot, bad bodies', async (t) => {
  const { node, call, create, wishes } = await rig(t);
  assert.equal((await call('POST', '/sandboxes/inothing/fork')).status, 404);
  const id = await create();
  const other = await serveAPI(node);
  t.after(other.close);
  assert.equal((await other.call('POST', `/sandboxes/${id}/fork`)).status, 404);
  const jail = await call('POST', `/sandboxes/${await create('base-jail')}/fork`);
  assert.deepEqual(jail.json, { code: 501, message: 'fork is not implemented for jail sandboxes yet' });
  const asked = wishes.length;
  for (const body of [
    '{',
    '[]',
    'null',
    { count: 0 },
    { count: 101 },
    { count: -1 },
    { count: '2' },
    { count: true },
    '{"count":2.0}',
    { timeout: '15' },
    { timeout: 2 ** 31 },
  ]) {
    const answer = await call('POST', `/sandboxes/${id}/fork`, { body });
    assert.equal(answer.status, 400, JSON.stringify(body));
    assert.match(answer.json.message, /^validation error: /);
  }
  for (const timeout of [0, -1])
    assert.equal(
      (await call('POST', `/sandboxes/${id}/fork`, { body: { timeout } })).json.message,
      'Timeout must be greater than 0',
    );
  assert.equal((await call('POST', `/sandboxes/${id}/fork`, { body: { timeout: 86_401 } })).status, 400);
  assert.equal(wishes.length, asked);
  await call('POST', `/sandboxes/${id}/pause`);
  assert.equal((await call('POST', `/sandboxes/${id}/fork`)).status, 409);
  node.failNext(new CoppiceError('capacity', 'full'));
  assert.equal((await call('POST', `/sandboxes/${id}/fork`)).status, 503);
});

test('a client that goes away aborts its fork', async (t) => {
  const fake = createFakeNode();
  const begun = Promise.withResolvers<AbortSignal>();
  const api = await serveAPI({
    ...fake,
    forkSandbox: (_team, _id, _wish, signal) => {
      begun.resolve(signal!);
      return new Promise((_, reject) => signal!.addEventListener('abort', () => reject(signal!.reason)));
    },
  });
  t.after(api.close);
  const gone = new AbortController();
  const headers = { 'x-api-key': api.key };
  const request = fetch(`${api.url}/sandboxes/i1/fork`, { method: 'POST', headers, signal: gone.signal });
  const signal = await begun.promise;
  gone.abort();
  await assert.rejects(request);
  if (!signal.aborted) await new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve()));
});

for (const { name, sdk } of GENERATIONS)
  test(`${name}: fork`, async (t) => {
    const { Sandbox } = sdk;
    const { url, key, wishes } = await rig(t, 4);
    const options = { apiUrl: url, apiKey: key, sandboxUrl: url };
    const source = await Sandbox.create('base', options);
    const [first] = await source.fork();
    assert.ok(first instanceof Sandbox);
    assert.notEqual(first.sandboxId, source.sandboxId);
    assert.equal((await first.getInfo()).state, 'running');
    const made = await Sandbox.fork(source.sandboxId, { ...options, count: 3, timeoutMs: 60_000 });
    assert.deepEqual(wishes.at(-1), { count: 3, timeoutSeconds: 60 });
    assert.deepEqual(
      made.map((one) => one instanceof Error),
      [false, false, true],
    );
    assert.match(String(made[2]), /no memory left for another sandbox/);
    await assert.rejects(Sandbox.fork('inothing', options), { name: /NotFound/ });
    await Sandbox.pause(source.sandboxId, options);
    await assert.rejects(Sandbox.fork(source.sandboxId, options), /409|is paused/);
  });
