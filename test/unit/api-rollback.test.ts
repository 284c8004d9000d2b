/** Rolling a sandbox back to one of its own snapshots: Coppice's own verb, in E2B's manner. */
import assert from 'node:assert/strict';
import test from 'node:test';
import { createFakeNode, serveAPI } from '../helpers/fake-node.ts';

async function rig(t: test.TestContext) {
  let nowMs = 1_767_225_600_000;
  const node = createFakeNode({ now: () => nowMs });
  const api = await serveAPI(node);
  t.after(api.close);
  const create = async (): Promise<string> =>
    (await api.call('POST', '/v2/sandboxes', { body: { templateID: 'base', timeout: 100 } })).json.sandboxID;
  const snapshot = async (id: string, body?: object) =>
    (await api.call('POST', `/sandboxes/${id}/snapshots`, { body })).json;
  const rollback = (id: string, body: unknown) => api.call('POST', `/sandboxes/${id}/rollback`, { body });
  const read = async (id: string) => (await api.call('GET', `/sandboxes/${id}`)).json;
  const advance = (seconds: number): void => {
    nowMs += seconds * 1000;
  };
  return { node, ...api, create, snapshot, rollback, read, now: () => nowMs, advance };
}

test('201 with the sandbox, its id and tokens as they were; the deadline of a running one stays', async (t) => {
  const { node, teamID, create, snapshot, rollback, read, call, now, advance } = await rig(t);
  const id = await create();
  const token = (await read(id)).envdAccessToken;
  const { generation } = await node.getSandbox(teamID, id);
  const taken = await snapshot(id);
  const named = await snapshot(id, { name: 'good:v1' });
  advance(40);
  for (const { snapshotID, buildID } of [taken, named]) {
    const answer = await rollback(`${id}-6532622b`, { snapshotID });
    assert.equal(answer.status, 201);
    assert.equal(answer.json.sandboxID, id);
    assert.equal(answer.json.envdAccessToken, token);
    assert.equal(answer.headers['server-timing'], 'restore;dur=2, total;dur=3;desc="shell"');
    assert.equal((await snapshot(id)).parentID, buildID, 'it grows from there');
  }
  assert.equal(Date.parse((await read(id)).endAt), now() + 60_000);
  assert.notEqual((await node.getSandbox(teamID, id)).generation, generation);
  await call('POST', `/sandboxes/${id}/pause`);
  assert.equal((await rollback(id, { snapshotID: taken.snapshotID })).status, 201);
  assert.equal((await read(id)).state, 'running');
  assert.equal(Date.parse((await read(id)).endAt), now() + 100_000, 'of a paused one: its timeout at create');
});

test('refusals: of another sandbox or team, a template, unknown ones, bad bodies', async (t) => {
  const { node, create, snapshot, rollback, read } = await rig(t);
  const [id, sibling] = [await create(), await create()];
  const { snapshotID } = await snapshot(sibling);
  for (const name of [snapshotID, 'base', 'nothing:v1']) {
    const answer = await rollback(id, { snapshotID: name });
    assert.deepEqual(answer.json, { code: 404, message: `Sandbox "${id}" has no snapshot '${name}'` });
  }
  assert.equal((await rollback('inothing', { snapshotID })).status, 404);
  const other = await serveAPI(node);
  t.after(other.close);
  assert.equal((await other.call('POST', `/sandboxes/${sibling}/rollback`, { body: { snapshotID } })).status, 404);
  for (const body of [
    undefined,
    '{',
    '[]',
    {},
    { snapshotID: '' },
    { snapshotID: 7 },
    { snapshotID: null },
    { snapshotID: 'x'.repeat(257) },
    { snapshotID, timeout: 15 },
  ]) {
    const answer = await rollback(sibling, body);
    assert.equal(answer.status, 400, JSON.stringify(body));
    assert.match(answer.json.message, /^validation error: /);
  }
  assert.equal((await read(sibling)).state, 'running');
});
