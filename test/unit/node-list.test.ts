import assert from 'node:assert/strict';
import test from 'node:test';
import type { ListSandboxesQuery } from '../../src/contract/node-api.ts';
import { createRequest, startNodeRig, TEAM } from '../helpers/node-rig.ts';

const QUERY: ListSandboxesQuery = { teamID: TEAM, states: ['running', 'paused'], order: 'desc', limit: 100 };

test('pages go through all of them once, in order, whichever way', async (t) => {
  const rig = await startNodeRig({ pool: { least: 0, most: 0 } });
  t.after(() => rig.end());
  const made: string[] = [];
  for (let count = 0; count < 7; count++) made.push((await rig.node.createSandbox(createRequest())).sandbox.sandboxID);
  for (const order of ['asc', 'desc'] as const) {
    const seen: string[] = [];
    let after: ListSandboxesQuery['after'];
    do {
      const page = await rig.node.listSandboxes({ ...QUERY, order, limit: 3, ...(after ? { after } : {}) });
      assert.ok(page.sandboxes.length <= 3);
      assert.equal(page.totalRunning, 7);
      seen.push(...page.sandboxes.map((one) => one.sandboxID));
      after = page.next;
    } while (after);
    assert.deepEqual(seen.toSorted(), made.toSorted());
    const ordered = await rig.node.listSandboxes({ ...QUERY, order });
    assert.deepEqual(
      seen,
      ordered.sandboxes.map((one) => one.sandboxID),
    );
  }
});

test('filters by metadata, template and start', async (t) => {
  const rig = await startNodeRig({ pool: { least: 0, most: 0 } });
  t.after(() => rig.end());
  const a = (await rig.node.createSandbox(createRequest({ metadata: { app: 'x', user: '1' } }))).sandbox;
  const b = (await rig.node.createSandbox(createRequest({ template: 'other', metadata: { app: 'x' } }))).sandbox;
  const ids = async (query: Partial<ListSandboxesQuery>): Promise<string[]> =>
    (await rig.node.listSandboxes({ ...QUERY, order: 'asc', ...query })).sandboxes.map((one) => one.sandboxID);
  assert.deepEqual(await ids({ metadata: { app: 'x', user: '1' } }), [a.sandboxID]);
  assert.deepEqual((await ids({ metadata: { app: 'x' } })).toSorted(), [a.sandboxID, b.sandboxID].toSorted());
  assert.deepEqual(await ids({ metadata: { app: 'y' } }), []);
  assert.deepEqual(await ids({ template: 'other' }), [b.sandboxID]);
  assert.deepEqual(await ids({ template: b.templateID }), [b.sandboxID]);
  assert.deepEqual(await ids({ states: ['paused'] }), []);
  assert.deepEqual(await ids({ startedAfterMs: Date.now() + 60_000 }), []);
});
