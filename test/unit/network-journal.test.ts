/** The lease journal: what a crash may leave, and what is made of it. */
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import { Journal, type Lease, MARK_LIMIT, parseState } from '../../src/network/nftables/journal.ts';
import { silentLog } from '../../src/telemetry/log.ts';

const lease: Lease = { id: 'a', kind: 'tap', port: 'cp1', address: '10.1.1.5', state: 'attached', mark: 3 };

async function scratch(t: TestContext): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'coppice-journal-'));
  t.after(() => rm(folder, { recursive: true, force: true }));
  return folder;
}

test('what was saved is found by the next process', async (t) => {
  const folder = await scratch(t);
  const first = await Journal.open(folder, 'a1', silentLog);
  first.put(lease);
  first.state.subnet = '10.1.0.0';
  await first.save();
  const second = await Journal.open(folder, 'a1', silentLog);
  assert.deepEqual(second.state, first.state);
  assert.deepEqual(second.find('a'), lease);
});

test('a save holds all that was there when it was asked for', async (t) => {
  const folder = await scratch(t);
  const journal = await Journal.open(folder, 'a1', silentLog);
  const saves = Array.from({ length: 50 }, async (_, index) => {
    journal.put({ ...lease, id: `s${index}`, port: `cp${index + 1}`, address: `10.1.1.${index + 1}` });
    await journal.save();
    const stored = parseState(await readFile(join(folder, 'network.json'), 'utf8'), 'a1');
    assert.ok(
      stored?.leases.some(({ id }) => id === `s${index}`),
      `s${index}`,
    );
  });
  await Promise.all(saves);
  assert.deepEqual(await readdir(folder), ['network.json']);
});

test('a half written next file is of no consequence', async (t) => {
  const folder = await scratch(t);
  const first = await Journal.open(folder, 'a1', silentLog);
  first.put(lease);
  await first.save();
  await writeFile(join(folder, 'network.json.next'), '{"vers');
  assert.deepEqual((await Journal.open(folder, 'a1', silentLog)).find('a'), lease);
});

test('a journal that cannot be read is put aside, not overwritten', async (t) => {
  const folder = await scratch(t);
  await writeFile(join(folder, 'network.json'), 'rubbish');
  const journal = await Journal.open(folder, 'a1', silentLog);
  assert.deepEqual(journal.state.leases, []);
  assert.equal(await readFile(join(folder, 'network.json.unreadable'), 'utf8'), 'rubbish');
});

test('of an earlier boot only the counters count', async (t) => {
  const folder = await scratch(t);
  const first = await Journal.open(folder, 'a1', silentLog);
  first.put(lease);
  Object.assign(first.state, { bootId: 'earlier', forwardingWasOff: true, nextLease: 77, subnet: '10.1.0.0' });
  await first.save();
  const { state } = await Journal.open(folder, 'a1', silentLog);
  assert.deepEqual([state.leases, state.forwardingWasOff, state.nextLease, state.subnet], [[], false, 77, '10.1.0.0']);
  assert.notEqual(state.bootId, 'earlier');
});

test('parts that are not as written make it unreadable', async (t) => {
  const { state } = await Journal.open(await scratch(t), 'a1', silentLog);
  const good = { ...state, leases: [lease] };
  assert.ok(parseState(JSON.stringify(good), 'a1'));
  const bad: object[] = [
    { version: 1 },
    { instance: 'other' },
    { subnet: '10.1' },
    { nextLease: 0 },
    { nextMark: MARK_LIMIT + 1 },
    { forwardingWasOff: 'yes' },
    { leases: {} },
    { leases: [null] },
    { leases: [{ ...lease, port: 'eth0' }] },
    { leases: [{ ...lease, port: 'cp1; x' }] },
    { leases: [{ ...lease, address: '10.1.1.5 }' }] },
    { leases: [{ ...lease, kind: 'bridge' }] },
    { leases: [{ ...lease, mark: -1 }] },
    { leases: [{ ...lease, state: 'gone' }] },
    { leases: [lease, { ...lease, id: 'b', port: 'cp2' }] },
    { leases: [lease, { ...lease, id: 'b', address: '10.1.1.6' }] },
  ];
  for (const change of bad)
    assert.equal(parseState(JSON.stringify({ ...good, ...change }), 'a1'), undefined, JSON.stringify(change));
  for (const text of ['', 'null', '[]', '3', '{}']) assert.equal(parseState(text, 'a1'), undefined, text);
});

test('lease numbers and marks wrap around what is in use', async (t) => {
  const journal = await Journal.open(await scratch(t), 'a1', silentLog);
  journal.put({ ...lease, mark: 1 });
  Object.assign(journal.state, { nextLease: 0x7fffffff, nextMark: MARK_LIMIT });
  assert.deepEqual([journal.takeLeaseNumber(), journal.takeLeaseNumber()], [0x7fffffff, 2]);
  assert.deepEqual([journal.takeMark(), journal.takeMark()], [MARK_LIMIT, 2]);
});

test('remove leaves nothing', async (t) => {
  const folder = await scratch(t);
  const journal = await Journal.open(folder, 'a1', silentLog);
  void journal.save();
  await journal.remove();
  assert.equal(existsSync(join(folder, 'network.json')), false);
});
