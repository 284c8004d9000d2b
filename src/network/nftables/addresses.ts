/** Which addresses a fabric uses: one /16 that clashes with no route of the host, and sandboxes' places in it. */
import { createHash } from 'node:crypto';
import { CoppiceError } from '../../contract/errors.ts';
import { formatAddress, overlaps, parseAddress, parseRange, type Range } from '../ipv4.ts';
import type { JournalState } from './journal.ts';

/** All inside ranges that policy.ts denies, so that no sandbox reaches another's address by way of the uplink. */
const CANDIDATES: readonly { readonly first: string; readonly count: number }[] = [
  { first: '10.0.0.0', count: 256 },
  { first: '172.16.0.0', count: 16 },
  { first: '100.64.0.0', count: 64 },
  { first: '198.18.0.0', count: 2 },
];

/** Last octets 1 to 254 of third octets 1 to 255: the /30 of the veth is in third octet 0. */
export const POOL_SIZE = 255 * 254;

/**
 * Base of a /16 that overlaps none of `routes` (the default route not counted). Where a route covers every candidate, one
 * that is covered only by wider routes: ours is more specific. Instances begin their search at different places.
 */
export function chooseSubnet(instance: string, routes: readonly Range[]): number {
  const bases = CANDIDATES.flatMap(({ first, count }) => {
    const start = createHash('sha256').update(instance).digest().readUInt32BE() % count;
    return Array.from({ length: count }, (_, step) => parseAddress(first)! + ((start + step) % count) * 65_536);
  });
  const used = routes.filter((route) => route.prefix > 0);
  const clashes = (base: number, among: readonly Range[]) =>
    among.some((route) => overlaps({ base, prefix: 16 }, route));
  const free =
    bases.find((base) => !clashes(base, used)) ??
    bases.find(
      (base) =>
        !clashes(
          base,
          used.filter((route) => route.prefix >= 16),
        ),
    );
  if (free === undefined)
    throw new CoppiceError('host_unfit', 'every private /16 clashes with a route of this host; free one');
  return free;
}

/** The address at a place in the pool, 0 to POOL_SIZE - 1. */
export function poolAddress(subnet: number, place: number): string {
  return formatAddress(subnet + (1 + Math.floor(place / 254)) * 256 + 1 + (place % 254));
}

/** The next free address; moves the cursor, so that a freed address is used again only after all others. */
export function takeAddress(state: JournalState): string {
  const subnet = parseAddress(state.subnet ?? '');
  if (subnet === undefined) throw new CoppiceError('unavailable', 'the network is not started');
  const taken = new Set(state.leases.map((lease) => lease.address));
  for (let step = 0; step < POOL_SIZE; step++) {
    const place = (state.cursor + step) % POOL_SIZE;
    const address = poolAddress(subnet, place);
    if (taken.has(address)) continue;
    state.cursor = (place + 1) % POOL_SIZE;
    return address;
  }
  throw new CoppiceError('capacity', 'no sandbox address is left');
}

/** Reads `ip -j -4 route show table all`; routes through `ownDevice` are not counted. */
export function parseRoutes(list: readonly Record<string, unknown>[], ownDevice: string): Range[] {
  return list.flatMap((route) => {
    if (route.dev === ownDevice || typeof route.dst !== 'string') return [];
    const range = parseRange(route.dst === 'default' ? '0.0.0.0/0' : route.dst);
    return range ? [range] : [];
  });
}
