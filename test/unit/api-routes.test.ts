/** Which paths exist, who may ask, and what every other request gets: JSON with an integer code, always. */
import assert from 'node:assert/strict';
import { connect } from 'node:net';
import test from 'node:test';
import { PENDING_VERBS } from '../../src/contract/e2b/routes.ts';
import type { Log } from '../../src/telemetry/log.ts';
import { createFakeNode, serveAPI } from '../helpers/fake-node.ts';

const node = createFakeNode();
const api = await serveAPI(node);
test.after(api.close);

const REAL: [string, string][] = [
  ['POST', '/sandboxes'],
  ['POST', '/v2/sandboxes'],
  ['GET', '/sandboxes'],
  ['GET', '/v2/sandboxes'],
  ['GET', '/sandboxes/iabc'],
  ['DELETE', '/sandboxes/iabc'],
  ['POST', '/sandboxes/iabc/connect'],
  ['POST', '/v2/sandboxes/iabc/connect'],
  ['PUT', '/sandboxes/iabc/network'],
  ['POST', '/sandboxes/iabc/timeout'],
  ['POST', '/sandboxes/iabc/refreshes'],
  ['POST', '/sandboxes/iabc/pause'],
  ['POST', '/sandboxes/iabc/resume'],
  ['POST', '/sandboxes/iabc/fork'],
  ['POST', '/sandboxes/iabc/rollback'],
  ['POST', '/sandboxes/iabc/snapshots'],
  ['GET', '/snapshots'],
  ['GET', '/sandboxes/iabc/metrics'],
  ['GET', '/sandboxes/metrics'],
  ['GET', '/sandboxes/iabc/logs'],
  ['GET', '/v2/sandboxes/iabc/logs'],
  ['GET', '/events/sandboxes'],
  ['GET', '/events/sandboxes/iabc'],
  ['GET', '/events/webhooks'],
  ['POST', '/events/webhooks'],
  ['GET', '/events/webhooks/abc'],
  ['PATCH', '/events/webhooks/abc'],
  ['DELETE', '/events/webhooks/abc'],
  ['GET', '/events/webhooks/abc/deliveries'],
  ['POST', '/events/webhooks/abc/replay'],
  ['DELETE', '/templates/base'],
  ['GET', '/templates'],
  ['GET', '/v2/templates'],
  ['GET', '/templates/base'],
  ['GET', '/templates/aliases/base'],
  ['GET', '/teams/x1/metrics'],
  ['GET', '/teams/x1/metrics/max'],
];
/** An API key is not enough for these. */
const KEYLESS: [string, string][] = [
  ['GET', '/teams'],
  ['GET', '/api-keys'],
  ['POST', '/api-keys'],
  ['PATCH', '/api-keys/x1'],
  ['DELETE', '/api-keys/x1'],
  ['POST', '/access-tokens'],
  ['DELETE', '/access-tokens/x1'],
  ['GET', '/nodes'],
  ['GET', '/nodes/local'],
  ['POST', '/nodes/local'],
  ['POST', '/admin/teams/x1/sandboxes/kill'],
  ['GET', '/admin/sandboxes/running-counts'],
  ['POST', '/admin/teams/x1/api-keys'],
  ['DELETE', '/admin/teams/x1/api-keys/x1'],
  ['POST', '/admin/teams/x1/builds/cancel'],
];
const fill = (path: string) => path.replace(/:[A-Za-z]+/g, 'x1');

test('without a valid key every verb is 401, whatever else is wrong with the request', async () => {
  const wrong: [string, string | null, Record<string, string>][] = [
    ['none', null, {}],
    ['empty', '', {}],
    ['unknown', `e2b_${'0'.repeat(40)}`, {}],
    ['upper case', api.key.toUpperCase(), {}],
    ['longer', `${api.key}0`, {}],
    ['twice', `${api.key}, ${api.key}`, {}],
    ['bearer', null, { authorization: `Bearer ${api.key}` }],
    ['basic', null, { authorization: `Basic ${Buffer.from(`${api.key}:`).toString('base64')}` }],
    ['huge', 'e'.repeat(8000), {}],
  ];
  for (const [name, key, headers] of wrong)
    for (const [method, path] of [
      ...REAL,
      ...KEYLESS,
      ...PENDING_VERBS.map((each) => [each.method, fill(each.path)] as const),
    ]) {
      const answer = await api.call(method, path, { key, headers, body: method === 'POST' ? '{' : undefined });
      assert.equal(answer.status, 401, `${name}: ${method} ${path}`);
    }
});

test('what makes keys, or is about every team, is refused to a key', async () => {
  for (const [method, path] of KEYLESS)
    assert.equal((await api.call(method, path, { body: method === 'GET' ? undefined : '{' })).status, 401, path);
});

test('the header name is free in case, as SDKs spell it X-API-KEY', async () => {
  assert.equal((await api.call('GET', '/v2/sandboxes', { key: null, headers: { 'X-API-KEY': api.key } })).status, 200);
});

test('verbs of the contract that are not there yet are 501 by name', async () => {
  for (const { method, path, verb } of PENDING_VERBS)
    for (const body of [undefined, '{', '{}']) {
      const answer = await api.call(method, fill(path), { body: method === 'GET' ? undefined : body });
      assert.equal(answer.status, 501, `${method} ${path}`);
      assert.equal(answer.json.message, `${verb} (${method} ${path}) is not implemented yet`);
    }
});

test('snapshot ids with an encoded slash and colon find their verb', async () => {
  const answer = await api.call('DELETE', '/templates/ns%2Falias%3Adefault');
  assert.deepEqual(answer.json, { code: 404, message: "template 'ns/alias:default' not found" });
});

test('unknown paths are 404 and known paths with another method 405, with or without a key and a body', async () => {
  const table: [string, string, number, string?][] = [
    ['GET', '/', 404],
    ['GET', '/nothing', 404],
    ['POST', '/v1/sandboxes', 404],
    ['GET', '/sandboxes/a/b/c', 404],
    ['GET', '//sandboxes', 404],
    ['GET', '/Sandboxes', 404],
    ['POST', '/files?path=x', 404],
    ['PROPFIND', '/nothing', 404],
    ['QUERY', '/nothing', 404],
    ['GET', `/nothing/${'x'.repeat(5000)}`, 404],
    ['PUT', '/sandboxes', 405, 'GET, HEAD, POST'],
    ['PATCH', '/v2/sandboxes', 405, 'GET, HEAD, POST'],
    ['POST', '/sandboxes/iabc', 405, 'DELETE, GET, HEAD'],
    ['GET', '/sandboxes/iabc/timeout', 405, 'POST'],
    ['GET', '/sandboxes/iabc/fork', 405, 'POST'],
    ['DELETE', '/sandboxes/iabc/rollback', 405, 'POST'],
    ['TRACE', '/sandboxes', 405, 'GET, HEAD, POST'],
    ['PROPFIND', '/sandboxes', 405, 'GET, HEAD, POST'],
    ['DELETE', '/health', 405, 'GET, HEAD'],
  ];
  for (const [method, path, status, allow] of table)
    for (const key of [api.key, null])
      for (const body of ['GET', 'TRACE'].includes(method) ? [undefined] : [undefined, '{', '{}']) {
        const answer = await api.call(method, path, { key, body });
        assert.equal(answer.status, status, `${method} ${path.slice(0, 50)}: ${answer.text}`);
        assert.equal(answer.headers.allow, allow);
      }
});

test('paths that cannot be decoded or are too long are client errors', async () => {
  for (const path of ['/sandboxes/%', '/%E0%A4%A', '/sandboxes/%zz/timeout', `/sandboxes/${'x'.repeat(5000)}`]) {
    const answer = await api.call('GET', path);
    assert.ok(
      answer.status === 400 || answer.status === 404 || answer.status === 405,
      `${path.slice(0, 40)} ${answer.text}`,
    );
  }
});

test('health is open and follows the node', async () => {
  const healthy = await api.call('GET', '/health', { key: null });
  assert.equal(healthy.status, 200);
  assert.match(String(healthy.headers['content-type']), /^text\/plain/);
  node.setReady(false);
  assert.equal((await api.call('GET', '/health', { key: null })).status, 503);
  node.setReady(true);
});

test('HEAD answers like GET without a body', async () => {
  const answer = await api.call('HEAD', '/v2/sandboxes');
  assert.equal(answer.status, 200);
  assert.equal(answer.text, '');
  assert.equal(answer.headers['x-total-running'], '0');
});

test('bodies: chunked, any or no or a broken content type, BOM, compressed, too large', async () => {
  const body = '{"templateID":"base"}';
  const path = '/v2/sandboxes';
  for (const headers of [
    {},
    { 'transfer-encoding': 'chunked' },
    { 'content-type': 'application/json; charset=utf-8', 'transfer-encoding': 'chunked' },
    { 'content-type': 'text/plain' },
    { 'content-type': 'application/x-www-form-urlencoded' },
    { 'content-type': 'nonsense' },
    { 'content-type': '/' },
    { 'content-type': 'a/b;;;=' },
    { 'content-encoding': 'identity' },
  ])
    assert.equal((await api.call('POST', path, { body, headers })).status, 201, JSON.stringify(headers));
  assert.equal((await api.call('POST', path, { body, headers: { 'content-encoding': 'gzip' } })).status, 400);
  assert.equal((await api.call('POST', path, { body: `\uFEFF${body}` })).status, 400);
  const atLimit = body.padEnd(1024 * 1024, ' ');
  assert.equal((await api.call('POST', path, { body: atLimit })).status, 201);
  for (const headers of [{}, { 'transfer-encoding': 'chunked' }])
    assert.equal((await api.call('POST', path, { body: `${atLimit} `, headers })).status, 413);
});

test('CORS: preflight for any path, and the headers that a browser must be able to read', async () => {
  const answer = await api.call('OPTIONS', '/v2/sandboxes', {
    key: null,
    headers: {
      origin: 'http://x.test',
      'access-control-request-method': 'POST',
      'access-control-request-headers': 'x-api-key,content-type',
    },
  });
  assert.equal(answer.status, 204);
  assert.equal(answer.headers['access-control-allow-headers'], 'x-api-key,content-type');
  assert.match(String(answer.headers['access-control-allow-methods']), /DELETE/);
  const { headers } = await api.call('GET', '/v2/sandboxes');
  for (const name of ['X-Next-Token', 'X-Total-Running', 'Retry-After'])
    assert.ok(String(headers['access-control-expose-headers']).includes(name));
});

test('what is not HTTP gets JSON too', async () => {
  for (const [bytes, status] of [
    ['hello\r\n\r\n', 400],
    [`GET / HTTP/1.1\r\nHost: x\r\nA: ${'x'.repeat(20_000)}\r\n\r\n`, 431],
  ] as const) {
    const text = await new Promise<string>((resolve, reject) => {
      const socket = connect(api.port, '127.0.0.1', () => socket.write(bytes));
      let all = '';
      socket.setEncoding('utf8');
      socket.on('data', (chunk) => {
        all += String(chunk);
      });
      socket.on('close', () => resolve(all));
      socket.on('error', reject);
    });
    assert.ok(text.startsWith(`HTTP/1.1 ${status} `), text);
    assert.equal(JSON.parse(text.split('\r\n\r\n')[1]!).code, status);
  }
});

test('templates: lists, pages, one, alias, another team', async () => {
  const { json: all } = await api.call('GET', '/templates');
  assert.deepEqual(
    all.map((each: { names: string[] }) => each.names[0]),
    ['base-jail', 'code-interpreter-v1', 'base'],
  );
  const first = await api.call('GET', '/v2/templates?limit=2');
  assert.equal(first.json[1].names[0], 'code-interpreter-v1');
  const second = await api.call('GET', `/v2/templates?limit=2&nextToken=${first.headers['x-next-token']}`);
  assert.equal(second.json[0].names[0], 'base');
  assert.equal('x-next-token' in second.headers, false);
  assert.equal((await api.call('GET', '/v2/templates?nextToken=x')).status, 400);
  const id = all[2].templateID;
  for (const name of [id, 'base', 'BASE', 'base:default']) {
    assert.equal((await api.call('GET', `/templates/${encodeURIComponent(name)}`)).json.templateID, id);
    const alias = await api.call('GET', `/templates/aliases/${encodeURIComponent(name)}`);
    assert.deepEqual(alias.json, { templateID: id, public: true });
  }
  assert.equal((await api.call('GET', '/templates/base?nextToken=x')).status, 400);
  assert.equal((await api.call('GET', '/templates/base?limit=0')).status, 400);
  assert.equal((await api.call('GET', '/templates/nothing')).status, 404);
  assert.equal((await api.call('GET', '/templates/aliases/nothing')).status, 404);
  assert.equal((await api.call('GET', `/templates?teamID=${api.teamID}`)).status, 200);
  assert.equal((await api.call('GET', '/templates?teamID=other')).status, 403);
});

test('a path without the name that belongs in it leads nowhere', async () => {
  for (const [method, path] of [
    ['PATCH', '/templates/'],
    ['PATCH', '/v2/templates/'],
    ['GET', '/sandboxes/'],
    ['DELETE', '/volumes/'],
    ['POST', '/sandboxes//pause'],
  ] as const) {
    const answer = await api.call(method, path, method === 'PATCH' ? { body: { public: true } } : {});
    assert.deepEqual([answer.status, answer.json.message], [404, 'route not found'], `${method} ${path}`);
  }
});

test('a snapshot is a template by its id and names, for its own team, and no list of templates has it', async () => {
  const { json } = await api.call('POST', '/v2/sandboxes', { body: { templateID: 'base' } });
  const taken = await api.call('POST', `/sandboxes/${json.sandboxID}/snapshots`, { body: { name: 'mine:v1' } });
  const stranger = api.store.keys.create({ teamID: api.store.teams.create('strangers').teamID, name: 'x' }).key;
  for (const name of ['mine', 'mine:v1', taken.json.snapshotID]) {
    const path = `/templates/aliases/${encodeURIComponent(name)}`;
    const alias = await api.call('GET', path);
    assert.equal(alias.status, 200, name);
    assert.equal(alias.json.public, false);
    assert.equal((await api.call('GET', path, { key: stranger })).status, 404);
    const whole = `/templates/${encodeURIComponent(name)}`;
    assert.deepEqual((await api.call('GET', whole)).json.names, ['mine']);
    assert.equal((await api.call('GET', whole, { key: stranger })).status, 404);
  }
  assert.equal((await api.call('GET', '/templates')).json.length, 3);
});

test('one log line a request, without keys, tokens, environment or query', async (t) => {
  const lines: string[] = [];
  const write = (fields: Record<string, unknown>, message: string) =>
    lines.push(JSON.stringify({ ...fields, message }));
  const log: Log = { child: () => log, debug: write, info: write, warn: write, error: write };
  const logged = await serveAPI(createFakeNode(), { log });
  t.after(logged.close);
  const body = { templateID: 'base', envVars: { PASSWORD: 'hunter2' }, metadata: { m: 'private' } };
  const made = await logged.call('POST', '/v2/sandboxes', { body });
  await logged.call('GET', '/v2/sandboxes?metadata=m%3Dprivate');
  await logged.call('GET', '/nothing');
  while (lines.length < 3) await new Promise((resolve) => setTimeout(resolve, 5));
  assert.equal(lines.length, 3);
  for (const secret of [logged.key, 'hunter2', 'private', made.json.envdAccessToken])
    assert.equal(lines.join('\n').includes(secret), false);
});

test('a body that does not come in time costs its connection and nothing else', async (t) => {
  const { createServer } = await import('node:http');
  const { createApi } = await import('../../src/api/create-api.ts');
  const { silentLog } = await import('../../src/telemetry/log.ts');
  const edge = createApi({ node, store: api.store, log: silentLog, bodyTimeoutMs: 50 });
  const server = createServer(edge.handle);
  server.requestTimeout = 0;
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.after(async () => {
    await edge.close();
    server.closeAllConnections();
    server.close();
  });
  const { port } = server.address() as { port: number };
  for (const path of ['/v2/sandboxes', '/nothing']) {
    await new Promise<void>((resolve) => {
      const socket = connect(port, '127.0.0.1', () =>
        socket.write(`POST ${path} HTTP/1.1\r\nHost: x\r\nX-API-Key: ${api.key}\r\nContent-Length: 100\r\n\r\n{`),
      );
      socket.on('error', () => {});
      socket.on('close', () => resolve());
      socket.resume();
    });
  }
  const answer = await fetch(`http://127.0.0.1:${port}/v2/sandboxes`, { headers: { 'x-api-key': api.key } });
  assert.equal(answer.status, 200);
});

test('after close the answer is 503, in JSON', async () => {
  const { createServer } = await import('node:http');
  const { createApi } = await import('../../src/api/create-api.ts');
  const { silentLog } = await import('../../src/telemetry/log.ts');
  const edge = createApi({ node, store: api.store, log: silentLog });
  await edge.close();
  const server = createServer(edge.handle);
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as { port: number };
  const answer = await fetch(`http://127.0.0.1:${port}/v2/sandboxes`);
  assert.equal(answer.status, 503);
  assert.equal(((await answer.json()) as { code: number }).code, 503);
  server.closeAllConnections();
  server.close();
});
