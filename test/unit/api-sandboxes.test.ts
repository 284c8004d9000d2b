/** Reading, listing, connecting, prolonging, killing. */
import assert from 'node:assert/strict';
import test from 'node:test';
import { createFakeNode, serveAPI } from '../helpers/fake-node.ts';

/** A node whose clock the test sets. */
async function rig(t: test.TestContext) {
  let nowMs = 1_767_225_600_000;
  const node = createFakeNode({ now: () => nowMs });
  const api = await serveAPI(node);
  t.after(api.close);
  const create = async (body: object = {}): Promise<string> => {
    const { json } = await api.call('POST', '/v2/sandboxes', {
      body: { templateID: 'base-jail', timeout: 100, ...body },
    });
    return json.sandboxID;
  };
  const endIn = async (id: string): Promise<number> =>
    (Date.parse((await api.call('GET', `/sandboxes/${id}`)).json.endAt) - nowMs) / 1000;
  const advance = (seconds: number) => {
    nowMs += seconds * 1000;
  };
  return { node, ...api, create, endIn, advance, now: () => nowMs };
}

test('a sandbox is read by its id, with or without a suffix', async (t) => {
  const { call, create } = await rig(t);
  const id = await create({ metadata: { a: 'b' } });
  const { status, json } = await call('GET', `/sandboxes/${id}`);
  assert.equal(status, 200);
  assert.equal(json.state, 'running');
  assert.deepEqual(json.metadata, { a: 'b' });
  assert.deepEqual(json.lifecycle, { autoResume: false, onTimeout: 'kill' });
  assert.match(json.envdAccessToken, /^[0-9a-f]{64}$/);
  assert.deepEqual((await call('GET', `/sandboxes/${id}-6532622b`)).json, json);
  assert.deepEqual((await call('GET', `/sandboxes/${id}-a-b-c`)).json, json);
});

test('unknown, impossible and foreign ids are 404 for every verb', async (t) => {
  const { call, create, store, teamID } = await rig(t);
  const id = await create();
  assert.notEqual(teamID, '');
  const verbs: [string, string, object?][] = [
    ['GET', ''],
    ['DELETE', ''],
    ['POST', '/connect', { timeout: 1 }],
    ['POST', '/timeout', { timeout: 1 }],
    ['POST', '/refreshes', {}],
  ];
  for (const [method, suffix, body] of verbs)
    for (const wrong of ['inothing', 'nope-nope', '%00', '..%2f..', 'A'.repeat(1000), '-', `${id}x`]) {
      const answer = await call(method, `/sandboxes/${wrong}${suffix}`, body === undefined ? {} : { body });
      assert.equal(answer.status, 404, `${method} ${wrong}${suffix}`);
      assert.match(answer.json.message, /^Sandbox ".*" doesn't exist or you don't have access to it$/s);
    }
  void store;
});

test('another team sees nothing of it', async (t) => {
  const node = createFakeNode();
  const mine = await serveAPI(node);
  const theirs = await serveAPI(node);
  t.after(mine.close);
  t.after(theirs.close);
  const { json } = await mine.call('POST', '/v2/sandboxes', { body: { templateID: 'base' } });
  const path = `/sandboxes/${json.sandboxID}`;
  assert.equal((await theirs.call('GET', path)).status, 404);
  assert.equal((await theirs.call('DELETE', path)).status, 404);
  assert.deepEqual((await theirs.call('GET', '/v2/sandboxes')).json, []);
  assert.equal((await mine.call('GET', path)).status, 200);
});

test('kill is 204 once, then 404', async (t) => {
  const { call, create } = await rig(t);
  const id = await create();
  const first = await call('DELETE', `/sandboxes/${id}`, { headers: { 'content-type': 'application/json' } });
  assert.equal(first.status, 204);
  assert.equal(first.text, '');
  assert.equal((await call('DELETE', `/sandboxes/${id}`)).status, 404);
  assert.equal((await call('GET', `/sandboxes/${id}`)).status, 404);
});

test('timeout shortens and lengthens; 0 ends it; bad values are 400', async (t) => {
  const { call, create, endIn } = await rig(t);
  const id = await create();
  for (const timeout of [10, 1000]) {
    assert.equal((await call('POST', `/sandboxes/${id}/timeout`, { body: { timeout } })).status, 204);
    assert.equal(await endIn(id), timeout);
  }
  for (const body of [{}, { timeout: -1 }, { timeout: null }, { timeout: 1.5 }, '{"timeout":5.0}', undefined, '']) {
    const answer = await call('POST', `/sandboxes/${id}/timeout`, { body });
    assert.equal(answer.status, 400);
    assert.match(answer.json.message, /^validation error: /);
  }
  const long = await call('POST', `/sandboxes/${id}/timeout`, { body: { timeout: 86_401 } });
  assert.deepEqual(long.json, { code: 400, message: 'Timeout cannot be greater than 24 hours' });
  assert.equal((await call('POST', `/sandboxes/${id}/timeout`, { body: { timeout: 0 } })).status, 204);
  assert.equal((await call('GET', `/sandboxes/${id}`)).status, 404);
});

test('refreshes only lengthens, by 15 s at least, and needs no body', async (t) => {
  const { call, create, endIn, advance } = await rig(t);
  const id = await create();
  advance(90);
  const path = `/sandboxes/${id}/refreshes`;
  assert.equal((await call('POST', path)).status, 204);
  assert.equal(await endIn(id), 15);
  assert.equal((await call('POST', path, { body: { duration: 60 } })).status, 204);
  assert.equal(await endIn(id), 60);
  assert.equal((await call('POST', path, { body: { duration: 0 } })).status, 204);
  assert.equal(await endIn(id), 60);
  for (const duration of [-1, 3601, 1.5, '5'])
    assert.equal((await call('POST', path, { body: { duration } })).status, 400);
  assert.equal((await call('POST', `/sandboxes/${id}/pause`)).status, 204);
  assert.equal((await call('POST', path)).status, 404);
});

test('connect: 200 and never shorter while it runs, 201 after a pause, in both generations', async (t) => {
  const { call, create, endIn } = await rig(t);
  for (const version of ['', '/v2']) {
    const id = await create();
    const path = `${version}/sandboxes/${id}/connect`;
    const same = await call('POST', path, { body: { timeout: 10 } });
    assert.equal(same.status, 200);
    assert.equal(same.json.sandboxID, id);
    assert.equal(await endIn(id), 100);
    assert.equal((await call('POST', path, { body: { timeout: 200, memory: true } })).status, 200);
    assert.equal(await endIn(id), 200);
    assert.equal((await call('POST', `/sandboxes/${id}/pause`)).status, 204);
    const resumed = await call('POST', path, { body: { timeout: 30 } });
    assert.equal(resumed.status, 201);
    assert.equal(resumed.json.envdAccessToken, same.json.envdAccessToken);
    assert.equal(await endIn(id), 30);
    assert.equal((await call('POST', path, { body: { timeout: 30, memory: false } })).status, 200, 'it runs already');
    assert.equal(
      (await call('POST', path, { body: { timeout: 86_401 } })).json.message,
      'Timeout cannot be greater than 24 hours',
    );
    assert.equal((await call('POST', path, { body: { timeout: -1 } })).status, 400);
  }
});

test('connect without a body: v1 refuses, v2 takes 300 s and refuses 0', async (t) => {
  const { call, create, endIn } = await rig(t);
  const id = await create();
  assert.equal((await call('POST', `/sandboxes/${id}/connect`)).status, 400);
  assert.equal((await call('POST', `/sandboxes/${id}/connect`, { body: {} })).status, 400);
  const json = { 'content-type': 'application/json' };
  assert.equal((await call('POST', `/v2/sandboxes/${id}/connect`, { headers: json })).status, 200);
  assert.equal(await endIn(id), 300);
  assert.equal((await call('POST', `/v2/sandboxes/${id}/connect`, { body: { timeout: 0 } })).status, 400);
  assert.equal((await call('POST', `/v2/sandboxes/${id}/connect`, { body: { extra: 1 } })).status, 400);
});

test('the list: states, order, filters, totals', async (t) => {
  const { call, create, advance, now } = await rig(t);
  const ids: string[] = [];
  for (let index = 0; index < 4; index++) {
    ids.push(
      await create({
        metadata: { index: String(index), all: 'yes' },
        ...(index === 3 ? { templateID: 'code-interpreter-v1' } : {}),
      }),
    );
    advance(1);
  }
  assert.equal((await call('POST', `/sandboxes/${ids[1]}/pause`)).status, 204);
  const list = async (query: string) => {
    const answer = await call('GET', `/v2/sandboxes${query}`);
    assert.equal(answer.status, 200, answer.text);
    assert.equal(answer.headers['x-total-running'], '3');
    assert.equal('x-next-token' in answer.headers, false);
    return answer.json.map((each: { sandboxID: string }) => ids.indexOf(each.sandboxID));
  };
  assert.deepEqual(await list(''), [3, 2, 1, 0]);
  assert.deepEqual(await list('?order=asc&unknown=1'), [0, 1, 2, 3]);
  assert.deepEqual(await list('?state=running'), [3, 2, 0]);
  assert.deepEqual(await list('?state=paused'), [1]);
  assert.deepEqual(await list('?state=running,paused'), [3, 2, 1, 0]);
  assert.deepEqual(await list('?state=running%2Cpaused'), [3, 2, 1, 0]);
  assert.deepEqual(await list('?state=running&state=paused'), [3, 2, 1, 0]);
  assert.deepEqual(await list('?metadata=index=2'), [2]);
  assert.deepEqual(await list('?metadata=index%3D2%26all%3Dyes'), [2]);
  assert.deepEqual(await list('?metadata=index%3D2%26all%3Dno'), []);
  assert.deepEqual(await list('?template=code-interpreter-v1'), [3]);
  const instant = new Date(now() - 2000).toISOString();
  assert.deepEqual(await list(`?startedAfter=${instant}`), [3, 2]);
  assert.deepEqual(await list(`?startedAfter=${instant.replace('Z', '+00:00')}`), [3, 2]);
  const old = await call('GET', '/sandboxes?metadata=all%3Dyes');
  assert.deepEqual(
    old.json.map((each: { sandboxID: string }) => ids.indexOf(each.sandboxID)),
    [3, 2, 0],
  );
});

test('pages: a token exactly while there is more, in both orders, over equal times', async (t) => {
  const { call, create, advance } = await rig(t);
  const all = new Set<string>();
  for (let index = 0; index < 7; index++) {
    all.add(await create());
    if (index % 3 === 2) advance(1);
  }
  for (const order of ['asc', 'desc']) {
    const seen: string[] = [];
    let token = '';
    for (let page = 0; page < 4; page++) {
      const answer = await call(
        'GET',
        `/v2/sandboxes?limit=2&order=${order}${token === '' ? '' : `&nextToken=${token}`}`,
      );
      seen.push(...answer.json.map((each: { sandboxID: string }) => each.sandboxID));
      token = String(answer.headers['x-next-token'] ?? '');
      assert.equal(token === '', page === 3);
    }
    assert.equal(seen.length, 7);
    assert.deepEqual(new Set(seen), all);
  }
  const exact = await call('GET', '/v2/sandboxes?limit=7');
  assert.equal('x-next-token' in exact.headers, false);
});

test('more than a hundred appear in the deprecated list', async (t) => {
  const { node, call, teamID } = await rig(t);
  for (let index = 0; index < 205; index++)
    await node.createSandbox({
      teamID,
      template: 'base',
      timeoutSeconds: 60,
      secure: true,
      metadata: {},
      envVars: {},
      network: {},
    });
  const { json } = await call('GET', '/sandboxes');
  assert.equal(new Set(json.map((each: { sandboxID: string }) => each.sandboxID)).size, 205);
});

test('bad list parameters are 400', async (t) => {
  const { call } = await rig(t);
  const token = (text: string) => Buffer.from(text).toString('base64url');
  const queries = [
    'limit=0',
    'limit=101',
    'limit=-1',
    'limit=1.5',
    'limit=',
    'limit=x',
    'limit=1&limit=2',
    'state=killed',
    'state=',
    'state=running,',
    'order=up',
    'startedAfter=yesterday',
    'startedAfter=2026-13-01T00:00:00Z',
    'metadata=a',
    'metadata=a%3Db%3Dc',
    'metadata=%25E0%25A4',
    'metadata=a%3Db&metadata=c%3Dd',
    'nextToken=',
    'nextToken=x',
    'nextToken=!!!',
    `nextToken=${token('2026-01-01T00:00:00.000Z')}`,
    `nextToken=${token('2026-99-01T00:00:00.000Z__iabc')}`,
    `nextToken=${token('2026-01-01T00:00:00.000Z__iabc__asc')}`,
    'template=',
  ];
  for (const query of queries) {
    const answer = await call('GET', `/v2/sandboxes?${query}`);
    assert.equal(answer.status, 400, query);
    assert.match(answer.json.message, /^validation error: /, query);
  }
});

test('states on the way count as where they go, and what is dying is gone', async () => {
  const { wireState } = await import('../../src/contract/e2b/encode.ts');
  const table = {
    creating: 'running',
    running: 'running',
    resuming: 'running',
    pausing: 'paused',
    paused: 'paused',
    killing: undefined,
    killed: undefined,
    error: undefined,
  } as const;
  for (const [state, expected] of Object.entries(table)) assert.equal(wireState(state as keyof typeof table), expected);
});
