/** Which subnet a fabric takes, and which address a sandbox gets. */
import assert from 'node:assert/strict';
import test from 'node:test';
import fc from 'fast-check';
import { contains, formatAddress, overlaps, parseAddress, parseRange, type Range } from '../../src/network/ipv4.ts';
import {
  chooseSubnet,
  POOL_SIZE,
  parseRoutes,
  poolAddress,
  takeAddress,
} from '../../src/network/nftables/addresses.ts';
import { vethAddresses } from '../../src/network/nftables/config.ts';
import type { JournalState } from '../../src/network/nftables/journal.ts';
import { isHardDenied } from '../../src/network/policy.ts';

const range = (text: string) => parseRange(text)!;
const state = (cursor: number, taken: string[]): JournalState => ({
  version: 2,
  instance: 'a',
  bootId: 'x',
  subnet: '10.5.0.0',
  nextLease: 1,
  nextMark: 1,
  cursor,
  forwardingWasOff: false,
  leases: taken.map((address, index) => ({
    id: `${index}`,
    kind: 'tap',
    port: `cp${index + 1}`,
    address,
    state: 'attached',
    mark: 0,
  })),
});

test('the subnet overlaps no route of the host', () => {
  const routes = fc.array(
    fc.record({ third: fc.integer({ min: 0, max: 255 }), prefix: fc.integer({ min: 16, max: 32 }) }),
    {
      maxLength: 200,
    },
  );
  fc.assert(
    fc.property(fc.stringMatching(/^[a-z0-9]{1,8}$/), routes, (instance, list) => {
      const ranges = list.map(({ third, prefix }): Range => ({ base: ((10 << 24) | (third << 16)) >>> 0, prefix }));
      const subnet: Range = { base: chooseSubnet(instance, ranges), prefix: 16 };
      assert.ok(!ranges.some((route) => overlaps(route, subnet)));
      assert.ok(isHardDenied(formatAddress(subnet.base)));
    }),
  );
});

test('where a wide route covers all, one under it is taken; where all is taken, it says so', () => {
  const wide = ['10.0.0.0/8', '172.16.0.0/12', '100.64.0.0/10', '198.18.0.0/15', '0.0.0.0/0'].map(range);
  const base = chooseSubnet('a', wide);
  assert.notEqual(chooseSubnet('a', [...wide, { base, prefix: 24 }]), base);
  const all = Array.from({ length: 65_536 }, (_, high) => ({ base: high * 65_536, prefix: 16 }));
  assert.throws(() => chooseSubnet('a', all), /clashes with a route/);
});

test('routes are read as ip prints them; our own device does not count', () => {
  const list = [
    { dst: 'default', dev: 'eth0' },
    { dst: '10.0.0.0/8', dev: 'wg0' },
    { type: 'local', dst: '192.0.2.2', dev: 'eth0' },
    { dst: '10.7.0.0/30', dev: 'cpv-a' },
    { dst: 'fe80::/64', dev: 'eth0' },
    { dev: 'eth0' },
  ];
  assert.deepEqual(parseRoutes(list, 'cpv-a'), ['0.0.0.0/0', '10.0.0.0/8', '192.0.2.2/32'].map(range));
});

test('pool addresses are distinct, inside the subnet, and clear of the veth', () => {
  const base = parseAddress('10.5.0.0')!;
  const seen = new Set(Array.from({ length: POOL_SIZE }, (_, place) => poolAddress(base, place)));
  assert.equal(seen.size, POOL_SIZE);
  const veth = vethAddresses(base);
  for (const address of [veth.network, veth.host, veth.uplink]) assert.ok(!seen.has(address));
  for (const address of seen) {
    assert.ok(contains({ base, prefix: 16 }, parseAddress(address)!));
    assert.doesNotMatch(address, /\.(0|255)$/);
  }
});

test('a freed address comes back only after all others', () => {
  const journal = state(0, []);
  const first = takeAddress(journal);
  for (let turn = 1; turn < POOL_SIZE; turn++) assert.notEqual(takeAddress(journal), first);
  assert.equal(takeAddress(journal), first);
});

test('a taken address is passed over, and a full pool is refused', () => {
  const base = parseAddress('10.5.0.0')!;
  const journal = state(POOL_SIZE - 1, [poolAddress(base, POOL_SIZE - 1), poolAddress(base, 0)]);
  assert.equal(takeAddress(journal), poolAddress(base, 1));
  const full = state(
    0,
    Array.from({ length: POOL_SIZE }, (_, place) => poolAddress(base, place)),
  );
  assert.throws(() => takeAddress(full), { code: 'capacity' });
});
