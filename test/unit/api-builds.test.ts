/** The REST verbs of templates that teams build, in E2B's statuses and shapes. */
import assert from 'node:assert/strict';
import test, { type TestContext } from 'node:test';
import { CoppiceError } from '../../src/contract/errors.ts';
import { createFakeNode, serveAPI } from '../helpers/fake-node.ts';

const HASH = 'a'.repeat(64);

async function rig(t: TestContext) {
  const node = createFakeNode();
  const api = await serveAPI(node);
  t.after(() => api.close());
  const ask = async (body: object) => (await api.call('POST', '/v3/templates', { body })).json;
  return { node, call: api.call, api, ask };
}

test('a build is asked for, started and followed', async (t) => {
  const { node, call, ask } = await rig(t);
  const asked = await call('POST', '/v3/templates', {
    body: { name: 'mine', tags: ['v1'], cpuCount: 2, memoryMB: 512 },
  });
  assert.equal(asked.status, 202);
  const { templateID, buildID } = asked.json;
  assert.deepEqual(asked.json, {
    templateID,
    buildID,
    public: false,
    names: ['mine'],
    tags: ['v1'],
    aliases: ['mine'],
  });
  assert.equal((await ask({ alias: 'older' })).names[0], 'older');

  const path = `/templates/${templateID}/builds/${buildID}`;
  const request = { fromImage: 'debian:12', steps: [{ type: 'RUN', args: ['a'], force: false }], force: true };
  const started = await call('POST', `/v2${path}`, { body: request });
  assert.equal(started.status, 202);
  assert.equal(started.text, '');
  const build = node.builds.builds.get(buildID)!;
  assert.deepEqual(JSON.parse(build.request!), request);
  const again = await call('POST', `/v2${path}`, { body: request });
  assert.deepEqual(again.json, { code: 400, message: 'build is not in waiting state' });

  build.logs.push({ atMs: 1_767_225_600_000, level: 'info', message: 'one', step: '1' });
  build.logs.push({ atMs: 1_767_225_601_000, level: 'error', message: 'two' });
  const status = await call('GET', `${path}/status`);
  assert.deepEqual(status.json, {
    logs: ['one', 'two'],
    logEntries: [
      { timestamp: '2026-01-01T00:00:00.000Z', level: 'info', message: 'one', step: '1' },
      { timestamp: '2026-01-01T00:00:01.000Z', level: 'error', message: 'two' },
    ],
    templateID,
    buildID,
    status: 'building',
  });
  Object.assign(build, { status: 'error', reason: { message: 'it failed', step: '1' } });
  const ended = await call('GET', `${path}/status?logsOffset=2&limit=100&level=debug`);
  assert.deepEqual(ended.json.logEntries, []);
  assert.deepEqual(ended.json.reason, { message: 'it failed', step: '1', logEntries: [] });
  assert.equal((await call('GET', `${path}/status?logsOffset=1&limit=1`)).json.logs.length, 1);
  const logs = await call('GET', `${path}/logs?cursor=0&direction=backward&source=persistent`);
  assert.equal(logs.json.logs.length, 2);
});

test('what cannot be is refused before the node is asked', async (t) => {
  const { call, ask } = await rig(t);
  const { templateID, buildID } = await ask({ name: 'mine' });
  const path = `/templates/${templateID}/builds/${buildID}`;
  for (const [method, where, body] of [
    ['POST', '/v3/templates', undefined],
    ['POST', '/v3/templates', {}],
    ['POST', '/v3/templates', { name: '' }],
    ['POST', '/v3/templates', { name: 'x'.repeat(257) }],
    ['POST', '/v3/templates', { name: 'x', cpuCount: '2' }],
    ['POST', '/v3/templates', { name: 'x', tags: 'v1' }],
    ['POST', `/v2${path}`, undefined],
    ['POST', `/v2${path}`, '[]'],
    ['GET', `${path}/status?logsOffset=-1`, undefined],
    ['GET', `${path}/status?limit=101`, undefined],
    ['GET', `${path}/status?level=loud`, undefined],
    ['GET', `${path}/logs?direction=up`, undefined],
    ['POST', '/templates/tags', { tags: ['a'] }],
    ['POST', '/templates/tags', { target: 'mine', tags: 'a' }],
    ['DELETE', '/templates/tags', { name: 'mine' }],
    ['PATCH', `/v2/templates/${templateID}`, { public: 'yes' }],
  ] as const)
    assert.equal((await call(method, where, { body })).status, 400, `${method} ${where} ${JSON.stringify(body)}`);
  const foreign = { body: { name: 'x', teamID: 'another' } };
  assert.equal((await call('POST', '/v3/templates', foreign)).status, 403);
  assert.equal((await call('POST', '/v3/templates', { key: null, body: { name: 'x' } })).status, 401);
});

test('unknown templates and builds, and too many of them', async (t) => {
  const { node, call, ask } = await rig(t);
  const { templateID } = await ask({ name: 'mine' });
  const unknown = `/templates/${templateID}/builds/${crypto.randomUUID()}`;
  assert.equal((await call('GET', `${unknown}/status`)).status, 400);
  assert.equal((await call('GET', `/templates/nothing/builds/${crypto.randomUUID()}/status`)).status, 404);
  assert.equal((await call('POST', `/v2${unknown}`, { body: {} })).status, 400);
  const tooMany = new CoppiceError(
    'too_many_builds',
    'you have reached the maximum number of concurrent template builds (20)',
  );
  Object.assign(node, { requestBuild: () => Promise.reject(tooMany) });
  const refused = await call('POST', '/v3/templates', { body: { name: 'more' } });
  assert.equal(refused.status, 429);
  assert.equal(refused.headers['retry-after'], undefined);
});

test('a link to upload files to, at the address that was asked', async (t) => {
  const { node, api, call, ask } = await rig(t);
  const { templateID } = await ask({ name: 'mine' });
  const link = await call('GET', `/templates/${templateID}/files/${HASH}`);
  assert.equal(link.status, 201);
  assert.deepEqual(link.json, {
    present: false,
    url: `${api.url}/templates/${templateID}/files/${HASH}/upload?ticket=1-${HASH}`,
  });
  node.builds.files.add(HASH);
  assert.equal((await call('GET', `/templates/${templateID}/files/${HASH}`)).json.present, true);
  const headers = { 'x-forwarded-proto': 'https', 'x-forwarded-host': 'api.coppice.example' };
  const behind = await call('GET', `/templates/${templateID}/files/${HASH}`, { headers });
  assert.match(behind.json.url, /^https:\/\/api\.coppice\.example\/templates\//);
  const { pathname, search } = new URL(link.json.url);
  const upload = await call('PUT', `${pathname}${search}`, { key: null, body: Buffer.from('x') });
  assert.equal(upload.status, 501, 'this edge has no node to send it to');
});

test('tags and publication', async (t) => {
  const { node, call, ask } = await rig(t);
  const { templateID, buildID } = await ask({ name: 'mine' });
  const tagged = await call('POST', '/templates/tags', { body: { target: 'mine:default', tags: ['v1', 'v2'] } });
  assert.equal(tagged.status, 201);
  assert.deepEqual(tagged.json, { tags: ['v1', 'v2'], buildID });
  const untagged = await call('DELETE', '/templates/tags', { body: { name: 'mine', tags: ['v2'] } });
  assert.equal(untagged.status, 204);
  const tags = await call('GET', `/templates/${templateID}/tags`);
  assert.deepEqual(tags.json, [{ tag: 'v1', buildID, createdAt: '2026-01-01T00:00:00.000Z' }]);
  assert.equal((await call('POST', '/templates/tags', { body: { target: 'nothing', tags: ['a'] } })).status, 404);
  const published = await call('PATCH', `/v2/templates/${templateID}`, { body: { public: true } });
  assert.deepEqual(published.json, { names: ['mine'] });
  assert.deepEqual((await call('PATCH', `/templates/${templateID}`, { body: { public: false } })).json, {});
  assert.deepEqual(node.requests, []);
});
