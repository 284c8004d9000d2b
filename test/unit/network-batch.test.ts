/** Calls made at the same time become one, and only those at fault fail. */
import assert from 'node:assert/strict';
import test from 'node:test';
import { setImmediate } from 'node:timers/promises';
import { createBatcher } from '../../src/network/nftables/batch.ts';

test('what is asked for in one breath runs at once; what comes during a run runs next', async () => {
  const runs: number[][] = [];
  const gate = Promise.withResolvers<void>();
  const ask = createBatcher<number>(async (items) => {
    runs.push([...items]);
    if (runs.length === 1) await gate.promise;
  });
  const first = [ask(1), ask(2), ask(3)];
  await setImmediate();
  const second = [ask(4), ask(5)];
  gate.resolve();
  await Promise.all([...first, ...second]);
  assert.deepEqual(runs, [
    [1, 2, 3],
    [4, 5],
  ]);
});

test('only the item at fault fails', async () => {
  const runs: number[][] = [];
  const ask = createBatcher<number>(async (items) => {
    runs.push([...items]);
    if (items.includes(2)) throw new Error('two');
  });
  const results = await Promise.allSettled([ask(1), ask(2), ask(3)]);
  assert.deepEqual(
    results.map(({ status }) => status),
    ['fulfilled', 'rejected', 'fulfilled'],
  );
  assert.deepEqual(runs, [[1, 2, 3], [1], [2], [3]]);
  await ask(4);
});

test('a batch has a limit', async () => {
  const sizes: number[] = [];
  const ask = createBatcher<number>(async (items) => void sizes.push(items.length), 4);
  await Promise.all(Array.from({ length: 10 }, (_, item) => ask(item)));
  assert.deepEqual(sizes, [4, 4, 2]);
});
