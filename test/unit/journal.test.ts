/** The journal: what is told comes back in order, pages join without gap or repeat, and nothing grows without bound. */
import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import fc from 'fast-check';
import type { LogEntry, LogLevel, LogsQuery } from '../../src/contract/node-api.ts';
import { Journal, type JournalLimits } from '../../src/node/journal.ts';
import type { Subject } from '../../src/node/journal-store.ts';

const TEAM = 'team';
const subjectOf = (sandboxID: string, state: Subject['state'] = 'running', sinceMs = 0): Subject => ({
  ...{ sandboxID, teamID: TEAM, state, sinceMs },
  ...{ generation: 'g', templateID: 't', buildID: 'b' },
});
const ask = (more: Partial<LogsQuery> = {}): LogsQuery => ({
  ...{ teamID: TEAM, sandboxID: 'a', direction: 'forward', limit: 1000 },
  ...more,
});
const texts = (entries: readonly LogEntry[]): string[] => entries.map(({ message }) => message);

function open(limits: Partial<JournalLimits> = {}, file = ':memory:') {
  const clock = { ms: 1_000 };
  const journal = new Journal(file, { limits, now: () => clock.ms });
  journal.settle(subjectOf('a'));
  const say = (message: string, level: LogLevel = 'info', id = 'a') =>
    journal.note(id, level, message, { logger: 'x' });
  return { journal, clock, say };
}

test('forward is oldest first from the cursor on, backward newest first before it', async () => {
  const { journal, clock, say } = open();
  for (const at of [1_000, 2_000, 3_000]) {
    clock.ms = at;
    say(`at ${at}`);
  }
  clock.ms = 4_000;
  assert.deepEqual(texts(await journal.logs(ask())), ['at 1000', 'at 2000', 'at 3000']);
  assert.deepEqual(texts(await journal.logs(ask({ cursorMs: 2_000 }))), ['at 2000', 'at 3000']);
  assert.deepEqual(texts(await journal.logs(ask({ cursorMs: 2_001, limit: 1 }))), ['at 3000']);
  const backward = { direction: 'backward' } as const;
  assert.deepEqual(texts(await journal.logs(ask(backward))), ['at 3000', 'at 2000', 'at 1000']);
  assert.deepEqual(texts(await journal.logs(ask({ ...backward, cursorMs: 3_000 }))), ['at 2000', 'at 1000']);
  assert.deepEqual(await journal.logs(ask({ limit: 0 })), []);
  const [first] = await journal.logs(ask({ limit: 1 }));
  assert.deepEqual(first, { atMs: 1_000, level: 'info', message: 'at 1000', fields: { logger: 'x' } });
  journal.close();
});

test('by level and text', async () => {
  const { journal, clock, say } = open();
  for (const level of ['debug', 'info', 'warn', 'error'] as const) say(`100% ${level}_`, level);
  clock.ms++;
  assert.deepEqual(texts(await journal.logs(ask({ level: 'warn' }))), ['100% warn_', '100% error_']);
  assert.deepEqual(texts(await journal.logs(ask({ search: 'o_' }))), ['100% info_']);
  assert.deepEqual(await journal.logs(ask({ search: '%w' })), [], 'no pattern: the text itself');
  journal.close();
});

test('of another team, and of nobody: not found', async () => {
  const { journal } = open();
  for (const query of [ask({ teamID: 'other' }), ask({ sandboxID: 'b' })])
    await assert.rejects(journal.logs(query), { code: 'sandbox_not_found' });
  journal.close();
});

test('whoever follows misses nothing and is told nothing twice, whatever comes when', async () => {
  const step = fc.record({
    entries: fc.integer({ min: 0, max: 250 }),
    ms: fc.integer({ min: -3, max: 3 }),
    asks: fc.boolean(),
  });
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 30 }), fc.integer({ min: 101, max: 1000 }), async (steps, limit) => {
      const { journal, clock, say } = open();
      const told: string[] = [];
      let cursorMs = 0;
      let count = 0;
      const follow = async (): Promise<boolean> => {
        const page = await journal.logs(ask({ cursorMs, limit }));
        told.push(...texts(page));
        // As E2B's command line does it.
        cursorMs = (page.at(-1)?.atMs ?? cursorMs - 1) + 1;
        return page.length > 0;
      };
      for (const { entries, ms, asks } of steps) {
        for (let one = 0; one < entries; one++) say(String(count++));
        if (asks) await follow();
        clock.ms += ms;
      }
      clock.ms += 1_000;
      while (await follow());
      assert.deepEqual(
        told,
        Array.from({ length: count }, (_, index) => String(index)),
      );
      journal.close();
    }),
    { numRuns: 40 },
  );
});

test('pages backward join too', async () => {
  const { journal, clock, say } = open();
  for (let count = 0; count < 700; count++) {
    say(String(count));
    if (count % 90 === 0) clock.ms++;
  }
  clock.ms += 1_000;
  const told: string[] = [];
  for (let cursorMs: number | undefined; ; ) {
    const page = await journal.logs(
      ask({ direction: 'backward', limit: 150, ...(cursorMs === undefined ? {} : { cursorMs }) }),
    );
    if (page.length === 0) break;
    told.push(...texts(page));
    cursorMs = page.at(-1)!.atMs;
  }
  assert.deepEqual(
    told,
    Array.from({ length: 700 }, (_, index) => String(699 - index)),
  );
  journal.close();
});

test('a sandbox keeps its newest: in number and in bytes', async () => {
  const { journal, clock, say } = open({ entries: 500, bytes: 100_000 });
  for (let count = 0; count < 3_000; count++) {
    say(String(count));
    clock.ms++;
    if (count % 100 === 0) journal.flush();
  }
  const all = await journal.logs(ask());
  assert.ok(all.length >= 500 && all.length <= 550, String(all.length));
  assert.equal(all.at(-1)?.message, '2999');
  for (let count = 0; count < 200; count++) {
    say('x'.repeat(2_000));
    clock.ms++;
  }
  const bytes = (await journal.logs(ask())).reduce((sum, { message }) => sum + message.length, 0);
  assert.ok(bytes <= 110_000 && bytes > 60_000, String(bytes));
  journal.close();
});

test('one that says too much is told how much was left out; what its owner must know is not', async () => {
  const { journal, clock, say } = open();
  const shout = (count: number): void => {
    for (let one = 0; one < count; one++) journal.line('a', 'info', 'x'.repeat(100), { logger: 'process' });
  };
  shout(20_000);
  say('killed');
  clock.ms += 10_000;
  shout(1);
  clock.ms += 10_000;
  const entries: LogEntry[] = [];
  for (let cursorMs = 0; ; cursorMs = entries.at(-1)!.atMs + 1) {
    const page = await journal.logs(ask({ cursorMs }));
    if (page.length === 0) break;
    entries.push(...page);
  }
  const lines = entries.filter(({ fields }) => fields.logger === 'process');
  assert.ok(lines.length <= 2_001, String(lines.length));
  assert.deepEqual(texts(entries.filter(({ fields }) => fields.logger !== 'process')), [
    'killed',
    `${20_001 - lines.length} lines were left out: too many at once`,
  ]);
  journal.close();
});

test('what is gone is kept for its time, and the whole within its bytes', async () => {
  const { journal, clock, say } = open({ goneMs: 10_000, allBytes: 20_000 });
  journal.settle(subjectOf('b'));
  say('of a');
  say('of b', 'info', 'b');
  journal.settle(subjectOf('b', 'gone', clock.ms));
  clock.ms += 9_000;
  await journal.sweep();
  assert.deepEqual(texts(await journal.logs(ask({ sandboxID: 'b' }))), ['of b']);
  clock.ms += 2_000;
  await journal.sweep();
  await assert.rejects(journal.logs(ask({ sandboxID: 'b' })), { code: 'sandbox_not_found' });
  assert.deepEqual(texts(await journal.logs(ask())), ['of a']);
  // Too much: first goes what is gone, then the older half of who has most.
  journal.settle(subjectOf('c'));
  for (let count = 0; count < 20; count++) say('x'.repeat(1_000), 'info', 'c');
  for (let count = 0; count < 10; count++) say('y'.repeat(500), 'info', 'a');
  journal.settle(subjectOf('c', 'gone', clock.ms));
  journal.flush();
  await journal.sweep();
  await assert.rejects(journal.logs(ask({ sandboxID: 'c' })), { code: 'sandbox_not_found' });
  clock.ms += 1;
  assert.equal((await journal.logs(ask())).length, 11);
  for (let count = 0; count < 100; count++) say('z'.repeat(300), 'info', 'a');
  journal.flush();
  await journal.sweep();
  clock.ms += 1_000;
  const left = (await journal.logs(ask())).length;
  assert.ok(left < 60 && left > 20, String(left));
  journal.close();
});

const event = (sandboxID: string, kind: 'created' | 'killed' = 'created', teamID = TEAM, atMs = 1) => ({
  ...{ kind, atMs, teamID, sandboxID, generation: 'g', templateID: 't', buildID: 'b' },
  data: { sandbox_metadata: { ü: 'é' } },
});

test('events: by team, sandbox, kind, position and id; positions never come again', async () => {
  const { journal } = open({ eventsMs: 1_000, eventsOfTeam: 3 });
  journal.event(event('a'));
  journal.event(event('b', 'created', 'other'));
  journal.event(event('a', 'killed'));
  const { events, head } = await journal.events({ order: 'asc', limit: 10 });
  assert.deepEqual(
    events.map(({ position, sandboxID }) => [position, sandboxID]),
    [
      [1, 'a'],
      [2, 'b'],
      [3, 'a'],
    ],
  );
  assert.equal(head, 3);
  assert.deepEqual(events[0]!.data, { sandbox_metadata: { ü: 'é' } });
  const ids = async (more: object) =>
    (await journal.events({ order: 'desc', limit: 10, ...more })).events.map(({ position }) => position);
  assert.deepEqual(await ids({ teamID: TEAM }), [3, 1]);
  assert.deepEqual(await ids({ teamID: TEAM, sandboxID: 'b' }), []);
  assert.deepEqual(await ids({ kinds: ['killed'] }), [3]);
  assert.deepEqual(await ids({ after: 1 }), [3, 2]);
  assert.deepEqual(await ids({ offset: 1, limit: 1 }), [2]);
  assert.deepEqual(await ids({ id: events[1]!.id }), [2]);
  assert.deepEqual(await ids({ id: events[1]!.id, teamID: TEAM }), []);
  await journal.sweep();
  assert.deepEqual(await ids({}), [3, 2, 1]);
  for (let count = 0; count < 10; count++) journal.event(event('a', 'created', TEAM, 2_000));
  journal.flush();
  await journal.sweep();
  assert.deepEqual(await ids({ teamID: TEAM }), [13, 12, 11]);
  assert.equal((await journal.events({ order: 'asc', limit: 1 })).head, 13);
  journal.close();
});

test('who waits is told at once, or when the time is up, or when it gives up', async () => {
  const { journal } = open();
  const wait = journal.events({ order: 'asc', limit: 1, waitMs: 10_000 });
  await sleep(10);
  journal.event(event('a'));
  assert.equal((await wait).events.length, 1);
  const begun = performance.now();
  const after = { order: 'asc', limit: 1, after: 1 } as const;
  assert.deepEqual((await journal.events({ ...after, waitMs: 50 })).events, []);
  assert.ok(performance.now() - begun >= 45);
  const controller = new AbortController();
  const given = journal.events({ ...after, waitMs: 10_000 }, controller.signal);
  controller.abort();
  assert.deepEqual((await given).events, []);
  const closing = journal.events({ ...after, waitMs: 10_000 });
  await sleep(5);
  journal.close();
  await closing.catch(() => {});
});

test('what was told is there after an end and a new beginning, in a file of its own', async (t) => {
  const folder = await mkdtemp(join(tmpdir(), 'journal-'));
  t.after(() => rm(folder, { recursive: true, force: true }));
  const file = join(folder, 'journal.db');
  const first = open({}, file);
  first.say('before');
  first.journal.event(event('a'));
  first.journal.close();
  const second = open({}, file);
  second.clock.ms = 5_000;
  assert.deepEqual(
    second.journal.living().map(({ sandboxID }) => sandboxID),
    ['a'],
  );
  assert.deepEqual(texts(await second.journal.logs(ask())), ['before']);
  second.journal.event(event('a', 'killed'));
  const { events } = await second.journal.events({ order: 'asc', limit: 5 });
  assert.deepEqual(
    events.map(({ position, kind }) => [position, kind]),
    [
      [1, 'created'],
      [2, 'killed'],
    ],
  );
  second.journal.close();
});

test('telling waits for nothing: ten thousand lines are taken in a moment and written some at a time', async () => {
  const { journal, clock } = open({ entries: 100_000 });
  const begun = performance.now();
  for (let count = 0; count < 5_000; count++)
    journal.line(`s${count % 50}`, 'info', 'x'.repeat(80), { logger: 'process' });
  const took = performance.now() - begun;
  assert.ok(took < 500, `${took} ms`);
  let longest = 0;
  let last = performance.now();
  for (let count = 0; count < 100; count++) {
    await new Promise<void>((resolve) => setImmediate(resolve));
    longest = Math.max(longest, performance.now() - last);
    last = performance.now();
  }
  assert.ok(longest < 500, `others waited ${longest} ms`);
  clock.ms += 1;
  journal.close();
});
