/** The socket that node:http drives over an agent's stream: order, backpressure, half-close, time limits, destruction. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import test from 'node:test';
import type { AgentSocket } from '../../src/channel/agent.ts';
import { SocketDuplex } from '../../src/node/traffic/socket-duplex.ts';

/** A stream of the agent whose two ends the test holds. */
function stream() {
  const queue: (Uint8Array | null | Error)[] = [];
  let wake = Promise.withResolvers<void>();
  const state = {
    pulled: 0,
    ended: false,
    destroyed: false,
    writes: [] as { bytes: Uint8Array; accept: () => void; reject: (e: Error) => void }[],
  };
  async function* input(): AsyncGenerator<Uint8Array> {
    for (;;) {
      while (queue.length === 0) {
        await wake.promise;
        wake = Promise.withResolvers();
      }
      const next = queue.shift()!;
      if (next === null) return;
      if (next instanceof Error) throw next;
      state.pulled++;
      yield next;
    }
  }
  const socket: AgentSocket = {
    input: input(),
    write: (bytes) => new Promise((accept, reject) => state.writes.push({ bytes, accept, reject })),
    end: () => {
      state.ended = true;
    },
    destroy: () => {
      state.destroyed = true;
    },
  };
  const arrive = (...items: (string | null | Error)[]): void => {
    for (const item of items) queue.push(typeof item === 'string' ? Buffer.from(item) : item);
    wake.resolve();
  };
  return { socket, state, arrive };
}

const turn = () => new Promise((resolve) => setImmediate(resolve));

test('bytes come in order and the end is seen; empty chunks are not an end', async () => {
  const { socket, arrive } = stream();
  const duplex = new SocketDuplex(socket, { allowHalfOpen: true });
  arrive('a', '', 'b', null);
  let text = '';
  for await (const chunk of duplex) text += chunk;
  assert.equal(text, 'ab');
});

test('it reads no further than its mark while nobody listens', async () => {
  const { socket, state, arrive } = stream();
  const duplex = new SocketDuplex(socket, { allowHalfOpen: true });
  arrive(...Array.from({ length: 100 }, () => 'x'.repeat(16_384)));
  duplex.read(0);
  for (let i = 0; i < 50; i++) await turn();
  assert.ok(state.pulled <= 5, `${state.pulled} chunks pulled`);
  duplex.destroy();
});

test('a write is done when the stream has accepted it; waiting writes go as one', async () => {
  const { socket, state } = stream();
  const duplex = new SocketDuplex(socket, { allowHalfOpen: true });
  let done = 0;
  duplex.write('a', () => done++);
  duplex.write('b', () => done++);
  duplex.write('c', () => done++);
  await turn();
  assert.equal(state.writes.length, 1);
  assert.equal(done, 0);
  state.writes[0]!.accept();
  await turn();
  assert.equal(done, 1);
  assert.deepEqual(
    state.writes.map(({ bytes }) => Buffer.from(bytes).toString()),
    ['a', 'bc'],
  );
  assert.equal(duplex.write('x'.repeat(70_000)), false);
  duplex.destroy();
});

test('half-close: with it the other side goes on, without it both end', async () => {
  const open = stream();
  const half = new SocketDuplex(open.socket, { allowHalfOpen: true });
  half.end();
  await once(half, 'finish');
  assert.ok(open.state.ended && !open.state.destroyed);
  open.arrive('late', null);
  let text = '';
  for await (const chunk of half) text += chunk;
  assert.equal(text, 'late');

  const shut = stream();
  const pooled = new SocketDuplex(shut.socket, { allowHalfOpen: false });
  pooled.resume();
  shut.arrive(null);
  await once(pooled, 'close');
  assert.ok(shut.state.ended && shut.state.destroyed);
});

test('a failing stream is a reset, on both sides', async () => {
  const reading = stream();
  const a = new SocketDuplex(reading.socket, { allowHalfOpen: false });
  a.resume();
  reading.arrive(new Error('channel gone'));
  const [inError] = await once(a, 'error');
  assert.equal(inError.code, 'ECONNRESET');
  const writing = stream();
  const b = new SocketDuplex(writing.socket, { allowHalfOpen: false });
  b.write('x');
  writing.state.writes[0]!.reject(new Error('channel gone'));
  const [outError] = await once(b, 'error');
  assert.equal(outError.code, 'ECONNRESET');
});

test('destroy reaches the stream even while a read and a write wait', async () => {
  const { socket, state } = stream();
  const duplex = new SocketDuplex(socket, { allowHalfOpen: false });
  duplex.resume();
  duplex.write('x');
  duplex.destroy();
  await once(duplex, 'close');
  assert.ok(state.destroyed);
});

test('destroySoon waits for what was written', async () => {
  const { socket, state } = stream();
  const duplex = new SocketDuplex(socket, { allowHalfOpen: true });
  duplex.write('last');
  duplex.destroySoon();
  await turn();
  assert.ok(!state.destroyed);
  state.writes[0]!.accept();
  await once(duplex, 'close');
  assert.ok(state.ended && state.destroyed);
});

test('timeout is told after idleness and not again after it is switched off', async () => {
  const { socket, arrive } = stream();
  const duplex = new SocketDuplex(socket, { allowHalfOpen: true });
  duplex.resume();
  let fired = 0;
  duplex.setTimeout(40, () => fired++);
  assert.equal(duplex.timeout, 40);
  arrive('x');
  // The timer does not hold the process: something else must.
  const hold = setInterval(() => {}, 1_000);
  await once(duplex, 'timeout');
  clearInterval(hold);
  assert.equal(fired, 1);
  duplex.setTimeout(0);
  await new Promise((resolve) => setTimeout(resolve, 80));
  assert.equal(fired, 1);
  duplex.destroy();
});
