/** One source, several consumers: each gets all, a slow one slows the source, a dead one is let go when others wait. */
import assert from 'node:assert/strict';
import test from 'node:test';
import { Code, type ConnectError } from '@connectrpc/connect';
import { createFanOut, END, IDLE } from '../../src/envd/fan-out.ts';
import { until } from './envd-harness.ts';

const PIECE = 64 * 1024;

function counting(total: number) {
  const state = { given: 0 };
  async function* source(): AsyncGenerator<number> {
    while (state.given < total) yield state.given++;
  }
  return { state, source: source() };
}

async function drain<T>(subscription: { next(idleMs: number): Promise<T | typeof IDLE | typeof END> }): Promise<T[]> {
  const items: T[] = [];
  for (;;) {
    const item = await subscription.next(5_000);
    if (item === END) return items;
    assert.notEqual(item, IDLE);
    items.push(item as T);
  }
}

test('every consumer gets every item in order', async () => {
  const fanOut = createFanOut<number>({ onEmpty: () => {} });
  const consumers = [fanOut.subscribe(), fanOut.subscribe(), fanOut.subscribe()];
  const { source } = counting(500);
  void fanOut.run(source, () => PIECE);
  const expected = Array.from({ length: 500 }, (_, i) => i);
  for (const items of await Promise.all(consumers.map(drain))) assert.deepEqual(items, expected);
  assert.equal(fanOut.size, 0);
});

test('the source waits for the slowest', async () => {
  const fanOut = createFanOut<number>({ onEmpty: () => {} });
  const slow = fanOut.subscribe();
  const fast = drain(fanOut.subscribe());
  const { state, source } = counting(1_000);
  void fanOut.run(source, () => PIECE);
  await until(() => state.given >= 4, 'some were given');
  await new Promise((resolve) => setTimeout(resolve, 100));
  assert.ok(state.given <= 6, `${state.given} were taken for one who reads nothing`);
  assert.equal((await drain(slow)).length, 1_000);
  assert.equal((await fast).length, 1_000);
});

test('one that reads nothing while others wait is let go by name; alone it may take its time', async () => {
  const fanOut = createFanOut<number>({ onEmpty: () => {}, stallMs: 60 });
  const dead = fanOut.subscribe();
  const { state, source } = counting(100);
  void fanOut.run(source, () => PIECE);
  await new Promise((resolve) => setTimeout(resolve, 150));
  assert.equal(fanOut.size, 1, 'alone it is kept');
  assert.ok(state.given < 10);
  const items = await drain(fanOut.subscribe());
  assert.equal(items.at(-1), 99, 'who joined later is not held up for ever');
  await assert.rejects(dead.next(10), (error: ConnectError) => error.code === Code.ResourceExhausted);
});

test('silence is told, then items again', async () => {
  const fanOut = createFanOut<string>({ onEmpty: () => {} });
  const consumer = fanOut.subscribe();
  const gate = Promise.withResolvers<void>();
  void fanOut.run(
    (async function* () {
      await gate.promise;
      yield 'late';
    })(),
    () => 1,
  );
  assert.equal(await consumer.next(10), IDLE);
  assert.equal(await consumer.next(10), IDLE);
  gate.resolve();
  assert.equal(await consumer.next(1_000), 'late');
  assert.equal(await consumer.next(1_000), END);
});

test('the failure of the source comes after what was given before it', async () => {
  const fanOut = createFanOut<number>({ onEmpty: () => {} });
  const consumer = fanOut.subscribe();
  await fanOut.run(
    (async function* () {
      yield 1;
      throw new Error('the channel broke');
    })(),
    () => 1,
  );
  assert.equal(await consumer.next(10), 1);
  await assert.rejects(consumer.next(10), /the channel broke/);
});

test('a final item reaches who comes too late, and the last to leave is noticed', async () => {
  let empty = 0;
  const fanOut = createFanOut<string>({ onEmpty: () => empty++, isFinal: (item) => item === 'exit' });
  const early = fanOut.subscribe();
  early.close();
  assert.equal(empty, 1);
  await fanOut.run(
    (async function* () {
      yield 'data';
      yield 'exit';
    })(),
    () => 1,
  );
  assert.deepEqual(await drain(fanOut.subscribe()), ['exit']);
});
