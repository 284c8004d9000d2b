/** Metrics, logs and events at the REST edge: E2B's shapes, units and words, and its SDK and command line reading them. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import test, { type TestContext } from 'node:test';
import { promisify } from 'node:util';
import { Sandbox as Newest } from 'e2b';
import { Sandbox as Older } from 'e2b-245';
import type { SandboxMetric } from '../../src/contract/node-api.ts';
import { createFakeNode, serveAPI } from '../helpers/fake-node.ts';

const exec = promisify(execFile);

async function rig(t: TestContext) {
  const node = createFakeNode();
  const api = await serveAPI(node);
  t.after(api.close);
  const made = await api.call('POST', '/v2/sandboxes', { body: { templateID: 'base', metadata: { of: 'mine' } } });
  const id: string = made.json.sandboxID;
  const get = async (path: string) => {
    const answer = await api.call('GET', path);
    assert.equal(answer.status, 200, answer.text);
    return answer.json;
  };
  const status = async (path: string): Promise<number> => (await api.call('GET', path)).status;
  return { node, api, id, get, status };
}

const point = (atMs: number): SandboxMetric => ({
  atMs,
  cpuCount: 2,
  cpuUsedPct: 12.5,
  memUsed: 100,
  memTotal: 1_000,
  memCache: 10,
  diskUsed: 5,
  diskTotal: 50,
});

test('metrics: seconds in, both ends included; every field out', async (t) => {
  const { node, id, get, status } = await rig(t);
  assert.deepEqual(await get(`/sandboxes/${id}/metrics`), []);
  node.points.set(id, [1_700_000_000_250, 1_700_000_005_750].map(point));
  const [first, second] = await get(`/sandboxes/${id}/metrics`);
  const { atMs: _, ...rest } = point(0);
  assert.deepEqual(first, { timestamp: '2023-11-14T22:13:20.250Z', timestampUnix: 1_700_000_000, ...rest });
  assert.deepEqual(await get(`/sandboxes/${id}/metrics?start=1700000005&end=1700000005`), [second]);
  assert.deepEqual(await get(`/sandboxes/${id}/metrics?start=1700000001&end=1700000004`), []);
  assert.deepEqual(await get(`/sandboxes/${id}-extra/metrics?end=1700000000`), [first]);
  for (const query of ['start=x', 'start=-1', 'start=1.5', 'start=2&end=1', 'start=1&start=2', 'end='])
    assert.equal(await status(`/sandboxes/${id}/metrics?${query}`), 400, query);
  assert.equal(await status('/sandboxes/inothing/metrics'), 404);
});

test('latest metrics: by id; what is unknown or has none is absent', async (t) => {
  const { node, api, id, get, status } = await rig(t);
  const other = (await api.call('POST', '/v2/sandboxes', { body: { templateID: 'base' } })).json.sandboxID;
  node.points.set(id, [1_000, 2_000].map(point));
  const { sandboxes } = await get(`/sandboxes/metrics?sandbox_ids=${id},inothing,${other}`);
  assert.deepEqual(Object.keys(sandboxes), [id]);
  assert.equal(sandboxes[id].timestampUnix, 2);
  assert.equal(await status('/sandboxes/metrics'), 400);
  assert.equal(await status(`/sandboxes/metrics?sandbox_ids=${'a,'.repeat(100)}a`), 400);
  assert.deepEqual(await get(`/sandboxes/metrics?sandbox_ids=${'a,'.repeat(99)}a`), { sandboxes: {} });
});

for (const [name, Sandbox] of [
  ['e2b 2.51.0', Newest],
  ['e2b 2.45.0', Older as unknown as typeof Newest],
] as const)
  test(`${name}: getMetrics`, async (t) => {
    const { node, api, id } = await rig(t);
    const options = { apiUrl: api.url, apiKey: api.key };
    const at = Math.floor(Date.now() / 1000) * 1000;
    node.points.set(id, [at - 10_000, at - 5_000, at].map(point));
    const found = await Sandbox.getMetrics(id, options);
    assert.equal(found.length, 3);
    assert.deepEqual(
      { ...found[0]! },
      {
        timestamp: new Date(at - 10_000),
        ...{ cpuUsedPct: 12.5, cpuCount: 2, memUsed: 100, memTotal: 1_000, memCache: 10, diskUsed: 5, diskTotal: 50 },
      },
    );
    const some = await Sandbox.getMetrics(id, { ...options, start: new Date(at - 5_000), end: new Date(at) });
    assert.equal(some.length, 2);
    assert.deepEqual(await Sandbox.getMetrics(id, { ...options, end: new Date(at - 3_600_000) }), []);
    await assert.rejects(Sandbox.getMetrics('inothing', options), { name: /NotFound/ });
  });

test('logs of the first generation: lines that are JSON with an upper-case level, milliseconds', async (t) => {
  const { node, id, get, status } = await rig(t);
  const at = Date.now() + 5;
  node.journal.note(id, 'warn', 'said "this"', { logger: 'process', level: 'mine' }, at);
  await new Promise((resolve) => setTimeout(resolve, 10));
  const { logs, logEntries } = await get(`/sandboxes/${id}/logs?limit=5000`);
  assert.deepEqual(
    logs.map(({ line }: { line: string }) => JSON.parse(line)),
    [
      { logger: 'lifecycle', message: 'created', level: 'INFO' },
      { logger: 'process', message: 'said "this"', level: 'WARN' },
    ],
  );
  assert.deepEqual(
    logs.map(({ timestamp }: { timestamp: string }) => timestamp),
    logEntries.map(({ timestamp }: { timestamp: string }) => timestamp),
  );
  const fields = { logger: 'process', level: 'mine' };
  const entry = { timestamp: new Date(at).toISOString(), level: 'warn', message: 'said "this"', fields };
  assert.deepEqual(logEntries[1], entry);
  assert.deepEqual((await get(`/sandboxes/${id}/logs?start=${at}`)).logEntries, [entry]);
  assert.deepEqual(await get(`/sandboxes/${id}/logs?start=${at + 1}`), { logs: [], logEntries: [] });
  assert.equal((await get(`/sandboxes/${id}/logs?limit=1`)).logs.length, 1);
  for (const query of ['start=x', 'limit=-1', 'limit=1e3'])
    assert.equal(await status(`/sandboxes/${id}/logs?${query}`), 400);
  assert.equal(await status('/sandboxes/inothing/logs'), 404);
});

test('logs of the second generation: cursor, direction, level, search, bounds', async (t) => {
  const { node, id, get, status } = await rig(t);
  const at = Date.now() - 60_000;
  const [other] = [node.journal];
  for (const [index, level] of (['debug', 'info', 'warn', 'error'] as const).entries())
    other.note('ibare', level, `at ${index}`, { logger: 'process' }, at + index * 1_000);
  const subject = { sandboxID: 'ibare', teamID: '', generation: '', templateID: '', buildID: '', sinceMs: 0 };
  const teamID = (await get(`/events/sandboxes/${id}`))[0].sandbox_team_id;
  node.journal.settle({ ...subject, teamID, state: 'gone' });
  const messages = async (query: string): Promise<string[]> =>
    (await get(`/v2/sandboxes/ibare/logs?${query}`)).logs.map((one: { message: string }) => one.message);
  assert.deepEqual(await messages(''), ['at 3', 'at 2', 'at 1', 'at 0']);
  assert.deepEqual(await messages('direction=forward'), ['at 0', 'at 1', 'at 2', 'at 3']);
  assert.deepEqual(await messages(`direction=forward&cursor=${at + 1_000}&limit=2`), ['at 1', 'at 2']);
  assert.deepEqual(await messages(`cursor=${at + 1_000}`), ['at 0']);
  assert.deepEqual(await messages('level=warn'), ['at 3', 'at 2']);
  assert.deepEqual(await messages('search=t%202'), ['at 2']);
  assert.deepEqual(await messages('limit=0'), []);
  const [entry] = (await get('/v2/sandboxes/ibare/logs?limit=1')).logs;
  assert.deepEqual(entry, {
    timestamp: new Date(at + 3_000).toISOString(),
    ...{ level: 'error', message: 'at 3', fields: { logger: 'process' } },
  });
  for (const query of ['limit=1001', 'level=INFO', 'direction=up', `search=${'x'.repeat(257)}`, 'cursor=a'])
    assert.equal(await status(`/v2/sandboxes/ibare/logs?${query}`), 400, query);
});

test('a sandbox that is gone still has its log, for its own team alone', async (t) => {
  const { api, id, get } = await rig(t);
  await api.call('DELETE', `/sandboxes/${id}`);
  const { logs } = await get(`/v2/sandboxes/${id}/logs`);
  assert.deepEqual(
    logs.map(({ message }: { message: string }) => message),
    ['killed', 'created'],
  );
  const stranger = api.store.keys.create({ teamID: api.store.teams.create('other').teamID, name: 'x' }).key;
  assert.equal((await api.call('GET', `/v2/sandboxes/${id}/logs`, { key: stranger })).status, 404);
  assert.deepEqual((await api.call('GET', `/events/sandboxes/${id}`, { key: stranger })).json, []);
});

test("E2B's command line prints the log and the metrics", async (t) => {
  const { node, api, id } = await rig(t);
  node.journal.note(id, 'error', 'from the test', { logger: 'process', pid: '7' });
  node.points.set(id, [point(Date.now())]);
  // They follow while it runs, and end with it.
  await new Promise((resolve) => setTimeout(resolve, 5));
  const env = {
    ...process.env,
    E2B_API_URL: api.url,
    E2B_API_KEY: api.key,
    E2B_ACCESS_TOKEN: 'x',
    HOME: '/nonexistent',
  };
  const e2b = async (...args: string[]) =>
    (await exec(process.execPath, ['node_modules/@e2b/cli/dist/index.js', ...args], { env, timeout: 60_000 })).stdout;
  const lines = (await e2b('sandbox', 'logs', id, '--format', 'json'))
    .split('\n')
    .filter((line) => line.startsWith('{'));
  assert.deepEqual(
    lines.map((line) => JSON.parse(line)).map(({ message, logger, pid }) => [message, logger, pid]),
    [
      ['created', 'lifecycle', undefined],
      ['from the test', 'process', '7'],
    ],
  );
  assert.match(await e2b('sandbox', 'logs', id, '--level', 'ERROR', '--loggers', 'process'), /from the test/);
  assert.match(await e2b('sandbox', 'metrics', id), /CPU/i);
});

test('events: E2B’s fields, newest first, by page, order and type', async (t) => {
  const { api, id, get, status } = await rig(t);
  await api.call('DELETE', `/sandboxes/${id}`);
  const events = await get('/events/sandboxes');
  assert.deepEqual(
    events.map((one: { type: string; event_label: string }) => [one.type, one.event_label]),
    [
      ['sandbox.lifecycle.killed', 'kill'],
      ['sandbox.lifecycle.created', 'create'],
    ],
  );
  const [killed, created] = events;
  assert.deepEqual(created.event_data, { sandbox_metadata: { of: 'mine' } });
  assert.equal(created.sandbox_team_id, api.teamID);
  assert.deepEqual(await get('/events/sandboxes?orderAsc=true'), [created, killed]);
  assert.deepEqual(await get('/events/sandboxes?limit=1&offset=1'), [created]);
  assert.deepEqual(await get('/events/sandboxes?types=sandbox.lifecycle.killed&types=sandbox.lifecycle.paused'), [
    killed,
  ]);
  assert.deepEqual(await get(`/events/sandboxes/${id}?types=sandbox.lifecycle.created`), [created]);
  for (const query of ['limit=0', 'limit=101', 'types=x', 'orderAsc=yes', 'offset=-1'])
    assert.equal(await status(`/events/sandboxes?${query}`), 400, query);
});
