import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { connect } from 'node:net';
import { DatabaseSync } from 'node:sqlite';
import test from 'node:test';
import { Sandbox } from 'e2b';
import { openControlStore } from '../../src/control/control-store.ts';
import { KINDS } from '../behaviours/support/kinds.ts';
import { startService } from '../helpers/service.ts';

const service = await startService({ COPPICE_POOL: '1', COPPICE_POOL_MOST: '1' });
test.after(async () => assert.deepEqual((await service.stop()).details, []));

function call(
  method: string,
  path: string,
  options: { body?: string; key?: string; headers?: Record<string, string> } = {},
): Promise<Response> {
  return fetch(`${service.url}${path}`, {
    method,
    headers: {
      'X-API-Key': options.key ?? service.apiKey,
      ...(options.body === undefined ? {} : { 'Content-Type': 'application/json' }),
      ...options.headers,
    },
    ...(options.body === undefined ? {} : { body: options.body }),
  });
}

/** E2B's shape: JSON, `code` equal to the status, a message. */
async function assertRefused(response: Response, status: number, message?: RegExp): Promise<void> {
  const body = (await response.json()) as { code: unknown; message: unknown };
  assert.equal(response.status, status, JSON.stringify(body));
  assert.equal(body.code, status);
  assert.equal(typeof body.message, 'string');
  if (message) assert.match(String(body.message), message);
}

test('bad requests to the API get E2B’s status and shape', async (t) => {
  const create = (body: unknown, key?: string): Promise<Response> =>
    call('POST', '/v2/sandboxes', { body: JSON.stringify(body), ...(key ? { key } : {}) });
  await t.test('unknown template', async () =>
    assertRefused(await create({ templateID: 'no-such' }), 404, /template 'no-such' not found/),
  );
  await t.test('malformed JSON', async () =>
    assertRefused(await call('POST', '/v2/sandboxes', { body: '{"templateID":' }), 400),
  );
  await t.test('wrong types', async () =>
    assertRefused(await create({ templateID: 'base', timeout: 'soon' }), 400, /validation error/),
  );
  await t.test('timeout of nothing', async () =>
    assertRefused(await call('POST', '/sandboxes', { body: '{"templateID":"base","timeout":0}' }), 400),
  );
  await t.test('oversize body', async () =>
    assertRefused(await create({ templateID: 'base', metadata: { a: 'x'.repeat(3_000_000) } }), 413),
  );
  await t.test('no key', async () => assertRefused(await fetch(`${service.url}/v2/sandboxes`), 401));
  await t.test('bad key', async () =>
    assertRefused(await create({ templateID: 'base' }, `e2b_${'0'.repeat(40)}`), 401),
  );
  await t.test('unknown route', async () => assertRefused(await call('GET', '/no/such/route'), 404));
  await t.test('a verb that is not there yet', async () =>
    assertRefused(await call('POST', '/v2/templates', { body: '{}' }), 501),
  );
  await t.test('a policy that is not enforced yet', async () =>
    assertRefused(await create({ templateID: 'base', network: { denyOut: ['203.0.113.0/24'] } }), 400, /denyOut/),
  );
});

test('a key of another team sees nothing of this one’s, and a revoked key nothing at all', async () => {
  const teamID = randomUUID();
  const database = new DatabaseSync(service.home.controlDatabase);
  database
    .prepare('INSERT INTO teams (team_id, name, is_default, created_at_ms) VALUES (?, ?, 0, 0)')
    .run(teamID, 'other');
  database.close();
  const store = openControlStore(service.home.controlDatabase);
  const foreign = store.keys.create({ teamID, name: 'foreign' }).key;
  const revoked = store.keys.create({ teamID: store.teams.default.teamID, name: 'revoked' });
  store.keys.revoke(revoked.view.keyID);
  store.close();

  const sandbox = await Sandbox.create('base', service.sdk);
  const path = `/sandboxes/${sandbox.sandboxId}`;
  await assertRefused(await call('GET', path, { key: foreign }), 404, /doesn't exist or you don't have access/);
  await assertRefused(await call('DELETE', path, { key: foreign }), 404);
  await assertRefused(await call('POST', `${path}/timeout`, { key: foreign, body: '{"timeout":1}' }), 404);
  await assertRefused(await call('POST', `${path}/connect`, { key: foreign, body: '{"timeout":1}' }), 404);
  assert.deepEqual(await (await call('GET', '/v2/sandboxes', { key: foreign })).json(), []);
  await assertRefused(await call('GET', '/v2/sandboxes', { key: revoked.key }), 401);
  assert.equal(await sandbox.isRunning(), true);
  await sandbox.kill();
});

test('a dead or made-up id is 404 at the API and 502 at the sandbox URL', async () => {
  const id = `i${'0'.repeat(20)}`;
  await assertRefused(await call('GET', `/sandboxes/${id}`), 404, new RegExp(`Sandbox "${id}" doesn't exist`));
  await assertRefused(await call('DELETE', `/sandboxes/${id}`), 404);
  const headers = { 'E2b-Sandbox-Id': id, 'E2b-Sandbox-Port': '49983' };
  await assertRefused(await call('GET', '/health', { headers }), 502, /not found/);
  await assertRefused(await call('GET', '/health', { headers: { 'E2b-Sandbox-Id': id } }), 400);
});

async function assertFilesAreGuarded(template: string): Promise<void> {
  const sandbox = await Sandbox.create(template, service.sdk);
  const info = (await (
    await call('POST', `/sandboxes/${sandbox.sandboxId}/connect`, { body: '{"timeout":60}' })
  ).json()) as { envdAccessToken: string };
  const headers = {
    'E2b-Sandbox-Id': sandbox.sandboxId,
    'E2b-Sandbox-Port': '49983',
    'X-Access-Token': info.envdAccessToken,
  };
  const read = (path: string, more: Record<string, string> = {}): Promise<Response> =>
    fetch(`${service.url}/files?path=${encodeURIComponent(path)}`, { headers: { ...headers, ...more } });
  const hostname = await (await read('../../../../../../etc/hostname')).text();
  assert.equal(hostname.trim(), sandbox.sandboxId, 'the guest’s file, not the host’s');
  await assertRefused(await read('/no/such/file'), 404, /does not exist/);
  await assertRefused(await read('/etc'), 400);
  await assertRefused(await read('a\0b'), 400);
  await assertRefused(await read('x', { 'X-Access-Token': 'wrong' }), 401);
  await assertRefused(
    await fetch(`${service.url}/files?path=x&username=nobody-of-this-name`, { headers }),
    401,
    /invalid username/,
  );
  const reserved = await fetch(`${service.url}/init`, { method: 'POST', headers });
  assert.equal(reserved.status, 404);
  await sandbox.kill();
}

for (const kind of KINDS) {
  test(`${kind.name}: path tricks in /files stay in the guest, and tokens are asked for`, () =>
    assertFilesAreGuarded(kind.base));
}

test('bytes that are no HTTP get an answer and harm nobody', async () => {
  for (const bytes of [
    '\x16\x03\x01\x02\x00\x01',
    'GET / HTTP/9.9\r\n\r\n',
    `GET / HTTP/1.1\r\nX: ${'y'.repeat(100_000)}\r\n\r\n`,
    'POST /v2/sandboxes HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n',
  ]) {
    await new Promise<void>((resolve) => {
      const socket = connect(service.port, '127.0.0.1', () => socket.write(bytes));
      socket.on('error', () => resolve());
      socket.on('close', () => resolve());
      socket.on('data', () => {});
      socket.setTimeout(5_000, () => socket.destroy());
    });
  }
  assert.equal((await fetch(`${service.url}/health`)).status, 200);
});
