/** What build steps gave: found by its key, for its team, until there is too much of it. */
import assert from 'node:assert/strict';
import { existsSync, readdirSync } from 'node:fs';
import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import { Rows } from '../../src/node/rows.ts';
import { StepResults } from '../../src/node/step-results.ts';
import { silentLog } from '../../src/telemetry/log.ts';

async function rig(t: TestContext, mostBytes = 1_000) {
  const folder = await mkdtemp(join(tmpdir(), 'coppice-steps-'));
  t.after(() => rm(folder, { recursive: true, force: true }));
  const rows = new Rows(':memory:').steps;
  const open = (): StepResults => new StepResults({ rows, folder, mostBytes, log: silentLog });
  const steps = open();
  const keep = (key: string, bytes = 100, teamID = 'a'): Promise<string> =>
    steps.keep({ teamID, key, rootfs: '/images/rootfs.ext4' }, async (out) => {
      await mkdir(out);
      return bytes;
    });
  return { folder, rows, steps, open, keep };
}

test("a result is its team's, and the newest of its key", async (t) => {
  const { folder, rows, steps, keep } = await rig(t);
  const first = await keep('key');
  assert.equal(steps.find('a', 'key')?.resultID, first);
  assert.equal(steps.find('b', 'key'), undefined);
  const second = await keep('key');
  assert.equal(steps.find('a', 'key')?.resultID, second);
  await steps.reconcile();
  assert.deepEqual(readdirSync(folder), [second]);
  assert.equal(rows.all().length, 1);
});

test('the least lately used go first, but none that is read', async (t) => {
  const { steps, keep } = await rig(t);
  t.mock.timers.enable({ apis: ['Date'], now: 1_000 });
  const kept: string[] = [];
  for (const key of ['one', 'two', 'three']) {
    kept.push(await keep(key, 400));
    t.mock.timers.tick(1_000);
  }
  const release = steps.hold(kept[0]!);
  release();
  await steps.reconcile();
  assert.deepEqual(
    kept.map((resultID) => existsSync(steps.folderOf(resultID))),
    [true, false, true],
  );
  const held = steps.hold(kept[0]!);
  steps.drop(kept[0]!);
  await steps.reconcile();
  assert.equal(existsSync(steps.folderOf(kept[0]!)), true);
  assert.equal(steps.find('a', 'one'), undefined);
  held();
  await steps.reconcile();
  assert.equal(existsSync(steps.folderOf(kept[0]!)), false);
  t.mock.timers.tick(15 * 24 * 3_600_000);
  await steps.reconcile();
  assert.equal(existsSync(steps.folderOf(kept[2]!)), false, 'nobody has used it for two weeks');
});

test('what broke off, and what a node that died was writing, is nothing', async (t) => {
  const { folder, rows, steps, open, keep } = await rig(t);
  await assert.rejects(
    steps.keep({ teamID: 'a', key: 'broken', rootfs: '/r' }, () => Promise.reject(new Error('no'))),
    /no/,
  );
  assert.equal(steps.find('a', 'broken'), undefined);
  rows.begin({ resultID: 'half', teamID: 'a', key: 'half', rootfs: 'r' });
  await mkdir(join(folder, 'half'));
  await mkdir(join(folder, 'stranger'));
  const whole = await keep('whole');
  await open().atStart();
  assert.deepEqual(readdirSync(folder), [whole]);
});
