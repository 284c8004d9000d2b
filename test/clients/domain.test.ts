/** The whole service under a domain of its own: the official SDK by E2B_DOMAIN alone, over TLS; the command line too. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readFileSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';
import { connect } from 'node:tls';
import { openCertificates } from '../../src/cli/certificates.ts';
import { clientEnvironment } from '../../src/cli/client-environment.ts';
import { leaksOfHome } from '../../src/cli/leaks.ts';
import { localKey } from '../../src/cli/local-service.ts';
import { Service } from '../../src/cli/service.ts';
import { readSettings } from '../../src/cli/settings.ts';
import { listPids } from '../../src/isolation/process-table.ts';
import { createLog, silentLog } from '../../src/telemetry/log.ts';
import { runDomainClient } from '../helpers/domain-client.ts';
import { coppice, freshHome } from '../helpers/service.ts';
import { until } from '../helpers/until.ts';

const TEMPLATE = 'base-jail';
const DOMAIN = 'coppice.localhost';

const home = freshHome([TEMPLATE]);
const wishes = { COPPICE_HOME: home.folder, COPPICE_DOMAIN: DOMAIN, COPPICE_TLS: '1', COPPICE_POOL: '1' };
Object.assign(process.env, wishes);
const settings = { ...readSettings(), port: 0 };
const certificates = openCertificates(home, settings)!;
const log = createLog({ name: 'supervisor', file: join(home.logs, 'supervisor.log') });
const service = new Service({ home, host: settings.host, port: 0, log, domains: settings.domains, certificates });
const port = await service.start(AbortSignal.timeout(120_000));
const apiKey = localKey(home);
const env = clientEnvironment(settings, port, apiKey, certificates);
assert.ok('E2B_DOMAIN' in env && env.NODE_EXTRA_CA_CERTS !== undefined);
const client = { ...env, NODE_EXTRA_CA_CERTS: env.NODE_EXTRA_CA_CERTS };

/** With a client that trusts the CA and nothing else. */
async function handshake(): Promise<{ readonly protocol: string | null; readonly fingerprint: string }> {
  const ca = readFileSync(client.NODE_EXTRA_CA_CERTS);
  const socket = connect({ host: '127.0.0.1', port, servername: `api.${DOMAIN}`, ca });
  await once(socket, 'secureConnect');
  const seen = { protocol: socket.getProtocol(), fingerprint: socket.getPeerCertificate().fingerprint256 };
  socket.destroy();
  return seen;
}

test.after(async () => {
  await service.stop();
  assert.deepEqual((await leaksOfHome(home, silentLog)).details, []);
  rmSync(home.folder, { recursive: true, force: true });
});

test('the official SDK in its plain configuration', async () => {
  assert.equal(client.E2B_DOMAIN, `${DOMAIN}:${port}`);
  const seen = await runDomainClient(client, TEMPLATE, 8_123);
  assert.equal(seen.host, `8123-${seen.sandboxId}.${DOMAIN}:${port}`);
  assert.deepEqual([seen.stdout, seen.file], ['hello\n', 'signed']);
  assert.ok(seen.downloadUrl.startsWith(`https://49983-${seen.sandboxId}.${DOMAIN}:${port}/files?`));
  assert.deepEqual(seen.served, { host: seen.host, proto: 'https' });
  assert.ok(seen.gapMs > 250, 'nothing is buffered');
  assert.deepEqual(seen.said, ['one', 'two é']);
  assert.equal(seen.closed.status, 502);
  assert.match(seen.closed.text, /no service running on port 8124/);
  assert.deepEqual([seen.listed, seen.byHeaders], [1, 200]);
  assert.deepEqual([seen.killed, seen.runningAfter, seen.dead.status], [true, false, 502]);
});

test('verbs of this host need no DNS and no word about the CA', async () => {
  const own = { ...wishes, COPPICE_PORT: String(port) };
  const { stdout } = await coppice(['sandbox', 'create', TEMPLATE, '--json'], own);
  const { sandboxID } = JSON.parse(stdout) as { sandboxID: string };
  assert.equal((await coppice(['sandbox', 'exec', sandboxID, 'echo', 'here'], own)).stdout, 'here\n');
  assert.deepEqual(JSON.parse((await coppice(['snapshot', 'list', '--json'], own)).stdout), []);
  assert.equal((await coppice(['sandbox', 'kill', sandboxID], own)).stdout, `${sandboxID}: killed\n`);
});

test('control serves with a key that it cannot read, and no process listens without TLS', async () => {
  const key = statSync(certificates.files.key);
  assert.deepEqual([key.uid, key.mode & 0o777], [process.getuid!(), 0o600]);
  const control = listPids().find((pid) => {
    try {
      const words = readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0');
      return words.includes('run-control') && words.includes(home.folder);
    } catch {
      return false;
    }
  });
  assert.notEqual(statSync(`/proc/${control}`).uid, key.uid);
  assert.equal((await handshake()).protocol, 'TLSv1.3');
  await assert.rejects(fetch(`http://127.0.0.1:${port}/health`));
});

test('a renewed certificate is served without a restart, under the CA that clients have', async () => {
  const before = await handshake();
  rmSync(certificates.files.certificate);
  await service.renewCertificate();
  await until('the new certificate', async () => (await handshake()).fingerprint !== before.fingerprint);
});
