/** Snapshots over E2B's REST contract: statuses, shapes, pages, refusals. */
import assert from 'node:assert/strict';
import test from 'node:test';
import { Sandbox } from 'e2b';
import { CoppiceError } from '../../src/contract/errors.ts';
import { createFakeNode, serveAPI } from '../helpers/fake-node.ts';
import { FAKE_OWN_BYTES, FAKE_SHARED_BYTES } from '../helpers/fake-snapshots.ts';

async function rig(t: test.TestContext) {
  const node = createFakeNode();
  const api = await serveAPI(node);
  t.after(api.close);
  const create = async (templateID = 'base-jail'): Promise<string> =>
    (await api.call('POST', '/v2/sandboxes', { body: { templateID } })).json.sandboxID;
  return { node, ...api, create };
}

test('taken, listed, created from, deleted', async (t) => {
  const { call, create } = await rig(t);
  const id = await create();
  const taken = await call('POST', `/sandboxes/${id}/snapshots`, { headers: { 'content-type': 'application/json' } });
  assert.equal(taken.status, 201);
  assert.match(taken.json.snapshotID, /^[a-z0-9]{20}:default$/);
  assert.deepEqual(taken.json.names, []);
  const named = await call('POST', `/sandboxes/${id}-6532622b/snapshots`, { body: { name: 'work:v2' } });
  assert.equal(named.json.snapshotID, 'work:v2');
  assert.deepEqual(named.json.names, ['work:v2']);
  assert.equal(named.headers['server-timing'], 'capture;dur=5, pause;dur=2.25, total;dur=7.5');
  assert.deepEqual((await call('GET', '/snapshots')).json, [named.json, taken.json]);
  for (const one of [taken, named]) {
    const made = await call('POST', '/v2/sandboxes', { body: { templateID: one.json.snapshotID } });
    assert.equal(made.status, 201);
  }
  const path = `/templates/${encodeURIComponent(taken.json.snapshotID)}`;
  for (const [name, one] of [
    [taken.json.snapshotID, taken],
    ['work', named],
    ['work:v2', named],
  ]) {
    const told = await call('GET', `/templates/${encodeURIComponent(name)}`);
    assert.equal(told.status, 200, told.text);
    assert.deepEqual(told.json.names, one === named ? ['work'] : []);
    assert.equal(told.json.public, false);
    assert.deepEqual(
      told.json.builds.map((build: { buildID: string; status: string }) => [build.buildID, build.status]),
      [[one.json.buildID, 'ready']],
    );
    const alias = await call('GET', `/templates/aliases/${encodeURIComponent(name)}`);
    assert.equal(alias.json.templateID, told.json.templateID);
  }
  const deleted = await call('DELETE', path);
  assert.equal(deleted.status, 204);
  assert.equal(deleted.text, '');
  assert.equal((await call('DELETE', path)).status, 404);
  assert.deepEqual((await call('GET', '/snapshots')).json, [named.json]);
  assert.equal((await call('POST', '/v2/sandboxes', { body: { templateID: taken.json.snapshotID } })).status, 404);
});

test('each says what it grew from, of what, what it keeps and what it takes', async (t) => {
  const { call, create } = await rig(t);
  const templates = (await call('GET', '/templates')).json as { names: string[]; buildID: string }[];
  const buildOf = (name: string) => templates.find((each) => each.names.includes(name))!.buildID;
  for (const [template, memory, sharedBytes] of [
    ['base', true, FAKE_SHARED_BYTES],
    ['base-jail', false, 0],
  ] as const) {
    const id = await create(template);
    const first = (await call('POST', `/sandboxes/${id}/snapshots`)).json;
    const second = (await call('POST', `/sandboxes/${id}/snapshots`)).json;
    const made = await create(first.snapshotID);
    const third = (await call('POST', `/sandboxes/${made}/snapshots`)).json;
    assert.deepEqual(
      [first, second, third].map((each) => each.parentID),
      [buildOf(template), first.buildID, first.buildID],
    );
    assert.deepEqual(
      [first, second, third].map((each) => each.sourceID),
      [id, id, made],
    );
    const listed = (await call('GET', `/snapshots?sandboxID=${made}`)).json;
    assert.deepEqual(listed, [third]);
    const { snapshotID, buildID, createdAt, ...rest } = third;
    assert.equal(Number.isNaN(Date.parse(createdAt)), false);
    assert.ok(snapshotID && buildID);
    assert.deepEqual(rest, {
      names: [],
      parentID: first.buildID,
      sourceID: made,
      memory,
      ownBytes: FAKE_OWN_BYTES,
      sharedBytes,
    });
  }
});

test('refusals: unknown, foreign, of a kind that cannot, bad names, templates', async (t) => {
  const { node, call, create } = await rig(t);
  assert.equal((await call('POST', '/sandboxes/inothing/snapshots')).status, 404);
  const other = await serveAPI(node);
  t.after(other.close);
  const id = await create();
  assert.equal((await other.call('POST', `/sandboxes/${id}/snapshots`)).status, 404);
  const { json } = await call('POST', `/sandboxes/${id}/snapshots`, { body: { name: 'mine' } });
  assert.deepEqual((await other.call('GET', '/snapshots')).json, []);
  assert.equal((await other.call('DELETE', `/templates/${encodeURIComponent(json.snapshotID)}`)).status, 404);
  node.failNext(new CoppiceError('not_implemented', 'snapshot is not implemented for such sandboxes yet'));
  const cannot = await call('POST', `/sandboxes/${id}/snapshots`);
  assert.deepEqual(cannot.json, { code: 501, message: 'snapshot is not implemented for such sandboxes yet' });
  for (const body of ['{', '[]', { name: '' }, { name: 7 }, { name: 'x'.repeat(257) }, { name: 'ns/x' }])
    assert.equal((await call('POST', `/sandboxes/${id}/snapshots`, { body })).status, 400, JSON.stringify(body));
  const template = await call('DELETE', '/templates/base');
  assert.deepEqual(template.json, { code: 403, message: "template 'base' comes with Coppice and cannot be deleted" });
});

test('pages and filters', async (t) => {
  const { call, create } = await rig(t);
  const [one, two] = [await create(), await create()];
  for (let count = 0; count < 5; count++) await call('POST', `/sandboxes/${one}/snapshots`);
  await call('POST', `/sandboxes/${two}/snapshots`, { body: { name: 'two' } });
  const seen: string[] = [];
  let token = '';
  for (let page = 0; page < 3; page++) {
    const answer = await call('GET', `/snapshots?limit=2${token === '' ? '' : `&nextToken=${token}`}`);
    seen.push(...answer.json.map((each: { snapshotID: string }) => each.snapshotID));
    token = String(answer.headers['x-next-token'] ?? '');
    assert.equal(token === '', page === 2);
  }
  assert.equal(new Set(seen).size, 6);
  assert.equal((await call('GET', `/snapshots?sandboxID=${one}`)).json.length, 5);
  assert.equal((await call('GET', `/snapshots?sandboxID=${one}-6532622b&limit=100`)).json.length, 5);
  assert.deepEqual((await call('GET', '/snapshots?sandboxID=..')).json, []);
  const named = (await call('GET', '/snapshots?name=two')).json;
  assert.deepEqual(
    named.map((each: { snapshotID: string; names: string[] }) => [each.snapshotID, each.names]),
    [['two:default', ['two:default']]],
  );
  for (const query of ['limit=0', 'limit=101', 'nextToken=x', 'nextToken=', 'name=', 'sandboxID=', 'name=a&name=b'])
    assert.equal((await call('GET', `/snapshots?${query}`)).status, 400, query);
});

test('e2b 2.51.0: createSnapshot, listSnapshots, create, deleteSnapshot', async (t) => {
  const { url, key, create } = await rig(t);
  const options = { apiUrl: url, apiKey: key, sandboxUrl: url };
  const id = await create();
  const { snapshotId } = await Sandbox.createSnapshot(id, { ...options, name: 'work' });
  assert.equal(snapshotId, 'work:default');
  await Sandbox.createSnapshot(id, options);
  await assert.rejects(Sandbox.createSnapshot('inothing', options), { name: /NotFound/ });
  const pages = Sandbox.listSnapshots({ ...options, sandboxId: id, limit: 1 });
  const seen: string[] = [];
  while (pages.hasNext) seen.push(...(await pages.nextItems()).map((one) => one.snapshotId));
  assert.equal(seen.length, 2);
  assert.ok(seen.includes(snapshotId));
  assert.match((await Sandbox.create(snapshotId, options)).sandboxId, /^i/);
  assert.equal(await Sandbox.deleteSnapshot(snapshotId, options), true);
  assert.equal(await Sandbox.deleteSnapshot(snapshotId, options), false);
});
