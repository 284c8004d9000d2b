/** Watches, streamed and polled, and the entries that they and the other file methods tell of. */
import assert from 'node:assert/strict';
import test from 'node:test';
import { Code, ConnectError, createClient } from '@connectrpc/connect';
import { createConnectTransport } from '@connectrpc/connect-node';
import { EventType, Filesystem, FileType } from '../../src/contract/gen/filesystem_pb.ts';
import { mountType } from '../../src/envd/network-mount.ts';
import { fakeAgent, type Served, serve, until } from './envd-harness.ts';

function clientOf(served: Served) {
  return createClient(
    Filesystem,
    createConnectTransport({ baseUrl: served.url, httpVersion: '1.1', useBinaryFormat: true }),
  );
}

const open = { accessToken: undefined };

async function codeOf(work: Promise<unknown>): Promise<Code | undefined> {
  return work.then(
    () => undefined,
    (error: unknown) => ConnectError.from(error).code,
  );
}

test('a polled watch gives each event once, and is gone when removed', async () => {
  const agent = fakeAgent();
  await using served = await serve(agent, open);
  const client = clientOf(served);
  const { watcherId } = await client.createWatcher({ path: '' });
  const watch = agent.watches[0]!;
  assert.deepEqual((await client.getWatcherEvents({ watcherId })).events, []);
  watch.emit({ event: 'create', name: 'a' });
  watch.emit({ event: 'write', name: 'a' });
  const first = await client.getWatcherEvents({ watcherId });
  assert.deepEqual(
    first.events.map(({ name, type }) => [name, type]),
    [
      ['a', EventType.CREATE],
      ['a', EventType.WRITE],
    ],
  );
  assert.deepEqual((await client.getWatcherEvents({ watcherId })).events, []);
  await client.removeWatcher({ watcherId });
  assert.equal(watch.closed, true);
  assert.equal(await codeOf(client.getWatcherEvents({ watcherId })), Code.NotFound);
  assert.equal(await codeOf(client.removeWatcher({ watcherId })), Code.NotFound);
  assert.equal(await codeOf(client.createWatcher({ path: 'nope' })), Code.NotFound);
});

test('a polled watch that nobody polls stays bounded, and loses nothing', async () => {
  const agent = fakeAgent();
  await using served = await serve(agent, open);
  const client = clientOf(served);
  const { watcherId } = await client.createWatcher({ path: '' });
  const total = 10_000;
  for (let i = 0; i < total; i++) agent.watches[0]!.emit({ event: 'create', name: String(i) });
  const names: string[] = [];
  let polls = 0;
  while (names.length < total) {
    const { events } = await client.getWatcherEvents({ watcherId });
    assert.ok(events.length <= 4_096, `${events.length} events were held`);
    names.push(...events.map(({ name }) => name));
    assert.ok(++polls < 1_000);
  }
  assert.deepEqual(names.slice(-1), [String(total - 1)]);
  assert.equal(new Set(names).size, total);
});

test('there is a limit to the watchers of one sandbox', async () => {
  await using served = await serve(fakeAgent(), open);
  const client = clientOf(served);
  for (let i = 0; i < 128; i++) await client.createWatcher({ path: '' });
  assert.equal(await codeOf(client.createWatcher({ path: '' })), Code.ResourceExhausted);
});

test('a streamed watch: start first, then events with entries, keepalives, and an end with the caller', async () => {
  const agent = fakeAgent();
  await using served = await serve(agent, open);
  const client = clientOf(served);
  const leaver = new AbortController();
  const events: object[] = [];
  const done = (async () => {
    const headers = { 'Keepalive-Ping-Interval': '1' };
    const stream = client.watchDir({ path: '', includeEntry: true }, { signal: leaver.signal, headers });
    for await (const { event } of stream) events.push(event);
  })();
  await until(() => events.length === 1, 'start');
  const entry = await agent.write('x', (async function* () {})());
  agent.watches[0]!.emit({ event: 'create', name: 'x', entry: { ...entry, modifiedMs: 9e15 * 0.9 } });
  await until(() => events.length === 3, 'event and keepalive');
  assert.deepEqual(
    events.map((event) => (event as { case: string }).case),
    ['start', 'filesystem', 'keepalive'],
  );
  const { value } = events[1] as { value: { name: string; type: EventType; entry: { path: string; type: FileType } } };
  assert.deepEqual(
    [value.name, value.type, value.entry.path, value.entry.type],
    ['x', EventType.CREATE, '/home/user/x', FileType.FILE],
  );
  leaver.abort();
  await assert.rejects(done);
  await until(() => agent.watches[0]!.closed, 'the agent lets go of the watch');
});

test('the deadline of a watch ends it by name', async () => {
  const agent = fakeAgent();
  await using served = await serve(agent, open);
  const stream = clientOf(served).watchDir({ path: '' }, { timeoutMs: 150 });
  const drained = (async () => {
    for await (const _ of stream);
  })();
  assert.equal(await codeOf(drained), Code.DeadlineExceeded);
  await until(() => agent.watches[0]!.closed, 'the agent lets go of the watch');
});

test('a network mount is refused unless it is allowed', async () => {
  const agent = fakeAgent();
  await using served = await serve(agent, open);
  const client = clientOf(served);
  agent.files.set('/mnt/share/f', { bytes: Buffer.from('x'), metadata: {}, user: 'user' });
  const table = '/dev/vda / ext4 rw 0 0\nhost:/x /mnt/share nfs4 rw 0 0\n';
  agent.files.set('/proc-mounts', { bytes: Buffer.from(table), metadata: {}, user: 'root' });
  assert.equal(await codeOf(client.createWatcher({ path: '/mnt/share' })), Code.InvalidArgument);
  assert.equal(await codeOf(client.createWatcher({ path: '/mnt/share', allowNetworkMounts: true })), undefined);
  assert.equal(await codeOf(client.createWatcher({ path: '' })), undefined);
});

test('the mount of a path is the longest that holds it', () => {
  const table = 'a / ext4 rw 0 0\nb /mnt nfs rw 0 0\nc /mnt/in\\040side tmpfs rw 0 0\nd /mnt xfs rw 0 0\n';
  assert.equal(mountType(table, '/home'), 'ext4');
  assert.equal(mountType(table, '/mnt/x'), 'xfs');
  assert.equal(mountType(table, '/mnt/in side/x'), 'tmpfs');
  assert.equal(mountType(table, '/mntx'), 'ext4');
  assert.equal(mountType('', '/'), undefined);
});

test('paths that name nothing are refused before they are sent', async () => {
  await using served = await serve(fakeAgent(), open);
  const client = clientOf(served);
  assert.equal(await codeOf(client.stat({ path: 'a\0b' })), Code.InvalidArgument);
  assert.equal(await codeOf(client.stat({ path: 'x'.repeat(5_000) })), Code.InvalidArgument);
  assert.equal(await codeOf(client.stat({ path: 'nope' })), Code.NotFound);
});
