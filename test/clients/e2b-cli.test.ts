/** E2B's own command line against the whole service on jails: what it has for sandboxes and templates, and its login. */
import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'node:test';
import { type CliOptions, type CliResult, e2b } from '../helpers/e2b-cli.ts';
import { coppice, startService } from '../helpers/service.ts';

const TEMPLATE = 'base-jail';
const service = await startService({ COPPICE_POOL: '1', COPPICE_POOL_MOST: '2' }, [TEMPLATE]);
const home = mkdtempSync(join(tmpdir(), 'coppice-e2b-'));
test.after(async () => {
  rmSync(home, { recursive: true, force: true });
  assert.deepEqual((await service.stop()).details, []);
});

const urls = { HOME: home, E2B_API_URL: service.url, E2B_SANDBOX_URL: service.url };
const env = { ...urls, E2B_API_KEY: service.apiKey };

/** Runs it, and expects an exit code of 0. */
async function run(args: readonly string[], options: Partial<CliOptions> = {}): Promise<CliResult> {
  const result = await e2b(args, { env, ...options });
  assert.equal(result.code, 0, `e2b ${args.join(' ')}: ${result.stdout}${result.stderr}`);
  return result;
}

async function json<T>(...args: string[]): Promise<T> {
  return JSON.parse((await run([...args, '--format', 'json'])).stdout) as T;
}

async function create(...options: string[]): Promise<string> {
  const { stdout } = await run(['sandbox', 'create', TEMPLATE, '--detach', ...options]);
  assert.match(stdout.trim(), /^i[a-z0-9]{20}$/);
  return stdout.trim();
}

interface Info {
  readonly sandboxId: string;
  readonly state: string;
  readonly lifecycle?: unknown;
}

test('sandbox create, list, info, kill', async () => {
  const id = await create('--timeout', '60', '--lifecycle.ontimeout', 'pause', '--lifecycle.autoresume');
  const listed = await json<Info[]>('sandbox', 'list');
  assert.deepEqual(
    listed.map((one) => [one.sandboxId, one.state]),
    [[id, 'running']],
  );
  assert.match((await run(['sandbox', 'list'])).stdout, new RegExp(`${id}.*base-jail`));
  const info = await json<Info>('sandbox', 'info', id);
  assert.deepEqual(info.lifecycle, { onTimeout: 'pause', autoResume: true });
  assert.match((await run(['sandbox', 'info', id])).stdout, /State.*running/);
  assert.match((await run(['sandbox', 'kill', id])).stdout, /has been killed/);
  assert.match((await run(['sandbox', 'kill', id])).stderr, /wasn't found/);
  const gone = await e2b(['sandbox', 'info', id], { env });
  assert.equal(gone.code, 1);
  assert.match(gone.stderr, /wasn't found/);
});

test('sandbox exec: output, exit code, user, folder, environment, piped input, background', async () => {
  const id = await create();
  const exec = (args: string[], stdin?: string): Promise<CliResult> =>
    e2b(['sandbox', 'exec', ...args], { env, ...(stdin === undefined ? {} : { stdin }) });
  const result = await exec([
    '-u',
    'root',
    '-c',
    '/tmp',
    '-e',
    'A=b c',
    id,
    'sh',
    '-c',
    'id -un; pwd; echo "$A"; echo e >&2',
  ]);
  assert.deepEqual(result, { code: 0, stdout: 'root\n/tmp\nb c\n', stderr: 'e\n' });
  assert.equal((await exec([id, 'sh', '-c', 'exit 9'])).code, 9);
  const text = 'zeile ü\n'.repeat(20_000);
  assert.deepEqual(await exec([id, 'cat'], text), { code: 0, stdout: text, stderr: '' });
  const started = await exec(['-b', id, 'sleep', '1000']);
  assert.deepEqual([started.code, /^\d+\n$/.test(started.stderr)], [0, true], started.stderr);
  assert.equal((await exec([id, 'kill', started.stderr.trim()])).code, 0);
  await run(['sandbox', 'kill', id]);
});

test('sandbox pause and resume keep what was written; kill --all ends the paused too', async () => {
  const id = await create();
  await run(['sandbox', 'exec', id, 'sh', '-c', 'echo kept > note']);
  assert.match((await run(['sandbox', 'pause', id])).stdout, /has been paused/);
  assert.match((await run(['sandbox', 'pause', id])).stdout, /is already paused/);
  assert.equal((await json<Info>('sandbox', 'info', id)).state, 'paused');
  assert.deepEqual(await json<Info[]>('sandbox', 'list'), []);
  assert.equal((await json<Info[]>('sandbox', 'list', '--state', 'paused')).length, 1);
  assert.match((await run(['sandbox', 'resume', id])).stdout, /has been resumed/);
  assert.equal((await run(['sandbox', 'exec', id, 'cat', 'note'])).stdout, 'kept\n');
  await run(['sandbox', 'pause', id]);
  await run(['sandbox', 'kill', '--all', '--state', 'running,paused']);
  assert.equal((await e2b(['sandbox', 'info', id], { env })).code, 1);
});

test('sandbox snapshot create, list, delete; a sandbox is made of one', async () => {
  const id = await create();
  await run(['sandbox', 'exec', id, 'sh', '-c', 'echo kept > note']);
  const made = await run(['sandbox', 'snapshot', 'create', id, '--name', 'from-the-cli']);
  assert.match(made.stdout, /Created snapshot.*from-the-cli/);
  const [snapshot] = await json<{ snapshotId: string; names: string[] }[]>('sandbox', 'snapshot', 'list', id);
  assert.deepEqual(snapshot!.names, ['from-the-cli:default']);
  const copy = (await run(['sandbox', 'create', snapshot!.snapshotId, '--detach'])).stdout.trim();
  assert.equal((await run(['sandbox', 'exec', copy, 'cat', 'note'])).stdout, 'kept\n');
  await run(['sandbox', 'kill', id, copy]);
  assert.match((await run(['sandbox', 'snapshot', 'delete', snapshot!.snapshotId])).stdout, /has been deleted/);
  assert.match((await run(['sandbox', 'snapshot', 'delete', snapshot!.snapshotId])).stderr, /wasn't found/);
});

test('sandbox connect opens a terminal', async () => {
  const id = await create();
  const { stdout } = await run(['sandbox', 'connect', id], {
    terminal: true,
    stdin: 'echo "a$((40 + 2))z"; exit\n',
  });
  assert.match(stdout, /a42z/);
  assert.match(stdout, /Closing terminal connection/);
  await run(['sandbox', 'kill', id]);
});

test('template list, with the team that the key belongs to and with another', async () => {
  const templates = await json<{ aliases: string[]; public: boolean }[]>('template', 'list');
  assert.ok(templates.some((one) => one.aliases.includes(TEMPLATE)));
  assert.match((await run(['template', 'list'])).stdout, /base-jail/);
  const foreign = await e2b(['template', 'list', '--project', '00000000-0000-4000-8000-000000000000'], { env });
  assert.equal(foreign.code, 1);
  assert.match(foreign.stderr, /does not belong/);
});

test('a key that is none is an error of its own', async () => {
  const stranger = await e2b(['sandbox', 'list'], { env: { ...env, E2B_API_KEY: `e2b_${'0'.repeat(40)}` } });
  assert.equal(stranger.code, 1);
  assert.match(stranger.stderr, /AuthenticationError|Unauthorized/);
});

test('auth login with an access token; the key that it is told works, until the token ends', async () => {
  const made = JSON.parse(
    (await coppice(['token', 'create', 'laptop', '--json'], { COPPICE_HOME: service.home.folder })).stdout,
  ) as { token: string; tokenID: string };
  // What a browser does after a person has signed in: it is sent back with what the command line asked for.
  const signIn = (sofar: string): void => {
    const next = /next=([^&\s]+)/.exec(sofar)?.[1];
    if (next === undefined || signedIn) return;
    signedIn = true;
    const answer = new URLSearchParams({
      email: 'someone@example.com',
      accessToken: made.token,
      refreshToken: 'none',
      tokenEndpoint: 'http://127.0.0.1:9/token',
      revokeEndpoint: 'http://127.0.0.1:9/revoke',
      clientId: 'cli',
    });
    void fetch(`${decodeURIComponent(next)}/?${answer}`, { redirect: 'manual' });
  };
  let signedIn = false;
  const login = await run(['auth', 'login'], {
    // No browser: it prints where one should go.
    env: { ...urls, PATH: '/nonexistent', E2B_DOCS_BASE: 'http://127.0.0.1:9/docs' },
    onStdout: signIn,
  });
  assert.match(login.stdout, /Logged in as.*someone@example\.com.*default/);
  const config = JSON.parse(readFileSync(join(home, '.e2b', 'config.json'), 'utf8')) as Record<string, string>;
  assert.match(config.projectApiKey!, /^e2b_[0-9a-f]{40}$/);
  assert.notEqual(config.projectApiKey, service.apiKey);
  assert.deepEqual(JSON.parse((await run(['sandbox', 'list', '--format', 'json'], { env: urls })).stdout), []);
  assert.match((await run(['template', 'list'], { env: urls })).stdout, /base-jail/);
  await coppice(['token', 'revoke', made.tokenID], { COPPICE_HOME: service.home.folder });
  assert.equal((await e2b(['sandbox', 'list'], { env: urls })).code, 1);
});
