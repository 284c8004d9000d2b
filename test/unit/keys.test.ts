/** API keys: form, lookup, revocation across processes, what the disk holds, the local key file. */
import assert from 'node:assert/strict';
import {
  chmodSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'node:test';
import { openControlStore } from '../../src/control/control-store.ts';
import { createKeys } from '../../src/control/keys.ts';
import { ensureLocalKey, readLocalKey } from '../../src/control/local-key.ts';
import { CONTROL_MIGRATIONS } from '../../src/control/migrations.ts';
import { createTeams } from '../../src/control/teams.ts';
import { type Database, openDatabase } from '../../src/store/database.ts';

function home(t: test.TestContext): string {
  const path = mkdtempSync(join(tmpdir(), 'coppice-keys-'));
  t.after(() => rmSync(path, { recursive: true, force: true }));
  return path;
}

test('a key has the form that E2B SDKs accept, authenticates its team, and is stored as a hash only', (t) => {
  const path = join(home(t), 'control.db');
  const store = openControlStore(path);
  const { key, view } = store.keys.create({ teamID: store.teams.default.teamID, name: 'ci' });
  assert.match(key, /^e2b_[0-9a-f]{40}$/);
  assert.deepEqual(view.mask, {
    prefix: 'e2b_',
    valueLength: 40,
    maskedValuePrefix: key.slice(4, 6),
    maskedValueSuffix: key.slice(-4),
  });
  assert.deepEqual(store.keys.authenticate(key), { teamID: store.teams.default.teamID, keyID: view.keyID });
  assert.deepEqual(store.keys.authenticate(key), { teamID: store.teams.default.teamID, keyID: view.keyID });
  store.close();
  const disk = readFileSync(path, 'latin1');
  assert.equal(disk.includes(key), false);
  assert.equal(disk.includes(key.slice(4)), false);
  assert.equal(statSync(path).mode & 0o777, 0o600);
});

test('everything else authenticates nobody', () => {
  const store = openControlStore(':memory:');
  const { key } = store.keys.create({ teamID: store.teams.default.teamID, name: 'x' });
  for (const wrong of [
    undefined,
    '',
    'e2b_',
    key.slice(0, -1),
    `${key}0`,
    key.toUpperCase(),
    ` ${key.slice(1)}`,
    `e2b_${'0'.repeat(40)}`,
    key.slice(4),
  ])
    assert.equal(store.keys.authenticate(wrong), undefined, String(wrong));
  assert.throws(() => store.keys.create({ teamID: store.teams.default.teamID, name: ' ' }), { code: 'bad_request' });
  assert.throws(() => store.keys.create({ teamID: 'nobody', name: 'x' }), { code: 'bad_request' });
  store.close();
});

test('a known key is answered from memory, an unknown one is looked up each time', () => {
  using database = openDatabase(':memory:', CONTROL_MIGRATIONS);
  const team = createTeams(database).default;
  let lookups = 0;
  const counted: Database = {
    path: database.path,
    prepare: (sql) => {
      if (sql.includes('WHERE hash = ?')) lookups++;
      return database.prepare(sql);
    },
    exec: (sql) => database.exec(sql),
    transaction: (fn) => database.transaction(fn),
    dataVersion: () => database.dataVersion(),
    close: () => database.close(),
    [Symbol.dispose]: () => database.close(),
  };
  const keys = createKeys(counted, { flushIntervalMs: 0 });
  const { key } = keys.create({ teamID: team.teamID, name: 'x' });
  for (let round = 0; round < 10; round++) assert.ok(keys.authenticate(key));
  assert.equal(lookups, 1);
  for (let round = 0; round < 10; round++) keys.authenticate(`e2b_${'0'.repeat(40)}`);
  assert.equal(lookups, 11);
});

test('a key made or revoked by another process counts at the next request', (t) => {
  const path = join(home(t), 'control.db');
  const server = openControlStore(path);
  const command = openControlStore(path);
  assert.equal(command.teams.default.teamID, server.teams.default.teamID);
  const { key, view } = command.keys.create({ teamID: command.teams.default.teamID, name: 'later' });
  assert.ok(server.keys.authenticate(key));
  assert.ok(server.keys.authenticate(key));
  assert.equal(command.keys.revoke(view.keyID), true);
  assert.equal(command.keys.revoke(view.keyID), false);
  assert.equal(server.keys.authenticate(key), undefined);
  assert.ok(server.keys.list().find((each) => each.keyID === view.keyID)?.revokedAtMs);
  command.close();
  server.close();
});

test('revoking in the same process counts at once', () => {
  const store = openControlStore(':memory:');
  const { key, view } = store.keys.create({ teamID: store.teams.default.teamID, name: 'x' });
  assert.ok(store.keys.authenticate(key));
  store.keys.revoke(view.keyID);
  assert.equal(store.keys.authenticate(key), undefined);
  store.close();
});

test('the time of last use is written later, and at close at the latest', (t) => {
  const path = join(home(t), 'control.db');
  const store = openControlStore(path, { now: () => 1234, flushIntervalMs: 0 });
  const { key } = store.keys.create({ teamID: store.teams.default.teamID, name: 'x' });
  store.keys.authenticate(key);
  assert.equal(store.keys.list()[0]!.lastUsedAtMs, undefined);
  store.close();
  const again = openControlStore(path);
  assert.equal(again.keys.list()[0]!.lastUsedAtMs, 1234);
  again.close();
});

test('the local key is made once, kept with mode 0600, and renewed when it is not valid any more', (t) => {
  const folder = join(home(t), 'new');
  const file = join(folder, 'api-key');
  const store = openControlStore(join(folder, 'control.db'));
  const first = ensureLocalKey(store, folder);
  assert.ok(store.keys.authenticate(first));
  assert.equal(readFileSync(file, 'utf8'), `${first}\n`);
  assert.equal(statSync(file).mode & 0o777, 0o600);
  assert.equal(ensureLocalKey(store, folder), first);
  assert.equal(store.keys.list().length, 1);

  chmodSync(file, 0o644);
  assert.equal(readLocalKey(folder), first);
  assert.equal(statSync(file).mode & 0o777, 0o600);

  store.keys.revoke(store.keys.list()[0]!.keyID);
  const second = ensureLocalKey(store, folder);
  assert.notEqual(second, first);
  assert.ok(store.keys.authenticate(second));

  writeFileSync(file, 'garbage');
  assert.ok(store.keys.authenticate(ensureLocalKey(store, folder)));

  unlinkSync(file);
  const elsewhere = join(folder, 'elsewhere');
  writeFileSync(elsewhere, second);
  symlinkSync(elsewhere, file);
  const third = ensureLocalKey(store, folder);
  assert.notEqual(third, second);
  assert.equal(readFileSync(elsewhere, 'utf8'), second);
  store.close();
});
