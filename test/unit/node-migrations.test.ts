/** A database of the version before is taken over with every sandbox in it. */
import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'node:test';
import { MIGRATIONS } from '../../src/node/migrations.ts';
import { Rows } from '../../src/node/rows.ts';
import { openDatabase } from '../../src/store/database.ts';

test('sandboxes of the first schema keep everything, and end at their deadline as they were made to', async (t) => {
  const folder = await mkdtemp(join(tmpdir(), 'coppice-migrations-'));
  t.after(() => rm(folder, { recursive: true }));
  const file = join(folder, 'node.db');
  const old = openDatabase(file, MIGRATIONS.slice(0, 1));
  old.exec(`
    INSERT INTO machine VALUES ('isandbox', 'running', 'tpl', 'build', 512, 60200, 'gen', '{"backend":"b"}', NULL, 1,
      'team', 1, '{"a":"b"}', '{"E":"F"}', 0, 1000, 2000);
    INSERT INTO machine (id, state, template_id, build_id, memory_mb, generation, created_at)
      VALUES ('ihot', 'hot', 'tpl', 'build', 512, 'gen', 1);
    INSERT INTO spawned VALUES ('tpl', 7, 8);
  `);
  old.close();
  const rows = new Rows(file);
  t.after(() => rows.close());
  assert.deepEqual(rows.get('isandbox'), {
    id: 'isandbox',
    state: 'running',
    templateID: 'tpl',
    buildID: 'build',
    memoryMB: 512,
    uid: 60200,
    generation: 'gen',
    baseID: 'build',
    parentID: 'build',
    kept: undefined,
    record: { backend: 'b' },
    owner: {
      teamID: 'team',
      secure: true,
      metadata: { a: 'b' },
      env: { E: 'F' },
      allowInternet: false,
      publicTraffic: true,
      maskRequestHost: undefined,
      volumes: [],
      startedAtMs: 1000,
      endAtMs: 2000,
      onTimeout: 'kill',
      pauseMemory: true,
      autoResume: false,
      timeoutMs: 1000,
    },
  });
  assert.equal(rows.get('ihot')!.owner, undefined);
  assert.deepEqual(rows.spawns('tpl'), { count: 7, lastAtMs: 8 });
  assert.throws(() => rows.prepare({ ...rows.get('ihot')!, id: 'iother', uid: 60200 }), /UNIQUE/);
  assert.equal(rows.move('isandbox', 'running', 'pausing'), true);
});
