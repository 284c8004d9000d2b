/** Where a webhook may lead: to what is public, and to what the operator names. */
import assert from 'node:assert/strict';
import test from 'node:test';
import fc from 'fast-check';
import { createWebhookAddresses } from '../../src/control/webhook-addresses.ts';

const none = createWebhookAddresses([]);

test('this host, its links, metadata services and private networks are denied, however they are written', () => {
  for (const address of [
    ...['127.0.0.1', '127.9.9.9', '0.0.0.0', '10.0.0.1', '172.16.0.1', '172.31.255.255', '192.168.1.1', '100.64.0.1'],
    ...['169.254.169.254', '169.254.170.2', '100.100.100.200', '192.0.0.192', '198.18.0.1', '203.0.113.5', '224.0.0.1'],
    ...['255.255.255.255', '::', '::1', 'fe80::1', 'fe80::1%eth0', 'fd00:ec2::254', 'fc00::1', 'ff02::1'],
    ...['::ffff:127.0.0.1', '::ffff:a9fe:a9fe', '::FFFF:169.254.169.254', '0:0:0:0:0:ffff:7f00:1', '::127.0.0.1'],
    ...['64:ff9b::7f00:1', '64:ff9b::169.254.169.254', '2002:7f00:1::', '2001::1', 'fec0::1', 'localhost', ''],
  ])
    assert.equal(none.allows(address), false, address);
  for (const address of ['1.1.1.1', '8.8.8.8', '172.32.0.1', '2606:4700:4700::1111', '::ffff:8.8.8.8'])
    assert.equal(none.allows(address), true, address);
});

test('what the operator names is let through, and no more', () => {
  const some = createWebhookAddresses(['127.0.0.0/8', '169.254.169.254', 'fd00::/8', '::1']);
  for (const address of ['127.0.0.1', '::ffff:127.0.0.1', '169.254.169.254', 'fd12::1', '::1', '8.8.8.8'])
    assert.equal(some.allows(address), true, address);
  for (const address of ['169.254.169.253', '10.0.0.1', 'fe80::1']) assert.equal(some.allows(address), false, address);
  for (const text of ['x', '1.2.3.4/33', '1.2.3.4/', '1.2.3.4/8/8', '::1/129', 'example.com', '/8', '1.2.3.4/-1'])
    assert.throws(() => createWebhookAddresses([text]), { code: 'bad_request' }, text);
});

test('URLs: http and https, no credentials, no address that is denied, however it is spelled', () => {
  for (const url of [
    'https://example.com/hook?a=b',
    'http://example.com:8080',
    'https://1.1.1.1/',
    'http://[2606:4700::1]/',
  ])
    assert.doesNotThrow(() => none.check(url), url);
  for (const url of [
    ...['', 'x', 'ftp://example.com', 'file:///etc/passwd', 'javascript:alert(1)', 'http://', 'unix:/run/node.sock'],
    ...['http://user:pass@example.com/', 'http://user@example.com/', 'http://127.0.0.1/', 'http://127.1/'],
    ...['http://2130706433/', 'http://0x7f.1/', 'http://0177.0.0.1/', 'http://[::1]/', 'http://[::ffff:127.0.0.1]/'],
    ...['http://169.254.169.254/latest/meta-data', 'http://[fe80::1]/', 'http://0/'],
  ])
    assert.throws(() => none.check(url), { code: 'bad_request' }, url);
});

test('names are looked at when they are resolved, and only what is allowed is connected to', async () => {
  const look = (addresses: typeof none, name: string, all: boolean) =>
    new Promise((resolve) =>
      addresses.lookup(name, { all }, (error, found) => resolve(error === null ? found : error.message)),
    );
  assert.match(String(await look(none, 'localhost', true)), /no address that is allowed/);
  assert.match(String(await look(none, 'localhost', false)), /no address that is allowed/);
  const local = createWebhookAddresses(['127.0.0.1']);
  assert.deepEqual(await look(local, 'localhost', true), [{ address: '127.0.0.1', family: 4 }]);
  assert.equal(await look(local, 'localhost', false), '127.0.0.1');
});

test('any text is an answer, never a fault', () => {
  fc.assert(
    fc.property(fc.oneof(fc.string(), fc.ipV6(), fc.ipV4Extended(), fc.webUrl()), (text) => {
      assert.equal(typeof none.allows(text), 'boolean');
      try {
        none.check(text);
      } catch (error) {
        assert.equal((error as { code?: string }).code, 'bad_request');
      }
    }),
    { numRuns: 500 },
  );
  // Any way to write an IPv4 address in IPv6 is that address.
  fc.assert(
    fc.property(fc.ipV4(), (address) => {
      assert.equal(none.allows(`::ffff:${address}`), none.allows(address), address);
    }),
  );
});
