/** What the operator's token is for: the node, and the sandboxes of every team. */
import assert from 'node:assert/strict';
import { availableParallelism } from 'node:os';
import test from 'node:test';
import { CoppiceError } from '../../src/contract/errors.ts';
import { createFakeNode, serveAPI } from '../helpers/fake-node.ts';

async function rig(t: test.TestContext) {
  const node = createFakeNode();
  const api = await serveAPI(node);
  t.after(api.close);
  const admin = { key: null, headers: { 'x-admin-token': api.adminToken } };
  const other = api.store.teams.create('other').teamID;
  const otherKey = api.store.keys.create({ teamID: other, name: 'x' }).key;
  const create = (key = api.key) => api.call('POST', '/v2/sandboxes', { key, body: { templateID: 'base' } });
  return { ...api, node, admin, other, otherKey, create };
}

test('the node tells what runs on it, what it is, and how creates went', async (t) => {
  const { call, admin, create, otherKey, node } = await rig(t);
  await create();
  await create(otherKey);
  node.failNext(new CoppiceError('capacity', 'full'));
  assert.equal((await create()).status, 503);
  node.failNext(new CoppiceError('template_not_found', 'no such'));
  assert.equal((await create()).status, 404);
  const [one, ...more] = (await call('GET', '/nodes', admin)).json;
  assert.deepEqual(more, []);
  assert.equal(one.status, 'ready');
  assert.equal(one.sandboxCount, 2);
  assert.equal(one.metrics.allocatedCPU, 4);
  assert.equal(one.metrics.allocatedMemoryBytes, 2 * 1024 ** 3);
  assert.ok(one.metrics.cpuCount >= availableParallelism());
  assert.ok(one.metrics.memoryUsedBytes > 0 && one.metrics.memoryUsedBytes < one.metrics.memoryTotalBytes);
  const [disk] = one.metrics.disks;
  assert.ok(disk.usedBytes > 0 && disk.usedBytes <= disk.totalBytes && disk.mountPoint.startsWith('/'));
  assert.deepEqual([one.createSuccesses, one.createFails, one.sandboxStartingCount], [2, 1, 0]);
  const { json: detail } = await call('GET', `/nodes/${one.id}?clusterID=${one.clusterID}`, admin);
  assert.equal(detail.cachedBuilds.length, (await node.listTemplates()).length);
  assert.equal(detail.serviceInstanceID, one.serviceInstanceID);
  node.setReady(false);
  assert.equal((await call('GET', `/nodes/${one.id}`, admin)).json.status, 'connecting');
  for (const path of ['/nodes/elsewhere', `/nodes/${one.id}?clusterID=x`])
    assert.equal((await call('GET', path, admin)).status, 404);
});

test('a node that does not answer is unhealthy', async (t) => {
  const api = await serveAPI({
    ...createFakeNode(),
    status: () => Promise.reject(new CoppiceError('unavailable', 'the node is gone')),
  });
  t.after(api.close);
  const admin = { key: null, headers: { 'x-admin-token': api.adminToken } };
  assert.equal((await api.call('GET', '/nodes', admin)).json[0].status, 'unhealthy');
  assert.deepEqual((await api.call('GET', '/nodes/local', admin)).json.cachedBuilds, []);
});

test('a create that is at work is counted as starting', async (t) => {
  const { call, admin, create, node } = await rig(t);
  const release = node.holdNextCreate();
  const making = create();
  while (node.requests.length === 0) await new Promise((resolve) => setTimeout(resolve, 5));
  assert.equal((await call('GET', '/nodes', admin)).json[0].sandboxStartingCount, 1);
  release();
  assert.equal((await making).status, 201);
});

test('a node that is set aside takes no new sandboxes, and those that are there go on', async (t) => {
  const { call, admin, create } = await rig(t);
  const { json } = await create();
  const set = (status: unknown, more: object = {}) =>
    call('POST', '/nodes/local', { ...admin, body: { status, ...more } });
  for (const status of ['draining', 'standby']) {
    assert.equal((await set(status)).status, 204);
    assert.equal((await call('GET', '/nodes/local', admin)).json.status, status);
    const refused = await create();
    assert.deepEqual(refused.json, {
      code: 503,
      message: `the node is ${status} and takes no new sandboxes`,
      error_code: 'sandbox_no_compatible_node',
    });
    const body = { templateID: 'base' };
    assert.equal((await call('POST', '/sandboxes', { body })).status, 503);
    const headers = { 'idempotency-key': 'k1' };
    assert.equal((await call('POST', '/v2/sandboxes', { body, headers })).status, 503);
    assert.equal((await call('POST', `/sandboxes/${json.sandboxID}/fork`)).status, 503);
    assert.equal((await call('POST', `/sandboxes/${json.sandboxID}/pause`)).status, 204);
    assert.equal((await call('POST', `/v2/sandboxes/${json.sandboxID}/connect`)).status, 201);
  }
  assert.equal((await set('ready')).status, 204);
  assert.equal((await create()).status, 201);
  for (const status of ['connecting', 'unhealthy']) assert.equal((await set(status)).status, 409);
  for (const status of [undefined, 'gone', 1, null]) assert.equal((await set(status)).status, 400, String(status));
  assert.equal((await set('ready', { clusterID: 'another' })).status, 404);
  assert.equal((await set('ready', { clusterID: null })).status, 204);
  assert.equal((await call('POST', '/nodes/elsewhere', { ...admin, body: { status: 'ready' } })).status, 404);
});

test('the operator counts and ends what runs; what is paused stays', async (t) => {
  const { call, admin, create, otherKey, other, teamID, node } = await rig(t);
  assert.deepEqual((await call('GET', '/admin/sandboxes/running-counts', admin)).json, {});
  const { json: paused } = await create();
  await call('POST', `/sandboxes/${paused.sandboxID}/pause`);
  for (let each = 0; each < 105; each++) await create();
  await create(otherKey);
  assert.deepEqual((await call('GET', '/admin/sandboxes/running-counts', admin)).json, { [teamID]: 105, [other]: 1 });
  const kill = () => call('POST', `/admin/teams/${teamID}/sandboxes/kill`, admin);
  assert.deepEqual((await kill()).json, { killedCount: 105, failedCount: 0 });
  assert.deepEqual((await kill()).json, { killedCount: 0, failedCount: 0 });
  assert.deepEqual((await call('GET', '/admin/sandboxes/running-counts', admin)).json, { [other]: 1 });
  assert.equal((await call('GET', `/sandboxes/${paused.sandboxID}`)).json.state, 'paused');
  const unknown = '/admin/teams/00000000-0000-4000-8000-000000000000/sandboxes/kill';
  assert.equal((await call('POST', unknown, admin)).status, 404);

  const list = node.listSandboxes;
  await create();
  node.listSandboxes = async (query) => {
    const found = await list(query);
    node.failNext(new CoppiceError('guest_unresponsive', 'it does not end'));
    return found;
  };
  assert.deepEqual((await kill()).json, { killedCount: 0, failedCount: 1 });
});

test('the admin token is renewed, and the one before ends', async (t) => {
  const { call, admin, store } = await rig(t);
  const token = store.admin.renew();
  assert.match(token, /^coppice_admin_[0-9a-f]{40}$/);
  assert.equal((await call('GET', '/nodes', admin)).status, 401);
  assert.equal((await call('GET', '/nodes', { key: null, headers: { 'x-admin-token': token } })).status, 200);
});
