import assert from 'node:assert/strict';
import test from 'node:test';
import { KINDS, type Kind } from '../behaviours/support/kinds.ts';
import { coppice, startService } from '../helpers/service.ts';

const service = await startService({ COPPICE_POOL: '1', COPPICE_POOL_MOST: '1' });
test.after(async () => assert.deepEqual((await service.stop()).details, []));

const env = {
  COPPICE_HOME: service.home.folder,
  E2B_API_URL: service.url,
  E2B_SANDBOX_URL: service.url,
  E2B_API_KEY: service.apiKey,
};

async function json(...args: string[]): Promise<unknown> {
  return JSON.parse((await coppice([...args, '--json'], env)).stdout);
}

async function assertSandboxVerbs(kind: Kind): Promise<void> {
  const made = await json('sandbox', 'create', 'base', '--isolation', kind.name);
  const { sandboxID } = made as { sandboxID: string };
  const listed = (await json('sandbox', 'list')) as { sandboxId: string; name: string }[];
  assert.deepEqual(
    listed.map((one) => [one.sandboxId, one.name]),
    [[sandboxID, kind.base]],
  );
  const run = await coppice(['sandbox', 'exec', sandboxID, 'echo', 'two  blanks', '$HOME'], env);
  assert.equal(run.stdout, 'two  blanks $HOME\n', 'words stay as they were typed');
  assert.equal(
    (await coppice(['sandbox', 'exec', sandboxID, 'echo $HOME'], env)).stdout,
    '/home/user\n',
    'one word is a line of shell',
  );
  await assert.rejects(coppice(['sandbox', 'exec', sandboxID, 'exit 9'], env), { code: 9 });
  const machine = (await coppice(['sandbox', 'exec', '--json', sandboxID, 'id -u; echo e >&2; exit 3'], env).catch(
    (error: { stdout: string }) => error,
  )) as { stdout: string };
  assert.deepEqual(JSON.parse(machine.stdout), { exitCode: 3, stdout: '1000\n', stderr: 'e\n' });
  assert.deepEqual(await json('sandbox', 'kill', sandboxID), [{ sandboxID, killed: true }]);
  await assert.rejects(coppice(['sandbox', 'kill', sandboxID], env), { code: 1 });
}

for (const kind of KINDS) test(`${kind.name}: sandbox create, list, exec, kill`, () => assertSandboxVerbs(kind));

test('keys: made, listed without their secret, revoked, and then refused', async () => {
  const made = (await json('key', 'create', 'another')) as { key: string; keyID: string };
  assert.match(made.key, /^e2b_[0-9a-f]{40}$/);
  const list = (): Promise<number> =>
    fetch(`${service.url}/v2/sandboxes`, { headers: { 'X-API-Key': made.key } }).then((response) => response.status);
  assert.equal(await list(), 200);
  assert.ok(!JSON.stringify(await json('key', 'list')).includes(made.key));
  await json('key', 'revoke', made.keyID);
  assert.equal(await list(), 401);
});

test("the operator's token asks about the node and speaks for a team made while the service runs", async () => {
  const { adminToken } = (await json('key', 'admin')) as { adminToken: string };
  const { teamID } = (await json('team', 'create', 'research')) as { teamID: string };
  const ask = async (path: string, headers: Record<string, string> = {}): Promise<Response> =>
    fetch(`${service.url}${path}`, { headers: { 'X-Admin-Token': adminToken, ...headers } });
  const [node] = (await (await ask('/nodes')).json()) as { status: string; metrics: { disks: unknown[] } }[];
  assert.deepEqual([node!.status, node!.metrics.disks.length], ['ready', 1]);
  assert.deepEqual(await (await ask('/v2/sandboxes', { 'X-Team-ID': teamID })).json(), []);
  const { token } = (await json('token', 'create', 'laptop', '--team', 'research')) as { token: string };
  const teams = await fetch(`${service.url}/teams`, { headers: { Authorization: `Bearer ${token}` } });
  const [team] = (await teams.json()) as { teamID: string; apiKey: string }[];
  assert.equal(team!.teamID, teamID);
  const { status } = await fetch(`${service.url}/v2/sandboxes`, { headers: { 'X-API-Key': team!.apiKey } });
  assert.equal(status, 200);
});

test('templates and the doctor speak JSON', async () => {
  const templates = (await json('template', 'list')) as { template: { name: string } }[];
  assert.deepEqual(
    templates.map((one) => one.template.name).sort(),
    KINDS.flatMap((kind) => [kind.base, kind.code]).sort(),
  );
  // The doctor's exit code tells a bad finding (the port is taken in a busy test run); its findings are there either way.
  const report = (await coppice(['doctor', '--json'], env).catch((error: { stdout: string }) => error)) as {
    stdout: string;
  };
  const findings = JSON.parse(report.stdout) as { check: string; state: string; fix?: string }[];
  for (const check of ['accelerator', 'packages', 'nft', '/dev/net/tun', 'cgroups', 'disk', 'memory', 'port']) {
    assert.ok(
      findings.some((one) => one.check === check),
      check,
    );
  }
  assert.ok(
    findings.every((one) => one.state === 'ok' || one.fix || one.check === 'network'),
    'each finding has its fix',
  );
});

test('errors say what to do next', async () => {
  await assert.rejects(
    coppice(['template', 'build', 'no-such'], env),
    (error: { code: number; stderr: string }) =>
      error.code === 1 && /there are: base/.test(error.stderr) && /template list/.test(error.stderr),
  );
  await assert.rejects(coppice(['nonsense'], env), (error: { stderr: string }) => /unknown command/.test(error.stderr));
});
