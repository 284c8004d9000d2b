/** What the settings say of domain mode, what clients are told, and where names lead. */
import assert from 'node:assert/strict';
import { lookup } from 'node:dns/promises';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import test, { type TestContext } from 'node:test';
import { openCertificates } from '../../src/cli/certificates.ts';
import { clientEnvironment, publicDomain, runningService, sdkConnection } from '../../src/cli/client-environment.ts';
import { domainFindings } from '../../src/cli/domain-findings.ts';
import { whereNamesLead } from '../../src/cli/names.ts';
import { readSettings, type SettingsOptions } from '../../src/cli/settings.ts';
import { isCoppiceError } from '../../src/contract/errors.ts';
import { authorityIn } from '../../src/edge/authority.ts';
import { openHome } from '../../src/store/home.ts';

/** The environment for one test, in place of all that COPPICE_* and E2B_* say here. */
function environment(t: TestContext, env: Readonly<Record<string, string>>): void {
  const before = { ...process.env };
  t.after(() => {
    process.env = before;
  });
  const rest = Object.entries(before).filter(([name]) => !/^(COPPICE|E2B)_/.test(name));
  process.env = { ...Object.fromEntries(rest), ...env };
}

function homeOf(t: TestContext): string {
  const folder = mkdtempSync(join(tmpdir(), 'cph'));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

test('without a word of it: plain HTTP, and what it always was', (t) => {
  environment(t, {});
  const settings = readSettings();
  assert.deepEqual([settings.domains, settings.tls], [[], undefined]);
  assert.deepEqual(clientEnvironment({ ...settings, host: '::' }, 3000, 'key'), {
    E2B_API_URL: 'http://[::1]:3000',
    E2B_SANDBOX_URL: 'http://[::1]:3000',
    E2B_API_KEY: 'key',
  });
  environment(t, { COPPICE_DOMAIN: 'sbx.example', COPPICE_TLS: '0' });
  assert.equal(readSettings().tls, undefined, 'a domain alone is for whoever terminates TLS in front');
});

test('the command line wins over the environment; files win over a CA of our own', (t) => {
  environment(t, { COPPICE_DOMAIN: ' Sbx.Example:8443 , foo.test,', COPPICE_TLS: '1' });
  assert.deepEqual(readSettings().domains, ['sbx.example:8443', 'foo.test']);
  assert.equal(readSettings().tls, 'own');
  assert.deepEqual(readSettings({ domain: 'other.example' }).domains, ['other.example']);
  const files = { certificate: resolve('a.pem'), key: '/b.pem' };
  assert.deepEqual(readSettings({ tlsCert: 'a.pem', tlsKey: '/b.pem' }).tls, files);
  environment(t, { COPPICE_DOMAIN: 'sbx.example', COPPICE_TLS_CERT: 'a.pem', COPPICE_TLS_KEY: '/b.pem' });
  assert.deepEqual(readSettings().tls, files);
});

test('what cannot be is refused by name', (t) => {
  const refused = (env: Record<string, string>, options: SettingsOptions, reason: RegExp): void => {
    environment(t, env);
    assert.throws(
      () => readSettings(options),
      (error: Error) => isCoppiceError(error, 'bad_request') && reason.test(error.message),
    );
  };
  refused({}, { tls: true }, /TLS needs a domain/);
  refused({ COPPICE_DOMAIN: 'sbx.example' }, { tlsCert: 'a' }, /go together/);
  refused({ COPPICE_DOMAIN: 'sbx.example', COPPICE_TLS: 'perhaps' }, {}, /COPPICE_TLS must be 1 or 0/);
  for (const domain of ['localhost', '10.0.0.1']) refused({}, { domain, tls: true }, /two labels or more/);
  for (const domain of ['a b', 'x_y.example', '*.example', 'a..b', '-a.b', 'a.b:x', 'a\nb', `${'a'.repeat(64)}.b`])
    refused({ COPPICE_DOMAIN: domain }, {}, /what is no domain/);
});

test('clients are told the domain as they must write it', (t) => {
  assert.equal(publicDomain('sbx.example', 443), 'sbx.example');
  assert.equal(publicDomain('sbx.example', 3000), 'sbx.example:3000');
  assert.equal(publicDomain('sbx.example:8443', 3000), 'sbx.example:8443');
  assert.equal(publicDomain('sbx.example:443', 3000), 'sbx.example');
  environment(t, { COPPICE_HOME: homeOf(t), COPPICE_DOMAIN: 'sbx.example', COPPICE_TLS: '1' });
  const settings = readSettings();
  const { authority, bundle } = authorityIn(join(settings.homeFolder, 'tls'));
  const env = clientEnvironment(settings, 8443, 'key', openCertificates(openHome(settings.homeFolder), settings));
  assert.deepEqual(env, {
    E2B_DOMAIN: 'sbx.example:8443',
    E2B_API_KEY: 'key',
    NODE_EXTRA_CA_CERTS: authority,
    SSL_CERT_FILE: bundle,
  });
  assert.deepEqual(sdkConnection(env), {
    apiUrl: 'https://api.sbx.example:8443',
    domain: 'sbx.example:8443',
    apiKey: 'key',
    validateApiKey: false,
  });
});

test('verbs find the service by what the caller says first', (t) => {
  const home = { COPPICE_HOME: homeOf(t) };
  environment(t, { ...home, E2B_API_KEY: 'key', E2B_DOMAIN: 'sbx.example' });
  assert.deepEqual(runningService(), { E2B_DOMAIN: 'sbx.example', E2B_API_KEY: 'key' });
  environment(t, { ...home, E2B_API_KEY: 'key', E2B_DOMAIN: 'sbx.example', E2B_API_URL: 'http://a:1' });
  assert.deepEqual(runningService(), {
    E2B_API_URL: 'http://a:1',
    E2B_SANDBOX_URL: 'http://127.0.0.1:3000',
    E2B_API_KEY: 'key',
  });
  environment(t, { ...home, E2B_API_KEY: 'key', COPPICE_DOMAIN: 'sbx.example', COPPICE_TLS: '1' });
  const own = runningService();
  assert.ok('E2B_DOMAIN' in own);
  assert.equal(own.E2B_DOMAIN, 'sbx.example:3000');
});

test('where names lead: here, elsewhere, nowhere, or no answer', async () => {
  const resolver = (api: readonly string[], sandbox: readonly string[]) => async (name: string) =>
    name.startsWith('api.') ? api : sandbox;
  assert.equal((await whereNamesLead('sbx.example', resolver(['127.0.0.1'], ['::1', '203.0.113.1']))).here, true);
  const elsewhere = await whereNamesLead('sbx.example', resolver(['127.0.0.1'], ['203.0.113.1']));
  assert.match(elsewhere.detail, /^49983-i0{20}\.sbx\.example is 203\.0\.113\.1, no address of this host$/);
  const nowhere = await whereNamesLead('sbx.example', async () => Promise.reject(new Error('ENOTFOUND')));
  assert.deepEqual(nowhere, { here: false, detail: 'api.sbx.example does not resolve on this host' });
  assert.equal((await whereNamesLead('sbx.example', () => new Promise(() => {}))).here, false);
  assert.ok(await lookup('localhost'), 'the resolver of the host itself is asked in the same way');
});

test('the doctor looks at the certificate', async (t) => {
  const home = openHome(homeOf(t));
  assert.deepEqual(await domainFindings(home, { tls: undefined, domains: ['sbx.example'] }), []);
  const certificateOf = async (settings: Parameters<typeof domainFindings>[1]) =>
    (await domainFindings(home, settings, async () => ['127.0.0.1'])).map(({ check, state, detail }) => ({
      check,
      state,
      detail,
    }));
  const own = { tls: 'own', domains: ['sbx.example:3000'] } as const;
  const names = {
    check: 'names',
    state: 'ok',
    detail: 'api.sbx.example and <port>-<id>.sbx.example lead to this host',
  };
  assert.deepEqual(await certificateOf(own), [
    { check: 'certificate', state: 'ok', detail: 'made at the next start' },
    names,
  ]);
  await openCertificates(home, own)!.current();
  const { leaf } = authorityIn(home.tls);
  assert.deepEqual(await certificateOf(own), [
    { check: 'certificate', state: 'ok', detail: `${leaf.certificate} expires in 396 days` },
    names,
  ]);
  const [foreign] = await certificateOf({ tls: leaf, domains: ['foo.test'] });
  assert.equal(foreign?.state, 'bad');
  assert.match(foreign.detail, /is not for api\.foo\.test/);
});
