/** Teams, their keys and access tokens over REST; who may ask for which team. */
import assert from 'node:assert/strict';
import test from 'node:test';
import type { Log } from '../../src/telemetry/log.ts';
import { createFakeNode, serveAPI } from '../helpers/fake-node.ts';

const UNKNOWN = '00000000-0000-4000-8000-000000000000';

/** Two teams; `token` reaches both, `narrow` the second alone. */
async function rig(t: test.TestContext, options: { log?: Log; now?: () => number } = {}) {
  const node = createFakeNode();
  const api = await serveAPI(node, options);
  t.after(api.close);
  const { store, teamID, adminToken } = api;
  const other = store.teams.create('other').teamID;
  const { token, view } = store.tokens.create({ teamIDs: [teamID, other], name: 'laptop' });
  const narrow = store.tokens.create({ teamIDs: [other], name: 'narrow' });
  const as = (secret: string, team?: string) => ({
    key: null,
    headers: { authorization: `Bearer ${secret}`, ...(team === undefined ? {} : { 'x-team-id': team }) },
  });
  const admin = (team?: string) => ({
    key: null,
    headers: { 'x-admin-token': adminToken, ...(team === undefined ? {} : { 'x-team-id': team }) },
  });
  return { ...api, node, other, token, tokenID: view.tokenID, narrow, as, admin };
}

test('GET /teams tells the holder of a token its teams, each with a key that works and stays the same', async (t) => {
  const { call, as, token, narrow, teamID, other, store } = await rig(t);
  const { json } = await call('GET', '/teams', as(token));
  assert.deepEqual(
    json.map((each: { teamID: string; name: string; isDefault: boolean }) => [each.teamID, each.name, each.isDefault]),
    [
      [teamID, 'default', true],
      [other, 'other', false],
    ],
  );
  assert.deepEqual((await call('GET', '/teams', as(token))).json, json);
  for (const { teamID: owner, apiKey } of json) {
    const made = await call('POST', '/v2/sandboxes', { key: apiKey, body: { templateID: 'base' } });
    assert.equal(made.status, 201);
    assert.equal(store.keys.authenticate(apiKey)!.teamID, owner);
  }
  const alone = (await call('GET', '/teams', as(narrow.token))).json;
  assert.deepEqual([alone.length, alone[0].teamID, alone[0].isDefault], [1, other, true]);
  assert.notEqual(alone[0].apiKey, json[1].apiKey, 'each token has a key of its own');
  const names = store.keys.list(other).map((each) => each.name);
  assert.deepEqual(names.sort(), ['laptop', 'narrow']);
});

test('a key that was told for a token ends by itself or with the token, and only the first is followed by another', async (t) => {
  const { call, as, token, tokenID, teamID, store } = await rig(t);
  const keyOf = async () => (await call('GET', '/teams', as(token))).json[0].apiKey as string;
  const first = await keyOf();
  const { keyID } = store.keys.authenticate(first)!;
  assert.equal((await call('DELETE', `/api-keys/${keyID}`, as(token, teamID))).status, 204);
  assert.equal((await call('GET', '/v2/sandboxes', { key: first })).status, 401);
  const second = await keyOf();
  assert.notEqual(second, first);
  assert.equal((await call('GET', '/v2/sandboxes', { key: second })).status, 200);
  assert.equal((await call('DELETE', `/access-tokens/${tokenID}`, as(token))).status, 204);
  assert.equal((await call('GET', '/v2/sandboxes', { key: second })).status, 401);
  assert.equal((await call('GET', '/teams', as(token))).status, 401);
});

test('api keys: made and shown once, listed by mask, renamed, ended', async (t) => {
  const { call, as, token, teamID, store } = await rig(t, { now: () => 1_767_225_600_000 });
  const made = await call('POST', '/api-keys', { ...as(token, teamID), body: { name: ' ci ', unheardOf: 1 } });
  assert.equal(made.status, 201);
  const { key, ...shown } = made.json;
  assert.deepEqual(shown, {
    id: shown.id,
    name: 'ci',
    mask: { prefix: 'e2b_', valueLength: 40, maskedValuePrefix: key.slice(4, 6), maskedValueSuffix: key.slice(-4) },
    createdAt: '2026-01-01T00:00:00.000Z',
    createdBy: null,
    lastUsed: null,
  });
  assert.equal((await call('GET', '/v2/sandboxes', { key })).status, 200);
  store.keys.flush();
  const find = async () =>
    (await call('GET', '/api-keys', as(token, teamID))).json.find((each: { id: string }) => each.id === shown.id);
  assert.deepEqual(await find(), { ...shown, lastUsed: '2026-01-01T00:00:00.000Z' });
  const path = `/api-keys/${shown.id}`;
  const renamed = await call('PATCH', path, { ...as(token, teamID), body: { name: 'nightly' } });
  assert.equal(renamed.json.name, 'nightly');
  assert.equal((await find()).name, 'nightly');
  assert.equal((await call('DELETE', path, as(token, teamID))).status, 204);
  assert.equal(await find(), undefined);
  assert.equal((await call('GET', '/v2/sandboxes', { key })).status, 401);
  for (const [method, body] of [['DELETE'], ['PATCH', { name: 'x' }]] as const)
    assert.equal((await call(method, path, { ...as(token, teamID), body })).status, 404);
  for (const body of [undefined, {}, { name: '' }, { name: '  ' }, { name: 1 }, { name: 'x'.repeat(129) }, '{']) {
    assert.equal((await call('POST', '/api-keys', { ...as(token, teamID), body })).status, 400, String(body));
    assert.equal((await call('POST', '/access-tokens', { ...as(token), body })).status, 400, String(body));
  }
});

test('access tokens make and end tokens of no wider reach', async (t) => {
  const { call, as, token, tokenID, narrow, other } = await rig(t);
  const made = await call('POST', '/access-tokens', { ...as(narrow.token), body: { name: 'child' } });
  assert.equal(made.status, 201);
  const teams = (await call('GET', '/teams', as(made.json.token))).json;
  assert.deepEqual(
    teams.map((each: { teamID: string }) => each.teamID),
    [other],
  );
  assert.equal((await call('DELETE', `/access-tokens/${tokenID}`, as(made.json.token))).status, 404, 'a wider one');
  assert.equal((await call('DELETE', `/access-tokens/${UNKNOWN}`, as(token))).status, 404);
  assert.equal((await call('DELETE', `/access-tokens/${made.json.id}`, as(token))).status, 204);
  assert.equal((await call('DELETE', `/access-tokens/${made.json.id}`, as(token))).status, 404);
  assert.equal((await call('GET', '/teams', as(made.json.token))).status, 401);
});

test('a token speaks for the team in X-Team-ID, if it reaches it', async (t) => {
  const { call, as, admin, token, narrow, teamID, other, node } = await rig(t);
  const create = (options: object) => call('POST', '/v2/sandboxes', { ...options, body: { templateID: 'base' } });
  for (const options of [as(token, other), admin(other), as(narrow.token, other)]) {
    const { json, status } = await create(options);
    assert.equal(status, 201);
    assert.equal(node.requests.at(-1)!.teamID, other);
    assert.equal((await call('GET', `/sandboxes/${json.sandboxID}`, options)).status, 200);
    assert.equal((await call('GET', `/sandboxes/${json.sandboxID}`)).status, 404, 'of the default team');
    assert.equal((await call('DELETE', `/sandboxes/${json.sandboxID}`, as(token, teamID))).status, 404);
  }
  const table: [object, number][] = [
    [as(token), 401],
    [admin(), 401],
    [as(narrow.token, teamID), 403],
    [as(token, UNKNOWN), 403],
    [as(token, ''), 403],
    [admin(UNKNOWN), 403],
    [as(token.toUpperCase(), teamID), 401],
    [as(`${token}0`, teamID), 401],
    [{ key: null, headers: { authorization: token, 'x-team-id': teamID } }, 401],
    [{ key: null, headers: { authorization: `Basic ${token}`, 'x-team-id': teamID } }, 401],
    [{ key: null, headers: { 'x-api-key': token, 'x-team-id': teamID } }, 401],
    [{ key: null, headers: { 'x-admin-token': token, 'x-team-id': teamID } }, 401],
    [{ key: `e2b_${'0'.repeat(40)}`, headers: as(token, teamID).headers }, 401],
    [{ headers: as(token, other).headers }, 200],
  ];
  for (const [options, status] of table)
    assert.equal((await call('GET', '/v2/sandboxes', options)).status, status, JSON.stringify(options));
});

test('keys, tokens and metrics of another team are as unknown as what there is not', async (t) => {
  const { call, as, admin, narrow, teamID, other, store } = await rig(t);
  const mine = store.keys.create({ teamID, name: 'mine' });
  for (const id of [mine.view.keyID, UNKNOWN, 'x', '%00', '..%2f..'])
    for (const [method, body] of [['DELETE'], ['PATCH', { name: 'stolen' }]] as const) {
      const answer = await call(method, `/api-keys/${id}`, { ...as(narrow.token, other), body });
      assert.equal(answer.status, 404);
      assert.match(answer.json.message, /doesn't exist or you don't have access to it$/);
    }
  assert.ok(store.keys.authenticate(mine.key));
  const listed = (await call('GET', '/api-keys', as(narrow.token, other))).json;
  assert.deepEqual(listed, []);
  for (const id of [teamID, UNKNOWN]) {
    const query = '/max?metric=concurrent_sandboxes';
    for (const suffix of ['', query])
      assert.equal((await call('GET', `/teams/${id}/metrics${suffix}`, as(narrow.token, other))).status, 404);
    assert.equal((await call('DELETE', `/admin/teams/${id}/api-keys/${UNKNOWN}`, admin())).status, 404);
  }
  const foreign = `/admin/teams/${other}/api-keys/${mine.view.keyID}`;
  assert.equal((await call('DELETE', foreign, admin())).status, 404);
  const made = await call('POST', `/admin/teams/${other}/api-keys`, { ...admin(), body: { name: 'by the operator' } });
  assert.equal(store.keys.authenticate(made.json.key)!.teamID, other);
  assert.equal((await call('DELETE', `/admin/teams/${other}/api-keys/${made.json.id}`, admin())).status, 204);
  assert.equal(
    (await call('POST', `/admin/teams/${UNKNOWN}/api-keys`, { ...admin(), body: { name: 'x' } })).status,
    404,
  );
});

test('team metrics: how many ran, how fast they were started, and the highest of each', async (t) => {
  const minute = 60_000;
  let now = 1_767_225_600_000;
  const { call, teamID, other, store, node } = await rig(t, { now: () => now });
  const { countRunning } = await import('../../src/control/census.ts');
  const sample = async () => {
    now += minute;
    store.points.record(await countRunning(node, store.teams));
  };
  const create = () => call('POST', '/v2/sandboxes', { body: { templateID: 'base' } });
  await sample();
  const { json: made } = await create();
  await create();
  await create();
  await sample();
  await call('DELETE', `/sandboxes/${made.sandboxID}`);
  await sample();
  const seconds = now / 1000;
  const path = `/teams/${teamID}/metrics`;
  const span = `start=${seconds - 600}&end=${seconds}`;
  const { json } = await call('GET', `${path}?${span}`);
  assert.deepEqual(json, [
    {
      timestamp: '2026-01-01T00:02:00.000Z',
      timestampUnix: seconds - 60,
      concurrentSandboxes: 3,
      sandboxStartRate: 3 / 60,
    },
    { timestamp: '2026-01-01T00:03:00.000Z', timestampUnix: seconds, concurrentSandboxes: 2, sandboxStartRate: 0 },
  ]);
  for (const [metric, value] of [
    ['concurrent_sandboxes', 3],
    ['sandbox_start_rate', 3 / 60],
  ] as const) {
    const highest = await call('GET', `${path}/max?metric=${metric}&${span}`);
    assert.deepEqual(highest.json, { timestamp: '2026-01-01T00:02:00.000Z', timestampUnix: seconds - 60, value });
    const none = await call('GET', `${path}/max?metric=${metric}&start=1&end=2`);
    assert.deepEqual(none.json, { timestamp: '1970-01-01T00:00:02.999Z', timestampUnix: 2, value: 0 });
  }
  assert.deepEqual((await call('GET', `${path}?start=${seconds - 600}&end=${seconds - 120}`)).json, []);
  assert.equal(store.points.list(other, 0, now).length, 0, 'a team of which nothing ran has no points');
  for (const query of ['start=2&end=1', 'start=-1', 'start=x', 'end=1.5', 'start=1&start=2'])
    assert.equal((await call('GET', `${path}?${query}`)).status, 400, query);
  for (const query of ['', '?metric=x']) assert.equal((await call('GET', `${path}/max${query}`)).status, 400, query);
});

test('no secret of either kind reaches the log', async (t) => {
  const lines: string[] = [];
  const write = (fields: Record<string, unknown>, message: string) =>
    lines.push(JSON.stringify({ ...fields, message }));
  const log: Log = { child: () => log, debug: write, info: write, warn: write, error: write };
  const { call, as, admin, token, adminToken, teamID } = await rig(t, { log });
  const { json } = await call('GET', '/teams', as(token));
  const made = await call('POST', '/api-keys', { ...as(token, teamID), body: { name: 'x' } });
  await call('GET', '/v2/sandboxes', admin(teamID));
  while (lines.length < 3) await new Promise((resolve) => setTimeout(resolve, 5));
  for (const secret of [token, adminToken, json[0].apiKey, made.json.key])
    assert.equal(lines.join('\n').includes(secret), false);
});
