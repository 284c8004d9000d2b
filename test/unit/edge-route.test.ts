/** Where a request goes, by host, headers, path and signature; and that no input makes the router throw or guess. */
import assert from 'node:assert/strict';
import test from 'node:test';
import fc from 'fast-check';
import { createRouter, type Route } from '../../src/edge/route.ts';

const ID = 'i0123456789abcdefghij';
const route = createRouter(['coppice.test', 'foo.test:8443']);
const go = (host: string | undefined, url: string, headers: Record<string, string> = {}): Route =>
  route({ url, rawHeaders: [...(host === undefined ? [] : ['Host', host]), ...Object.entries(headers).flat()] });
const sandbox = (port: number, path: string, sandboxID = ID): Route => ({ kind: 'sandbox', sandboxID, port, path });
const kind = (r: Route): string => (r.kind === 'refused' ? String(r.status) : r.kind);
const both = (id: string, port: string) => ({ 'E2b-Sandbox-Id': id, 'e2b-sandbox-port': port });

test('by host', () => {
  assert.deepEqual(go(`49983-${ID}.coppice.test`, '/files?path=a'), sandbox(49983, '/files?path=a'));
  assert.deepEqual(go(`3000-${ID}-6532622b.coppice.test:443`, '/'), sandbox(3000, '/'));
  assert.deepEqual(go(`3000-${ID.toUpperCase()}.Coppice.Test.`, '/'), sandbox(3000, '/'));
  assert.deepEqual(go(`3000-${ID}.foo.test:8443`, '/'), sandbox(3000, '/'));
  assert.deepEqual(go(`49983-${ID}-00000000.localhost`, '/'), sandbox(49983, '/'));
  assert.deepEqual(go('api.coppice.test', '/sandboxes'), { kind: 'api' });
  assert.deepEqual(go('coppice.test', '/'), { kind: 'api' });
  const nested = createRouter(['coppice.localhost', 'a.coppice.localhost']);
  for (const domain of ['localhost', 'coppice.localhost', 'a.coppice.localhost'])
    assert.deepEqual(
      nested({ url: '/', rawHeaders: ['Host', `3000-${ID}.${domain}:3000`] }),
      sandbox(3000, '/'),
      `domains that lie under one another: ${domain}`,
    );
  assert.deepEqual(go(`3000-${ID}.a.coppice.test`, '/'), { kind: 'api' });
  // Not our domain: a host name alone must not reach a sandbox.
  assert.deepEqual(go(`3000-${ID}.evil.test`, '/'), { kind: 'api' });
  assert.deepEqual(go(`3000-${ID}.evilcoppice.test`, '/'), { kind: 'api' });
  assert.deepEqual(go(`x.3000-${ID}.coppice.test`, '/'), { kind: 'api' });
  for (const label of [
    `0-${ID}`,
    `65536-${ID}`,
    `99999999999999999999-${ID}`,
    '3000-',
    `3000-${'a'.repeat(41)}`,
    `3000-a_b`,
  ])
    assert.equal(kind(go(`${label}.coppice.test`, '/')), '400', label);
});

test('the host decides before headers and path', () => {
  assert.deepEqual(go(`3000-${ID}.coppice.test`, '/x', both('other', '1')), sandbox(3000, '/x'));
  assert.deepEqual(go(`3000-${ID}.coppice.test`, '/sandbox/other/1/x'), sandbox(3000, '/sandbox/other/1/x'));
});

test('by headers, only for localhost, addresses and sandbox.<domain>', () => {
  for (const host of [
    'localhost',
    'LOCALHOST:3000',
    '127.0.0.1:3000',
    '10.0.0.9',
    '[::1]:3000',
    'sandbox.coppice.test',
    'sandbox.foo.test:8443',
  ])
    assert.deepEqual(go(host, '/health?a=%2F..', both(ID, '49983')), sandbox(49983, '/health?a=%2F..'), host);
  assert.deepEqual(go('localhost', '/', both(`${ID}-6532622b`, '80')), sandbox(80, '/'));
  for (const host of ['api.coppice.test', 'coppice.test', 'example.org', undefined])
    assert.deepEqual(go(host, '/health', both(ID, '49983')), { kind: 'api' }, host);
  assert.equal(kind(go('localhost', '/', { 'E2b-Sandbox-Id': ID })), '400');
  assert.equal(kind(go('localhost', '/', { 'E2b-Sandbox-Port': '80' })), '400');
  for (const port of ['', '0', '65536', '-1', '1e3', '0x50', '80 ', '8,0', '080000', 'http', '٣'])
    assert.equal(kind(go('localhost', '/', both(ID, port))), '400', port);
  for (const id of ['', 'I', 'a b', '../x', 'a/b', 'a%2f', `${'a'.repeat(41)}`, 'é', '-x', 'a, b', 'a\r\nx: y'])
    assert.equal(kind(go('localhost', '/', both(id, '80'))), '400', id);
});

test('by path, with the prefix cut and the rest as it was', () => {
  assert.deepEqual(go('localhost', `/sandbox/${ID}/3000/a/b?c=d`), sandbox(3000, '/a/b?c=d'));
  assert.deepEqual(go('whatever.example', `/sandbox/${ID}-x/3000`), sandbox(3000, '/'));
  assert.deepEqual(go(undefined, `/sandbox/${ID}/3000?x=/sandbox/`), sandbox(3000, '/?x=/sandbox/'));
  assert.deepEqual(go('localhost', `/sandbox/${ID}/3000/../..//%2e%2e/%2F?`), sandbox(3000, '/../..//%2e%2e/%2F?'));
  for (const url of [
    '/sandbox/',
    '/sandbox//80/',
    `/sandbox/${ID}`,
    `/sandbox/${ID}/`,
    `/sandbox/../${ID}/80/`,
    `/sandbox/${ID}%2F80/x`,
    `/sandbox/${ID}/80%2Fx`,
    `/sandbox/${ID}/0/`,
    `/sandbox/${ID}/70000/`,
  ])
    assert.equal(kind(go('localhost', url)), '400', url);
  for (const url of ['/sandboxes', '/sandbox', '/sandbox%2Fi/80/', `//sandbox/${ID}/80/`, '/Sandbox/i/80/'])
    assert.deepEqual(go('localhost', url), { kind: 'api' }, url);
});

test('signed file links', () => {
  const signed = { kind: 'signed', port: 49983 };
  assert.deepEqual(go('127.0.0.1:3000', '/files?path=a&signature=v1_x'), signed);
  assert.deepEqual(go('127.0.0.1:3000', '/files?signature=v1_x'), signed);
  assert.deepEqual(
    go('127.0.0.1:3000', '/files?signature=v1_x', both(ID, '49983')),
    sandbox(49983, '/files?signature=v1_x'),
  );
  for (const url of [
    '/files?path=a',
    '/files',
    '/files?signature=',
    '/files?xsignature=a',
    '/files/x?signature=a',
    '/v2/files?signature=a',
  ])
    assert.deepEqual(go('127.0.0.1:3000', url), { kind: 'api' }, url);
});

test('repeated deciding headers and strange targets are refused', () => {
  const twice = (name: string): Route =>
    route({ url: '/', rawHeaders: ['Host', 'localhost', name, ID, name.toUpperCase(), '80'] });
  for (const name of ['host', 'e2b-sandbox-id', 'E2b-Sandbox-Port']) assert.equal(kind(twice(name)), '400', name);
  assert.equal(kind(go('localhost', 'http://other/')), '400');
  assert.equal(kind(go('localhost', '')), '400');
  assert.deepEqual(go('localhost', '*'), { kind: 'api' });
  assert.equal(kind(go('localhost', '/a\r\nx: y', both(ID, '80'))), '400');
  assert.equal(kind(go('localhost', '/a b', both(ID, '80'))), '400');
  for (const host of ['a b', 'a/b', 'a@b', 'a\r\nb', '[::1', '[1.2.3.4]', 'a:b', `${'a'.repeat(300)}`])
    assert.equal(kind(go(host, '/')), '400', JSON.stringify(host));
});

const hostile = fc.oneof(
  fc.string({ unit: 'binary', maxLength: 60 }),
  fc.constantFrom(
    '\r\n',
    '..',
    '%2f',
    '-',
    '.',
    ':',
    '[',
    ']',
    'localhost',
    '.localhost',
    'coppice.test',
    '49983',
    ID,
    '\0',
  ),
);
const soup = fc.array(hostile, { maxLength: 6 }).map((parts) => parts.join(''));

test('whatever comes in, the answer is well-formed', () => {
  fc.assert(
    fc.property(
      fc.oneof(
        soup,
        soup.map((s) => `3000-${ID}.${s}`),
        soup.map((s) => `${s}-${ID}.coppice.test`),
      ),
      fc.oneof(
        soup,
        soup.map((s) => `/${s}`),
        soup.map((s) => `/sandbox/${s}`),
      ),
      fc.array(fc.tuple(fc.constantFrom('host', 'E2b-Sandbox-Id', 'E2B-SANDBOX-PORT', 'x'), soup), { maxLength: 4 }),
      (host, url, extra) => {
        const got = route({ url, rawHeaders: ['Host', host, ...extra.flat()] });
        if (got.kind === 'sandbox') {
          assert.match(got.sandboxID, /^[a-z0-9]{1,40}$/);
          assert.ok(Number.isInteger(got.port) && got.port >= 1 && got.port <= 65_535);
          assert.match(got.path, /^\/[\x21-\xff]*$|^\*$/);
        } else if (got.kind === 'refused') assert.equal(got.status, 400);
        else assert.ok(got.kind === 'api' || got.kind === 'signed');
      },
    ),
    { numRuns: 20_000 },
  );
});

test('any good id, port and path is reached the same way by host, headers and path', () => {
  const id = fc.stringMatching(/^[a-z0-9]{1,40}$/);
  const path = fc.stringMatching(/^\/[\x21\x22\x24-\x3e\x40-\xff]{0,80}(\?[\x21\x22\x24-\xff]{0,40})?$/);
  fc.assert(
    fc.property(id, fc.integer({ min: 1, max: 65_535 }), path, (name, port, rest) => {
      const expected = sandbox(port, rest, name);
      assert.deepEqual(go(`${port}-${name}.coppice.test`, rest), expected);
      assert.deepEqual(go('127.0.0.1:1', rest, both(name, String(port))), expected);
      assert.deepEqual(go('127.0.0.1:1', `/sandbox/${name}/${port}${rest}`), expected);
    }),
    { numRuns: 3_000 },
  );
});
