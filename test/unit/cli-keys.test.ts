/** `coppice team`, `key` and `token` on a home of their own, without a running service. */
import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'node:test';
import { openControlStore } from '../../src/control/control-store.ts';
import { openHome } from '../../src/store/home.ts';
import { coppice } from '../helpers/service.ts';

const folder = mkdtempSync(join(tmpdir(), 'cpk'));
test.after(() => rmSync(folder, { recursive: true, force: true }));
const env = { COPPICE_HOME: folder };

async function json<T>(...args: string[]): Promise<T> {
  return JSON.parse((await coppice([...args, '--json'], env)).stdout) as T;
}

function withStore<T>(use: (store: ReturnType<typeof openControlStore>) => T): T {
  const store = openControlStore(openHome(folder).controlDatabase);
  try {
    return use(store);
  } finally {
    store.close();
  }
}

test('teams are made and listed, and own the keys and tokens that are made for them', async () => {
  const team = await json<{ teamID: string; name: string }>('team', 'create', 'research');
  const teams = await json<{ teamID: string; name: string; isDefault: boolean }[]>('team', 'list');
  assert.deepEqual(
    teams.map((each) => [each.name, each.isDefault]),
    [
      ['default', true],
      ['research', false],
    ],
  );
  assert.match((await coppice(['team', 'list'], env)).stdout, /research/);
  await assert.rejects(coppice(['team', 'create', 'research'], env), (error: { stderr: string }) =>
    /already/.test(error.stderr),
  );

  const own = await json<{ key: string; keyID: string }>('key', 'create', 'ci', '--team', 'research');
  const byID = await json<{ key: string }>('key', 'create', 'ci2', '--team', team.teamID);
  const other = await json<{ key: string }>('key', 'create');
  withStore(({ keys }) => {
    assert.equal(keys.authenticate(own.key)!.teamID, team.teamID);
    assert.equal(keys.authenticate(byID.key)!.teamID, team.teamID);
    assert.equal(keys.authenticate(other.key)!.teamID, teams[0]!.teamID);
  });
  const listed = await json<{ name: string }[]>('key', 'list', '--team', 'research');
  assert.deepEqual(
    listed.map((each) => each.name),
    ['ci', 'ci2'],
  );
  const shown = (await coppice(['key', 'list'], env)).stdout;
  assert.match(shown, /ci2 +research/);
  assert.ok(!shown.includes(own.key));
  await json('key', 'revoke', own.keyID);
  withStore(({ keys }) => assert.equal(keys.authenticate(own.key), undefined));
  await assert.rejects(coppice(['key', 'create', 'x', '--team', 'nobody'], env), (error: { stderr: string }) =>
    /no team nobody[\s\S]*coppice team list/.test(error.stderr),
  );

  const args = ['token', 'create', 'laptop', '--team', 'research', '--team', 'default'];
  const made = await json<{ token: string; tokenID: string }>(...args);
  withStore(({ tokens }) => assert.equal(tokens.authenticate(made.token)!.teamIDs.length, 2));
  const tokens = (await coppice(['token', 'list'], env)).stdout;
  assert.match(tokens, /laptop.*(default research|research default)/);
  assert.ok(!tokens.includes(made.token));
  await json('token', 'revoke', made.tokenID);
  withStore((store) => assert.equal(store.tokens.authenticate(made.token), undefined));
  await assert.rejects(coppice(['token', 'revoke', made.tokenID], env), { code: 1 });
});

test("the operator's token is printed, kept, and renewed on request", async () => {
  const { adminToken } = await json<{ adminToken: string }>('key', 'admin');
  assert.equal(readFileSync(join(folder, 'admin-token'), 'utf8'), `${adminToken}\n`);
  assert.equal((await coppice(['key', 'admin'], env)).stdout, `${adminToken}\n`);
  const renewed = await json<{ adminToken: string }>('key', 'admin', '--renew');
  withStore(({ admin }) => {
    assert.equal(admin.authenticate(adminToken), false);
    assert.equal(admin.authenticate(renewed.adminToken), true);
  });
});
