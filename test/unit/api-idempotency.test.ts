/** `Idempotency-Key` on `POST /v2/sandboxes`. */
import assert from 'node:assert/strict';
import test from 'node:test';
import { CoppiceError } from '../../src/contract/errors.ts';
import { createIdempotency } from '../../src/control/idempotency.ts';
import { CONTROL_MIGRATIONS } from '../../src/control/migrations.ts';
import { openDatabase } from '../../src/store/database.ts';
import { createFakeNode, serveAPI } from '../helpers/fake-node.ts';

const node = createFakeNode();
const api = await serveAPI(node);
test.after(api.close);

const post = (key: unknown, body: unknown = { templateID: 'base' }, path = '/v2/sandboxes') =>
  api.call('POST', path, { body, headers: { 'idempotency-key': key as string } });

test('the same key and body create once and replay the answer', async () => {
  const before = node.requests.length;
  const first = await post('abc1');
  const again = await post('abc1');
  assert.equal(first.status, 201);
  assert.equal(again.status, 201);
  assert.equal(again.text, first.text);
  assert.equal(node.requests.length, before + 1);
});

test('another body with the same key is a conflict with its error_code', async () => {
  await post('abc2');
  const answer = await post('abc2', { templateID: 'base', timeout: 5 });
  assert.equal(answer.status, 409);
  assert.equal(answer.json.error_code, 'idempotency_request_mismatch');
});

test('while the first is at work the second is a conflict, and replays later', async () => {
  const release = node.holdNextCreate();
  const before = node.requests.length;
  const first = post('abc3');
  while (node.requests.length === before) await new Promise((resolve) => setTimeout(resolve, 2));
  const second = await post('abc3');
  assert.equal(second.status, 409);
  assert.equal(second.json.error_code, 'idempotency_in_progress');
  release();
  assert.equal((await post('abc3')).text, (await first).text);
});

test('a failure is not stored: the key may be tried again', async () => {
  node.failNext(new CoppiceError('capacity', 'full'));
  assert.equal((await post('abc4')).status, 503);
  assert.equal((await post('abc4')).status, 201);
});

test('keys of bad form are 400 in v2 and ignored in v1', async () => {
  for (const key of ['', 'ABC', 'a-b', 'ä', 'x'.repeat(256), ['a', 'b']]) {
    const answer = await post(key);
    assert.equal(answer.status, 400, String(key));
    assert.match(answer.json.message, /^validation error: Idempotency-Key/);
    assert.equal((await post(key, { templateID: 'base' }, '/sandboxes')).status, 201);
  }
  assert.equal((await post('x'.repeat(255))).status, 201);
});

test('answers live 24 hours, belong to one team, and a dead process holds no key', () => {
  const database = openDatabase(':memory:', CONTROL_MIGRATIONS);
  let now = 1_000_000_000_000;
  const first = createIdempotency(database, () => now);
  const claim = (store: typeof first, team: string, body = 'f') => store.claim(team, 'k', body);
  const mine = claim(first, 'a');
  assert.equal(mine.answer, undefined);
  assert.throws(() => claim(first, 'a'), { code: 'idempotency_in_progress' });
  assert.equal(claim(first, 'b').answer, undefined);

  const restarted = createIdempotency(database, () => now);
  const taken = claim(restarted, 'a', 'other body');
  assert.ok(taken.answer === undefined);
  taken.complete({ status: 201, body: '{}' });
  now += 24 * 3600 * 1000 - 1;
  assert.deepEqual(claim(restarted, 'a', 'other body').answer, { status: 201, body: '{}' });
  now += 1;
  assert.equal(claim(restarted, 'a').answer, undefined);
  database.close();
});
