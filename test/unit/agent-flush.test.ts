/** Flushes that hang: bounded, and one thread at most. */
import assert from 'node:assert/strict';
import test from 'node:test';
import { createFlush } from '../../guest/agent/flush.ts';

/** Flushes that end when the test says so. */
function manual() {
  const begun: PromiseWithResolvers<void>[] = [];
  const sync = (): Promise<void> => {
    const flush = Promise.withResolvers<void>();
    begun.push(flush);
    return flush.promise;
  };
  return { begun, flush: createFlush({ sync }) };
}

test('a flush that does not end is answered at its bound, and goes on', async () => {
  const { begun, flush } = manual();
  const started = performance.now();
  assert.equal(await flush(30), false);
  const took = performance.now() - started;
  assert.ok(took >= 25 && took < 5_000, `${took} ms`);
  begun[0]!.resolve();
  const second = flush(5_000);
  while (begun.length < 2) await new Promise(setImmediate);
  begun[1]!.resolve();
  assert.equal(await second, true);
});

test('all that ask while one runs wait for the next, which begins when that one has ended', async () => {
  const { begun, flush } = manual();
  const first = flush(5_000);
  const later = [flush(5_000), flush(5_000), flush(20)];
  assert.equal(await later[2], false);
  assert.equal(begun.length, 1);
  begun[0]!.resolve();
  assert.equal(await first, true);
  while (begun.length < 2) await new Promise(setImmediate);
  const third = flush(5_000);
  begun[1]!.resolve();
  assert.deepEqual(await Promise.all(later.slice(0, 2)), [true, true]);
  while (begun.length < 3) await new Promise(setImmediate);
  begun[2]!.resolve();
  assert.equal(await third, true);
  assert.equal(begun.length, 3);
});

test('a failure is thrown to who waits for it, and the next one is tried', async () => {
  const { begun, flush } = manual();
  const first = flush(5_000);
  const second = flush(5_000);
  begun[0]!.reject(new Error('no disk'));
  await assert.rejects(first, /no disk/);
  while (begun.length < 2) await new Promise(setImmediate);
  begun[1]!.resolve();
  assert.equal(await second, true);
});
