/** Coppice's own CA and certificate: accepted by who trusts it, for its domains alone, kept, renewed, and private. */
import assert from 'node:assert/strict';
import { createHash, X509Certificate } from 'node:crypto';
import { once } from 'node:events';
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import { connect, createServer } from 'node:tls';
import { isCoppiceError } from '../../src/contract/errors.ts';
import { authorityIn, ensureAuthority, writeBundle } from '../../src/edge/authority.ts';
import { readCertificate } from '../../src/edge/certificate.ts';
import { run } from '../../src/templates/run.ts';

const DAY_MS = 86_400_000;
const inDays = (days: number): Date => new Date(Date.now() + days * DAY_MS);

function folderOf(t: TestContext): string {
  const folder = mkdtempSync(join(tmpdir(), 'tls-'));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

/** Everything of one folder by name; keys as a hash. */
const contents = (folder: string): Record<string, string> =>
  Object.fromEntries(
    readdirSync(folder).map((name) => [
      name,
      createHash('sha256')
        .update(readFileSync(join(folder, name)))
        .digest('hex'),
    ]),
  );

/** What a client that trusts `ca` alone makes of a server with this certificate, by the name it asks for. */
async function shakeHands(
  pair: { readonly certificate: string; readonly key: string },
  ca: string,
  name: string,
): Promise<string> {
  const server = createServer({ cert: pair.certificate, key: pair.key }, (socket) => socket.end()).listen(
    0,
    '127.0.0.1',
  );
  await once(server, 'listening');
  server.on('tlsClientError', () => {});
  try {
    const socket = connect({ host: '127.0.0.1', port: (server.address() as AddressInfo).port, servername: name, ca });
    try {
      await once(socket, 'secureConnect');
      return 'accepted';
    } catch (error) {
      const { code = 'UNSPECIFIED', message } = error as NodeJS.ErrnoException;
      return code === 'UNSPECIFIED' ? message : code;
    } finally {
      socket.destroy();
    }
  } finally {
    server.close();
  }
}

test('who trusts the CA accepts the names of the domains, one level deep', async (t) => {
  const folder = folderOf(t);
  await ensureAuthority(folder, ['sbx.example', 'coppice.localhost']);
  const paths = authorityIn(folder);
  const pair = readCertificate(paths.leaf, ['sbx.example', 'coppice.localhost']);
  const ca = readFileSync(paths.authority, 'utf8');
  for (const name of [
    'sbx.example',
    'api.sbx.example',
    '3000-i0123456789abcdefghij.sbx.example',
    'api.coppice.localhost',
  ])
    assert.equal(await shakeHands(pair, ca, name), 'accepted', name);
  for (const name of ['other.example', 'a.b.sbx.example', 'sbx.example.org'])
    assert.equal(await shakeHands(pair, ca, name), 'ERR_TLS_CERT_ALTNAME_INVALID', name);
  const leaf = new X509Certificate(pair.certificate);
  assert.equal(
    leaf.subjectAltName,
    'DNS:sbx.example, DNS:*.sbx.example, DNS:coppice.localhost, DNS:*.coppice.localhost',
  );
  assert.equal(leaf.ca, false);
  const stranger = folderOf(t);
  await ensureAuthority(stranger, ['sbx.example']);
  assert.match(
    await shakeHands(pair, readFileSync(authorityIn(stranger).authority, 'utf8'), 'api.sbx.example'),
    /^UNABLE_TO|SELF_SIGNED/,
  );
});

test('keys are for their owner alone, and certificates for all, whatever the umask', async (t) => {
  const folder = folderOf(t);
  const before = process.umask(0o077);
  t.after(() => process.umask(before));
  await ensureAuthority(folder, ['sbx.example']);
  writeBundle(folder);
  const modes = Object.fromEntries(
    readdirSync(folder).map((name) => [name, statSync(join(folder, name)).mode & 0o777]),
  );
  assert.deepEqual(modes, {
    'authority-key.pem': 0o600,
    'authority.pem': 0o644,
    'bundle.pem': 0o644,
    'certificate-key.pem': 0o600,
    'certificate.pem': 0o644,
  });
  assert.equal(statSync(folder).mode & 0o777, 0o711);
});

test('the bundle is what is trusted anyway, and the CA', async (t) => {
  const folder = folderOf(t);
  await ensureAuthority(folder, ['sbx.example']);
  writeBundle(folder);
  const { authority, bundle } = authorityIn(folder);
  const text = readFileSync(bundle, 'utf8');
  assert.ok(text.includes(readFileSync(authority, 'utf8').trim()));
  assert.ok(text.split('BEGIN CERTIFICATE').length > 50);
});

test('nothing is made anew without need; the leaf is before it expires, and the CA stays', async (t) => {
  const folder = folderOf(t);
  const hosts = ['sbx.example'];
  await ensureAuthority(folder, hosts);
  const first = contents(folder);
  await ensureAuthority(folder, hosts);
  await ensureAuthority(folder, hosts, { now: inDays(397 - 62) });
  assert.deepEqual(contents(folder), first);
  for (const now of [inDays(397 - 58), inDays(500)]) {
    const before = contents(folder);
    await ensureAuthority(folder, hosts, { now });
    const after = contents(folder);
    assert.equal(after['authority.pem'], first['authority.pem']);
    assert.notEqual(after['certificate.pem'], before['certificate.pem']);
    assert.notEqual(after['certificate-key.pem'], before['certificate-key.pem']);
  }
  await ensureAuthority(folder, hosts, { now: inDays(3_650 - 300) });
  assert.notEqual(
    contents(folder)['authority.pem'],
    first['authority.pem'],
    'a CA that would expire first is replaced',
  );
});

test('the CA signs for the domains it was made for and for nothing else', async (t) => {
  const folder = folderOf(t);
  await ensureAuthority(folder, ['sbx.example']);
  const first = contents(folder);
  await ensureAuthority(folder, ['eu.sbx.example']);
  assert.equal(contents(folder)['authority.pem'], first['authority.pem'], 'a name under its domain');
  const { authority } = authorityIn(folder);
  const kept = readFileSync(authority, 'utf8');
  // Whoever has the key signs what they like; clients do not follow.
  const names = 'subjectAltName=DNS:bank.example,IP:127.0.0.1';
  await run('openssl', [
    ...[
      'req',
      '-x509',
      '-newkey',
      'ec',
      '-pkeyopt',
      'ec_paramgen_curve:P-256',
      '-noenc',
      '-days',
      '9',
      '-subj',
      '/CN=x',
    ],
    ...['-CA', authority, '-CAkey', join(folder, 'authority-key.pem'), '-addext', names],
    ...['-addext', 'basicConstraints=critical,CA:FALSE', '-keyout', join(folder, 'k'), '-out', join(folder, 'c')],
  ]);
  const forged = { certificate: readFileSync(join(folder, 'c'), 'utf8'), key: readFileSync(join(folder, 'k'), 'utf8') };
  assert.match(await shakeHands(forged, kept, 'bank.example'), /subtree violation/);
  await ensureAuthority(folder, ['other.example']);
  assert.notEqual(readFileSync(authority, 'utf8'), kept, 'another domain wants another CA');
});

test('what was torn, lost or half made is made anew', async (t) => {
  const folder = folderOf(t);
  const hosts = ['sbx.example'];
  await ensureAuthority(folder, hosts);
  const { authority, leaf } = authorityIn(folder);
  const ca = readFileSync(authority, 'utf8');
  for (const file of [leaf.certificate, leaf.key]) {
    writeFileSync(file, 'torn');
    await ensureAuthority(folder, hosts);
    assert.equal(await shakeHands(readCertificate(leaf, hosts), ca, 'api.sbx.example'), 'accepted');
  }
  writeFileSync(join(folder, 'authority-key.pem'), 'torn');
  await ensureAuthority(folder, hosts);
  assert.equal(readFileSync(authority, 'utf8'), ca, 'a leaf that stands needs no key of its CA');
  rmSync(leaf.key);
  await ensureAuthority(folder, hosts);
  assert.notEqual(readFileSync(authority, 'utf8'), ca);
  assert.equal(
    await shakeHands(readCertificate(leaf, hosts), readFileSync(authority, 'utf8'), 'api.sbx.example'),
    'accepted',
  );
  assert.deepEqual(readdirSync(folder).sort(), [
    'authority-key.pem',
    'authority.pem',
    'certificate-key.pem',
    'certificate.pem',
  ]);
});

test('an abort leaves what there was', async (t) => {
  const folder = folderOf(t);
  await ensureAuthority(folder, ['sbx.example']);
  const before = contents(folder);
  await assert.rejects(ensureAuthority(folder, ['other.example'], { signal: AbortSignal.abort() }), (error) =>
    isCoppiceError(error, 'aborted'),
  );
  assert.deepEqual(contents(folder), before);
});

test("an owner's files: read, or refused with the reason", async (t) => {
  const folder = folderOf(t);
  const other = folderOf(t);
  await ensureAuthority(folder, ['sbx.example']);
  await ensureAuthority(other, ['sbx.example']);
  const { leaf } = authorityIn(folder);
  assert.match(readCertificate(leaf, ['sbx.example']).key, /PRIVATE KEY/);
  const refusals: [() => unknown, RegExp][] = [
    [() => readCertificate(leaf, ['sbx.test']), /is not for api\.sbx\.test; it must name \*\.sbx\.test/],
    [() => readCertificate(leaf, ['sbx.example'], inDays(400)), /expired at \d{4}-/],
    [
      () => readCertificate({ ...leaf, key: authorityIn(other).leaf.key }, ['sbx.example']),
      /is not the certificate of the key in/,
    ],
    [() => readCertificate({ ...leaf, key: leaf.certificate }, ['sbx.example']), /is not what it should be in PEM/],
    [() => readCertificate({ ...leaf, key: join(folder, 'none') }, ['sbx.example']), /cannot read .*none: ENOENT/],
  ];
  for (const [read, reason] of refusals)
    assert.throws(read, (error: Error) => isCoppiceError(error, 'host_unfit') && reason.test(error.message));
});
