import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { createServer } from 'node:http';
import test from 'node:test';
import { Sandbox } from 'e2b';
import { startService } from '../helpers/service.ts';
import { until } from '../helpers/until.ts';

/** Documentation addresses (RFC 5737), in a namespace that this test makes: the only internet there is here. */
const WORLD = '203.0.113.1';
const HOST = '203.0.113.2';
const NAMESPACE = `cpw${process.pid}`;
const LINK = `cpw${process.pid}`.slice(0, 14);

const ip = (...args: string[]): void => void execFileSync('ip', args);
ip('netns', 'add', NAMESPACE);
ip('link', 'add', LINK, 'type', 'veth', 'peer', 'name', 'world', 'netns', NAMESPACE);
ip('addr', 'add', `${HOST}/24`, 'dev', LINK);
ip('link', 'set', LINK, 'up');
ip('-n', NAMESPACE, 'addr', 'add', `${WORLD}/24`, 'dev', 'world');
ip('-n', NAMESPACE, 'link', 'set', 'world', 'up');
ip('-n', NAMESPACE, 'link', 'set', 'lo', 'up');
const page = ['-m', 'http.server', '8080', '--bind', WORLD, '--directory', '/usr/share/doc'];
const server = spawn('ip', ['netns', 'exec', NAMESPACE, '/usr/bin/python3', ...page], { stdio: 'ignore' });
const onHost = createServer((_req, res) => res.end('the host')).listen(8080, HOST);
const service = await startService({ COPPICE_POOL: '1', COPPICE_POOL_MOST: '2' });

test.after(async () => {
  assert.deepEqual((await service.stop()).details, []);
  onHost.close();
  onHost.closeAllConnections();
  server.kill();
  ip('link', 'del', LINK);
  ip('netns', 'del', NAMESPACE);
});

/** HTTP status as curl saw it, 000 when it got none. */
async function status(sandbox: Sandbox, url: string): Promise<string> {
  const run = await sandbox.commands.run(`curl -s -o /dev/null -m 5 -w '%{http_code}' '${url}' || true`, {
    timeoutMs: 120_000,
  });
  return run.stdout.trim();
}

test('the internet is there by default, and the host, private and metadata addresses never', async () => {
  const sandbox = await Sandbox.create('base', service.sdk);
  await until('the world serves', async () => (await status(sandbox, `http://${WORLD}:8080/`)) === '200', 60_000);
  for (const address of [
    HOST,
    '127.0.0.1',
    '169.254.169.254',
    '169.254.1.1',
    '10.0.0.1',
    '192.168.0.1',
    '172.16.0.1',
  ]) {
    assert.equal(await status(sandbox, `http://${address}:8080/`), '000', address);
  }
  await sandbox.kill();
});

test('allow_internet_access false is kept, from the first moment', async () => {
  const sandbox = await Sandbox.create('base', { ...service.sdk, allowInternetAccess: false });
  assert.equal(await status(sandbox, `http://${WORLD}:8080/`), '000');
  assert.equal((await sandbox.getInfo()).allowInternetAccess, false);
  await sandbox.kill();
});

test('one sandbox cannot reach another', async () => {
  const [one, other] = await Promise.all([Sandbox.create('base', service.sdk), Sandbox.create('base', service.sdk)]);
  const address = (
    await one.commands.run("ip -4 -o addr show dev eth0 | awk '{print $4}' | cut -d/ -f1", { timeoutMs: 120_000 })
  ).stdout.trim();
  assert.match(address, /^10\.\d+\.\d+\.\d+$/);
  await one.commands.run('exec python3 -m http.server 8080', { background: true, timeoutMs: 0 });
  await until('it serves itself', async () => (await status(one, `http://${address}:8080/`)) === '200', 60_000);
  assert.equal(await status(other, `http://${address}:8080/`), '000');
  await Promise.all([one.kill(), other.kill()]);
});
