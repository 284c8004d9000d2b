/** Secrets: of a team, versioned, sealed on disk, and in no answer. */
import assert from 'node:assert/strict';
import { readdirSync, readFileSync, statSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'node:test';
import { type ErrorCode, isCoppiceError } from '../../src/contract/errors.ts';
import { openControlStore } from '../../src/control/control-store.ts';
import { CONTROL_MIGRATIONS } from '../../src/control/migrations.ts';
import { createSecrets, secretKeyPath } from '../../src/control/team-secrets.ts';
import { openDatabase } from '../../src/store/database.ts';
import { createFakeNode, serveAPI } from '../helpers/fake-node.ts';

const VALUE = 'a-value-that-nobody-may-see';
const refused = (code: ErrorCode) => (error: unknown) => isCoppiceError(error, code);

test('values outlive the process, sealed, by a key that lies beside', async (t) => {
  const folder = await mkdtemp(join(tmpdir(), 'coppice-secrets-'));
  t.after(() => rm(folder, { recursive: true, force: true }));
  const path = join(folder, 'control.db');
  let store = openControlStore(path, { flushIntervalMs: 0 });
  const { teamID } = store.teams.default;
  const { secretID } = store.secrets.create(teamID, 'Name', { value: VALUE, metadata: { a: 'b' } });
  store.close();
  for (const name of readdirSync(folder)) assert.ok(!readFileSync(join(folder, name)).includes(VALUE), name);
  assert.equal(statSync(secretKeyPath(path)).mode & 0o777, 0o600);
  store = openControlStore(path, { flushIntervalMs: 0 });
  assert.equal(store.secrets.reveal(teamID, 'NAME'), VALUE);
  store.secrets.update(teamID, secretID, { value: 'second' });
  assert.equal(store.secrets.reveal(teamID, secretID), 'second');
  assert.deepEqual(store.secrets.get(teamID, 'name').metadata, { a: 'b' });
  store.close();
  // Neither another key nor another row opens it.
  const database = openDatabase(path, CONTROL_MIGRATIONS);
  const other = createSecrets(database, Buffer.alloc(32, 1));
  assert.throws(() => other.reveal(teamID, 'name'));
  const key = readFileSync(secretKeyPath(path));
  const right = createSecrets(database, key);
  right.create(teamID, 'another', { value: 'x' });
  database
    .prepare("UPDATE secrets SET sealed = (SELECT sealed FROM secrets WHERE name = 'name') WHERE name = 'another'")
    .run();
  assert.throws(() => right.reveal(teamID, 'another'));
  database.close();
});

test('names are the team’s own, lower case, and never look like an id', () => {
  const store = openControlStore(':memory:', { flushIntervalMs: 0 });
  const { teamID } = store.teams.default;
  const other = store.teams.create('other').teamID;
  const { secrets } = store;
  const { secretID } = secrets.create(teamID, 'Ümlaut key', { value: VALUE });
  assert.equal(secrets.get(teamID, 'üMLAUT KEY').secretID, secretID);
  assert.throws(() => secrets.create(teamID, 'ümlaut KEY', { value: 'x' }), refused('conflict'));
  secrets.create(other, 'ümlaut key', { value: 'theirs' });
  for (const wanted of [secretID, 'none'])
    for (const act of [
      () => secrets.get(other, wanted),
      () => secrets.update(other, wanted, { value: 'x' }),
      () => secrets.delete(other, wanted),
      () => secrets.reveal(other, wanted),
    ])
      assert.throws(act, refused('secret_not_found'));
  for (const name of ['', 'a{b', 'a}b', 'a\nb', 'sec_mine', 'n'.repeat(129)])
    assert.throws(() => secrets.create(teamID, name, { value: 'x' }), refused('bad_request'), JSON.stringify(name));
  store.close();
});

test('no answer has a value in it, and pages are stable', async (t) => {
  const api = await serveAPI(createFakeNode());
  t.after(api.close);
  const { call } = api;
  const texts: string[] = [];
  for (let each = 0; each < 5; each++) {
    const made = await call('POST', '/secrets', { body: { name: `s${each}`, value: VALUE } });
    assert.equal(made.status, 201);
    texts.push(made.text);
  }
  const seen: string[] = [];
  for (let token: string | undefined, first = true; first || token !== undefined; first = false) {
    const page = await call('GET', `/secrets?limit=2${token === undefined ? '' : `&nextToken=${token}`}`);
    texts.push(page.text);
    seen.push(...page.json.map(({ name }: { name: string }) => name));
    token = page.headers['x-next-token'] as string | undefined;
  }
  assert.deepEqual(seen.toSorted(), ['s0', 's1', 's2', 's3', 's4']);
  texts.push((await call('POST', '/secrets/s1', { body: { value: VALUE } })).text);
  texts.push((await call('GET', '/secrets/s1')).text);
  assert.equal((await call('DELETE', '/secrets/s1')).status, 204);
  assert.equal((await call('DELETE', '/secrets/s1')).status, 404);
  for (const text of texts) assert.ok(!text.includes(VALUE));
  for (const body of [
    { name: 'x' },
    { name: 'x', value: '' },
    { name: '', value: 'x' },
    { value: 'x' },
    { name: 'x', value: 'x', metadata: { a: 'b'.repeat(1025) } },
  ])
    assert.equal((await call('POST', '/secrets', { body })).status, 400, JSON.stringify(body));
});
