/** What is asked of sandboxes to measure them, and what is told: idle ones are asked nothing. */
import assert from 'node:assert/strict';
import test from 'node:test';
import type { MachineRoom } from '../../src/isolation/backend.ts';
import type { Member } from '../../src/node/member.ts';
import { Metrics } from '../../src/node/metrics.ts';
import { silentLog } from '../../src/telemetry/log.ts';
import { BOTH_KINDS, createRequest, OTHER_TEAM, startNodeRig, TEAM } from '../helpers/node-rig.ts';

interface Fake {
  readonly member: Member;
  cpuSeconds: number | undefined;
  memUsed: number;
  /** How often its room was asked for. */
  asked: number;
  fails: boolean;
  /** CPU seconds that an answer takes. */
  costs: number;
}

/** `host`: the host knows its room; else its agent does. */
function fake(id: string, host: boolean): Fake {
  const answer = async (): Promise<MachineRoom> => {
    one.asked++;
    one.cpuSeconds! += one.costs;
    if (one.fails) throw new Error('as the test wants');
    return { memUsed: one.memUsed, memTotal: 100, memCache: 3, diskUsed: 5, diskTotal: 50 };
  };
  const machine = { id, cpuSeconds: () => one.cpuSeconds, ...(host ? { room: answer } : {}) };
  const session = { metrics: answer };
  const member = { id, ended: false, machine, session } as unknown as Member;
  const one: Fake = { member, cpuSeconds: 0, memUsed: 10, asked: 0, fails: false, costs: 0 };
  return one;
}

function rig(...all: Fake[]) {
  const clock = { ms: 1_000_000 };
  const running = new Map(all.map((one) => [one.member.id, one.member]));
  const there = new Set(running.keys());
  const metrics = new Metrics({
    running: () => running.values(),
    has: (id) => there.has(id),
    cpuCountOf: () => 2,
    now: () => clock.ms,
    log: silentLog,
  });
  const tick = async (): Promise<void> => {
    clock.ms += 5_000;
    await metrics.sample();
  };
  return { metrics, clock, running, there, tick };
}

test('the first point within ten seconds, then one every five, CPU as percent of the whole machine', async () => {
  const one = fake('a', true);
  const { metrics, tick, clock } = rig(one);
  one.cpuSeconds = 100;
  await tick();
  assert.deepEqual(await metrics.of('a', {}), [], 'what was before its first sight counts for nothing');
  one.cpuSeconds = 105;
  await tick();
  one.cpuSeconds = 205;
  await tick();
  assert.deepEqual(
    (await metrics.of('a', {})).map(({ atMs, cpuUsedPct }) => [atMs - clock.ms, cpuUsedPct]),
    [
      [-5_000, 50],
      [0, 100],
    ],
  );
  const [last] = await metrics.of('a', { startMs: clock.ms });
  assert.deepEqual(last, {
    atMs: clock.ms,
    cpuCount: 2,
    cpuUsedPct: 100,
    memUsed: 10,
    memTotal: 100,
    memCache: 3,
    diskUsed: 5,
    diskTotal: 50,
  });
  assert.deepEqual(await metrics.latest('a'), last);
  assert.deepEqual(await metrics.of('a', { endMs: 999_999 }), []);
});

for (const host of [true, false]) {
  test(`${host ? 'a jail' : 'a microVM'} that does nothing is asked nothing until somebody wants to know, and then once`, async () => {
    const one = fake('a', host);
    const { metrics, tick } = rig(one);
    for (let count = 0; count < 200; count++) await tick();
    assert.equal(one.asked, 0);
    assert.equal((await metrics.of('a', {})).length, 199);
    assert.equal((await metrics.latest('a'))?.memUsed, 10);
    assert.equal(one.asked, 1);
    for (let count = 0; count < 200; count++) await tick();
    assert.equal((await metrics.of('a', {})).length, 399);
    assert.equal(one.asked, 1);
  });

  test(`${host ? 'a jail' : 'a microVM'} that works is asked at each point`, async () => {
    const one = fake('a', host);
    const { metrics, tick } = rig(one);
    await tick();
    for (let count = 1; count <= 10; count++) {
      one.cpuSeconds = count;
      one.memUsed = count * 10;
      await tick();
    }
    assert.equal(one.asked, 10);
    assert.deepEqual(
      (await metrics.of('a', {})).map(({ memUsed }) => memUsed),
      Array.from({ length: 10 }, (_, index) => 10 * (index + 1)),
    );
  });
}

test('the little that an idle guest uses in passing never has its agent asked', async () => {
  const one = fake('a', false);
  const { tick } = rig(one);
  // An hour of 0.06 % of a processor, in the steps that the host counts in.
  for (let count = 0; count < 720; count++) {
    one.cpuSeconds = Math.floor(count * 0.3) / 100;
    await tick();
  }
  assert.equal(one.asked, 0);
});

test('a guest that has worked a little is asked after a minute, and not for what its answer took', async () => {
  const one = fake('a', false);
  const { tick } = rig(one);
  await tick();
  one.cpuSeconds = 0.12;
  for (let count = 0; count < 11; count++) await tick();
  assert.equal(one.asked, 0);
  await tick();
  assert.equal(one.asked, 1);
  for (let count = 0; count < 50; count++) await tick();
  assert.equal(one.asked, 1);
  one.costs = 0.1;
  one.cpuSeconds += 1;
  for (let count = 0; count < 50; count++) await tick();
  assert.equal(one.asked, 2);
});

test('who wants to know is told what is, when it has moved since the last point', async () => {
  const one = fake('a', false);
  const { metrics, tick } = rig(one);
  await tick();
  one.cpuSeconds = 1;
  await tick();
  one.memUsed = 55;
  assert.equal((await metrics.latest('a'))?.memUsed, 10);
  one.cpuSeconds += 0.05;
  assert.equal((await metrics.latest('a'))?.memUsed, 55);
  assert.equal(one.asked, 2);
  await Promise.all([metrics.latest('a'), metrics.of('a', {})]);
  assert.equal(one.asked, 2, 'it has not moved since');
  one.cpuSeconds += 0.05;
  await Promise.all([metrics.latest('a'), metrics.of('a', {})]);
  assert.equal(one.asked, 3, 'one answer is for all who ask');
});

test('one that does not answer keeps what was known, and is asked again', async () => {
  const one = fake('a', false);
  const { metrics, tick } = rig(one);
  await tick();
  one.cpuSeconds = 1;
  await tick();
  one.fails = true;
  one.memUsed = 77;
  one.cpuSeconds = 2;
  await tick();
  assert.deepEqual(
    (await metrics.of('a', {})).map(({ memUsed }) => memUsed),
    [10, 10],
  );
  one.fails = false;
  await tick();
  assert.equal((await metrics.latest('a'))?.memUsed, 77);
});

test('points stay over a pause, and go with the sandbox; a machine that is gone has none', async () => {
  const one = fake('a', true);
  const { metrics, tick, running, there } = rig(one);
  await tick();
  one.cpuSeconds = 1;
  await tick();
  running.delete('a');
  await tick();
  assert.equal((await metrics.of('a', {})).length, 1);
  const again = fake('a', true);
  running.set('a', again.member);
  await tick();
  assert.equal((await metrics.of('a', {})).length, 1, 'its CPU counts anew');
  again.cpuSeconds = undefined;
  await tick();
  assert.equal((await metrics.of('a', {})).length, 1);
  there.delete('a');
  running.delete('a');
  await tick();
  assert.deepEqual(await metrics.of('a', {}), []);
  assert.equal(await metrics.latest('a'), undefined);
});

test('of the node: another team is told nothing, unknown ids are absent', async (t) => {
  const rigged = await startNodeRig({ templates: BOTH_KINDS });
  t.after(() => rigged.end());
  const { sandbox } = await rigged.node.createSandbox(createRequest());
  assert.deepEqual(await rigged.node.sandboxMetrics(TEAM, sandbox.sandboxID, {}), []);
  const gone = { code: 'sandbox_not_found' };
  await assert.rejects(rigged.node.sandboxMetrics(OTHER_TEAM, sandbox.sandboxID, {}), gone);
  await assert.rejects(rigged.node.sandboxMetrics(TEAM, 'inothing', {}), gone);
  assert.deepEqual(await rigged.node.latestMetrics(TEAM, [sandbox.sandboxID, 'inothing']), new Map());
  await rigged.node.killSandbox(TEAM, sandbox.sandboxID);
  await assert.rejects(rigged.node.sandboxMetrics(TEAM, sandbox.sandboxID, {}), gone);
});
