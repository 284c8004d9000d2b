/** Access tokens, the operator's token, teams and node states in the store: form, reach, ends, what the disk holds. */
import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'node:test';
import { ensureAdminToken } from '../../src/control/admin-token.ts';
import { type ControlStore, openControlStore } from '../../src/control/control-store.ts';
import { NODE_ID } from '../../src/control/node-states.ts';

function rig(t: test.TestContext): { readonly folder: string; readonly path: string; open(): ControlStore } {
  const folder = mkdtempSync(join(tmpdir(), 'coppice-tokens-'));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  const path = join(folder, 'control.db');
  return { folder, path, open: () => openControlStore(path, { flushIntervalMs: 0 }) };
}

test('a token has the form that E2B gave them, reaches its teams, and neither it nor its keys are on the disk', (t) => {
  const { path, open } = rig(t);
  const store = open();
  const { teamID } = store.teams.default;
  const { token, view } = store.tokens.create({ teamIDs: [teamID, teamID], name: 'laptop' });
  assert.match(token, /^sk_e2b_[0-9a-f]{40}$/);
  assert.deepEqual(view.mask, {
    prefix: 'sk_e2b_',
    valueLength: 40,
    maskedValuePrefix: token.slice(7, 9),
    maskedValueSuffix: token.slice(-4),
  });
  const holder = store.tokens.authenticate(token)!;
  assert.deepEqual(holder, { tokenID: view.tokenID, name: 'laptop', teamIDs: [teamID] });
  const key = store.tokens.deriveKey(token, holder, teamID);
  assert.match(key, /^e2b_[0-9a-f]{40}$/);
  assert.equal(store.tokens.deriveKey(token, holder, teamID), key);
  assert.equal(store.keys.authenticate(key)!.teamID, teamID);
  const admin = store.admin.renew();
  store.close();
  const disk = readFileSync(path, 'latin1');
  for (const secret of [token, key, admin]) assert.equal(disk.includes(secret.slice(-40)), false);
  const again = open();
  assert.equal(again.tokens.deriveKey(token, holder, teamID), key, 'after a restart too');
  again.close();
});

test('everything else authenticates nobody', (t) => {
  const store = rig(t).open();
  const { token } = store.tokens.create({ teamIDs: [store.teams.default.teamID], name: 'x' });
  const admin = store.admin.renew();
  for (const wrong of [
    undefined,
    '',
    token.slice(0, -1),
    `${token}0`,
    token.toUpperCase(),
    `sk_e2b_${'0'.repeat(40)}`,
  ]) {
    assert.equal(store.tokens.authenticate(wrong), undefined, String(wrong));
    assert.equal(store.admin.authenticate(wrong), false, String(wrong));
  }
  for (const wrong of [admin.slice(0, -1), `${admin}0`, admin.toUpperCase(), `coppice_admin_${'0'.repeat(40)}`])
    assert.equal(store.admin.authenticate(wrong), false, wrong);
  assert.equal(store.admin.authenticate(admin), true);
  assert.throws(() => store.tokens.create({ teamIDs: [], name: 'x' }), { code: 'bad_request' });
  assert.throws(() => store.tokens.create({ teamIDs: ['nobody'], name: 'x' }));
  assert.equal(store.tokens.list().length, 1, 'what failed left nothing');
  store.close();
});

test('a token that ends takes its keys along, in another process too', (t) => {
  const { open } = rig(t);
  const server = open();
  const command = open();
  const { teamID } = server.teams.default;
  const { token, view } = command.tokens.create({ teamIDs: [teamID], name: 'x' });
  const key = server.tokens.deriveKey(token, server.tokens.authenticate(token)!, teamID);
  assert.ok(server.keys.authenticate(key));
  assert.equal(command.tokens.revoke(view.tokenID, []), false, 'it reaches further');
  assert.equal(command.tokens.revoke(view.tokenID), true);
  assert.equal(command.tokens.revoke(view.tokenID), false);
  assert.equal(server.tokens.authenticate(token), undefined);
  assert.equal(server.keys.authenticate(key), undefined);
  assert.ok(server.tokens.list()[0]!.revokedAtMs);
  server.close();
  command.close();
});

test('teams have one name each and are found by it or by id', (t) => {
  const store = rig(t).open();
  const team = store.teams.create('  research ');
  assert.deepEqual(store.teams.find('research'), team);
  assert.deepEqual(store.teams.find(team.teamID), team);
  assert.deepEqual(
    store.teams.list().map((each) => [each.name, each.isDefault]),
    [
      ['default', true],
      ['research', false],
    ],
  );
  assert.throws(() => store.teams.create('research'), { code: 'conflict' });
  assert.throws(() => store.teams.create(' '), { code: 'bad_request' });
  assert.throws(() => store.teams.find('nobody'), { code: 'team_not_found' });
  store.close();
});

test('the admin token is made once, kept with mode 0600, and renewed when it is lost or asked for', (t) => {
  const { folder, open } = rig(t);
  const { admin, close } = open();
  const file = join(folder, 'admin-token');
  const first = ensureAdminToken(admin, folder);
  assert.equal(readFileSync(file, 'utf8'), `${first}\n`);
  assert.equal(statSync(file).mode & 0o777, 0o600);
  assert.equal(ensureAdminToken(admin, folder), first);
  writeFileSync(file, 'garbage');
  const second = ensureAdminToken(admin, folder);
  assert.equal(admin.authenticate(first), false);
  const third = ensureAdminToken(admin, folder, { renew: true });
  assert.equal(admin.authenticate(second), false);
  assert.equal(admin.authenticate(third), true);
  close();
});

test('what the operator decided about a node outlives the process', (t) => {
  const { open } = rig(t);
  const before = open();
  assert.equal(before.nodes.get(NODE_ID), 'ready');
  before.nodes.set(NODE_ID, 'draining');
  before.close();
  const after = open();
  assert.equal(after.nodes.get(NODE_ID), 'draining');
  after.close();
});

test('points are kept a week, told in at most a thousand steps, and only of teams that ran something', () => {
  let now = 1_000_000_000_000;
  const store = openControlStore(':memory:', { now: () => now, flushIntervalMs: 0 });
  const { teamID } = store.teams.default;
  const day = 24 * 3600 * 1000;
  const begun = now;
  for (let each = 0; each < 3000; each++) {
    now += 30_000;
    store.points.record(new Map([[teamID, each % 7]]));
  }
  const points = store.points.list(teamID, begun, now);
  assert.ok(points.length <= 1000 && points.length > 900, String(points.length));
  assert.ok(points.every((point, at) => at === 0 || point.atMs > points[at - 1]!.atMs));
  assert.equal(store.points.highest(teamID, 'running', begun, now)!.running, 6);
  now += 8 * day;
  for (let each = 0; each < 200; each++) {
    now += 30_000;
    store.points.record(new Map([[teamID, 0]]));
  }
  assert.deepEqual(store.points.list(teamID, 0, now - 200 * 30_000), []);
  assert.ok(store.points.list(teamID, 0, now).length <= 1, 'nothing ran');
  store.close();
});
