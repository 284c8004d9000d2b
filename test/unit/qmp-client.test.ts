import assert from 'node:assert/strict';
import { Duplex } from 'node:stream';
import test from 'node:test';
import { createQmpClient } from '../../src/isolation/microvm/qemu/qmp.ts';

const GREETING =
  '{"QMP":{"version":{"qemu":{"micro":22,"minor":2,"major":7},"package":""},"capabilities":["oob"]}}\r\n';

/** A monitor whose far end is the test: what it was sent, and a way to say something. */
function monitor() {
  const sent: { execute: string; id: number; arguments?: unknown }[] = [];
  const stream = new Duplex({
    read() {},
    write(chunk: Buffer, _encoding, done) {
      for (const line of chunk.toString().trim().split('\n')) sent.push(JSON.parse(line));
      done();
    },
  });
  const say = (value: unknown) => stream.push(typeof value === 'string' ? value : `${JSON.stringify(value)}\n`);
  return { stream, sent, say };
}

function ready() {
  const far = monitor();
  const client = createQmpClient(far.stream);
  far.say(GREETING);
  far.say({ return: {}, id: 1 });
  return { ...far, client };
}

test('the greeting gives the version, and capabilities are negotiated before it comes', async () => {
  const { client, sent } = ready();
  assert.deepEqual(
    sent.map(({ execute, id }) => [execute, id]),
    [['qmp_capabilities', 1]],
  );
  assert.equal(await client.greeting, '7.2.22');
});

test('replies are matched by id, whatever their order, and split anywhere', async () => {
  const { client, say } = ready();
  const first = client.execute('query-status');
  const second = client.execute('query-name');
  say('{"return": {"name": "b"}, "i');
  say('d": 3}\r\n{"return": {"status": "running"}, "id": 2}\n');
  assert.deepEqual(await second, { name: 'b' });
  assert.deepEqual(await first, { status: 'running' });
});

test('an error reply rejects its own command only', async () => {
  const { client, say } = ready();
  const bad = client.execute('nonsense');
  const good = client.execute('stop');
  say({ error: { class: 'CommandNotFound', desc: 'no such command' }, id: 2 });
  say({ return: {}, id: 3 });
  await assert.rejects(bad, { code: 'internal', message: /refused nonsense: no such command/ });
  await good;
});

test('an event is delivered to the wait that matches it', async () => {
  const { client, say } = ready();
  const done = client.event(({ event, data }) => event === 'MIGRATION' && data.status === 'completed');
  say({ event: 'RESUME', timestamp: { seconds: 1, microseconds: 2 } });
  say({ event: 'MIGRATION', data: { status: 'active' } });
  say({ event: 'MIGRATION', data: { status: 'completed' } });
  assert.equal((await done).data.status, 'completed');
});

test('a wait ends at its deadline, and a late reply is dropped', async () => {
  const { client, say } = ready();
  await assert.rejects(client.execute('stop', undefined, { deadlineMs: 20 }), { code: 'unavailable' });
  say({ return: {}, id: 2 });
  const next = client.execute('cont');
  say({ return: 'yes', id: 3 });
  assert.equal(await next, 'yes');
});

test('a wait ends with its signal', async () => {
  const { client } = ready();
  const giveUp = new AbortController();
  const waiting = client.event(() => true, { signal: giveUp.signal });
  giveUp.abort();
  await assert.rejects(waiting, { code: 'aborted' });
  await assert.rejects(client.execute('stop', undefined, { signal: giveUp.signal }), { code: 'aborted' });
});

for (const [what, bytes] of [
  ['a line without end', 'x'.repeat(1_100_000)],
  ['text that is not JSON', 'hello\n'],
  ['a message of no known kind', '{"what": 1}\n'],
  ['a reply to nothing', '{"return": {}, "id": 99}\n'],
  ['the end of the stream', null],
] as const)
  test(`${what} ends the client and every wait`, async () => {
    const { client, stream } = ready();
    const waiting = [client.execute('stop'), client.event(() => true)];
    stream.push(bytes);
    for (const wait of waiting) await assert.rejects(wait, { name: 'CoppiceError' });
    await client.closed;
    await assert.rejects(client.execute('cont'), { name: 'CoppiceError' });
  });
