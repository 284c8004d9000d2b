/** The reference evaluator: what holds for every policy and every packet. */
import assert from 'node:assert/strict';
import test from 'node:test';
import fc from 'fast-check';
import { formatAddress } from '../../src/network/ipv4.ts';
import { evaluate, HARD_DENIES, isHardDenied, type Packet } from '../../src/network/policy.ts';

const place = { address: '10.9.1.7', hostAddresses: ['203.0.113.2', '10.9.0.1'] };
const address = fc.integer({ min: 0, max: 0xffffffff }).map(formatAddress);
const packets: fc.Arbitrary<Packet> = fc.record({
  family: fc.constantFrom(4, 4, 4, 6),
  direction: fc.constantFrom('outbound', 'inbound'),
  source: fc.oneof(address, fc.constant(place.address)),
  destination: fc.oneof(address, fc.constantFrom(place.address, ...place.hostAddresses, '8.8.8.8')),
  protocol: fc.constantFrom('tcp', 'udp', 'icmp', 'other'),
  flow: fc.constantFrom('new', 'current', 'stale', 'invalid'),
  opening: fc.boolean(),
});
const policies = fc.record({ allowInternet: fc.boolean() });
const out = {
  family: 4,
  direction: 'outbound',
  source: place.address,
  protocol: 'tcp',
  flow: 'new',
  opening: true,
} as const;

function always(what: string, property: (policy: { allowInternet: boolean }, packet: Packet) => boolean) {
  test(what, () => fc.assert(fc.property(policies, packets, property), { numRuns: 3000 }));
}

always('IPv6 is never allowed', (policy, packet) => packet.family === 4 || !evaluate(policy, packet, place).allowed);

always(
  'nothing is allowed without internet access',
  (_, packet) => !evaluate({ allowInternet: false }, packet, place).allowed,
);

always(
  'an allowed outbound packet has the own source and a destination that is neither denied nor the host',
  (policy, packet) =>
    packet.direction !== 'outbound' ||
    !evaluate(policy, packet, place).allowed ||
    (packet.source === place.address &&
      !isHardDenied(packet.destination) &&
      !place.hostAddresses.includes(packet.destination)),
);

always(
  'an allowed inbound packet belongs to a flow that the sandbox opened',
  (policy, packet) =>
    packet.direction !== 'inbound' || !evaluate(policy, packet, place).allowed || packet.flow === 'current',
);

always(
  'a TCP packet that opens nothing and continues nothing is never allowed',
  (policy, packet) =>
    packet.protocol !== 'tcp' ||
    packet.flow === 'current' ||
    (packet.flow === 'new' && packet.opening === true) ||
    !evaluate(policy, packet, place).allowed,
);

always(
  'an address of a hard deny range stays denied whatever the flow says',
  (policy, packet) =>
    !isHardDenied(packet.destination) ||
    !evaluate(policy, { ...packet, direction: 'outbound', flow: 'current' }, place).allowed,
);

test('public addresses are allowed with internet access', () => {
  for (const destination of [
    '8.8.8.8',
    '1.1.1.1',
    '192.0.2.1',
    '198.51.100.7',
    '203.0.113.1',
    '100.63.255.255',
    '223.255.255.255',
  ])
    assert.deepEqual(evaluate({ allowInternet: true }, { ...out, destination }, place), {
      allowed: true,
      reason: 'allowed',
    });
});

test('every hard deny range holds at both ends and not beyond', () => {
  for (const text of HARD_DENIES) {
    const [base, prefix] = text.split('/') as [string, string];
    const first = base.split('.').reduce((value, octet) => value * 256 + Number(octet), 0);
    const last = first + 2 ** (32 - Number(prefix)) - 1;
    assert.ok(isHardDenied(formatAddress(first)) && isHardDenied(formatAddress(last)), text);
    const neighbours = [first - 1, last + 1].filter((n) => n >= 0 && n < 0xe0000000);
    for (const beyond of neighbours)
      assert.ok(!isHardDenied(formatAddress(beyond)), `${text}: ${formatAddress(beyond)}`);
  }
  for (const metadata of ['169.254.169.254', '100.100.100.200', '192.0.0.192', '255.255.255.255'])
    assert.ok(isHardDenied(metadata), metadata);
});

test('what is no address is denied', () => {
  for (const text of ['', '8.8.8', '8.8.8.8.8', '8.8.8.08', '0x8.8.8.8', '8.8.8.256', ' 8.8.8.8', '::1', '134744072'])
    assert.ok(isHardDenied(text), text);
});

test('the verdict names its reason in the order of the checks', () => {
  const reason = (policy: boolean, packet: Partial<Packet>) =>
    evaluate({ allowInternet: policy }, { ...out, destination: '8.8.8.8', ...packet }, place).reason;
  assert.equal(reason(true, { source: '8.8.4.4', destination: '10.0.0.1' }), 'spoofed');
  assert.equal(reason(false, { destination: '169.254.169.254' }), 'hard-deny');
  assert.equal(reason(false, { destination: '203.0.113.2' }), 'host');
  assert.equal(reason(false, { flow: 'current' }), 'policy');
  assert.equal(reason(true, { flow: 'stale' }), 'stale');
  assert.equal(reason(true, { flow: 'stale', protocol: 'udp' }), 'allowed');
  assert.equal(reason(true, { opening: false }), 'not-opening');
  assert.equal(reason(true, { direction: 'inbound', source: '8.8.8.8', destination: place.address }), 'unsolicited');
});
