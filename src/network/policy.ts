/**
 * What a sandbox may send and receive, as a pure model: the order of the checks, the ranges that no policy opens, and a
 * reference evaluator. Backends compile the same order to their own rules, and tests hold the two against each other.
 *
 * Order: form (family, source) > hard deny > policy > flow. NAT comes after the verdict, never before.
 */
import type { EgressPolicy } from './fabric.ts';
import { contains, parseAddress, parseRange, type Range } from './ipv4.ts';

/**
 * Never reachable from a sandbox, whatever its policy: this network, private and shared address space, loopback,
 * link-local with the metadata services, IETF protocol assignments, benchmarking, multicast, reserved and broadcast
 * (IANA IPv4 special-purpose registry). The documentation ranges (TEST-NET) are not routed anywhere and not listed.
 */
export const HARD_DENIES = [
  '0.0.0.0/8',
  '10.0.0.0/8',
  '100.64.0.0/10',
  '127.0.0.0/8',
  '169.254.0.0/16',
  '172.16.0.0/12',
  '192.0.0.0/24',
  '192.168.0.0/16',
  '198.18.0.0/15',
  '224.0.0.0/4',
  '240.0.0.0/4',
] as const;

const HARD_DENY_RANGES: readonly Range[] = HARD_DENIES.map((text) => parseRange(text)!);

/** One packet at the door between a sandbox and the rest of the world. */
export interface Packet {
  readonly family: 4 | 6;
  /** Seen from the sandbox. */
  readonly direction: 'outbound' | 'inbound';
  /** Dotted IPv4. Ignored for family 6. */
  readonly source: string;
  readonly destination: string;
  readonly protocol: 'tcp' | 'udp' | 'icmp' | 'other';
  /**
   * What connection tracking says: `new` opens a flow, `current` belongs to a flow that the sandbox opened under the
   * policy in force, `stale` to one opened under an earlier policy or by an earlier holder of the address, `invalid`
   * to none.
   */
  readonly flow: 'new' | 'current' | 'stale' | 'invalid';
  /** TCP: SYN set and ACK, RST, FIN clear. */
  readonly opening?: boolean;
}

/** Where the sandbox stands. */
export interface Place {
  /** The sandbox's own address. */
  readonly address: string;
  /** Addresses of the host itself, public ones included. */
  readonly hostAddresses: readonly string[];
}

export type VerdictReason =
  | 'family'
  | 'spoofed'
  | 'hard-deny'
  | 'host'
  | 'policy'
  | 'invalid'
  | 'stale'
  | 'unsolicited'
  | 'not-opening'
  | 'allowed';

export interface Verdict {
  readonly allowed: boolean;
  readonly reason: VerdictReason;
}

/** True for an address that no policy opens; malformed addresses are denied. */
export function isHardDenied(address: string): boolean {
  const value = parseAddress(address);
  return value === undefined || HARD_DENY_RANGES.some((range) => contains(range, value));
}

/** The reference: what every backend's rules must answer for this packet. */
export function evaluate(policy: EgressPolicy, packet: Packet, place: Place): Verdict {
  const reason = packet.direction === 'outbound' ? outbound(policy, packet, place) : inbound(policy, packet, place);
  return { allowed: reason === 'allowed', reason };
}

function outbound(policy: EgressPolicy, packet: Packet, place: Place): VerdictReason {
  if (packet.family !== 4) return 'family';
  if (packet.source !== place.address) return 'spoofed';
  if (isHardDenied(packet.destination)) return 'hard-deny';
  if (place.hostAddresses.includes(packet.destination)) return 'host';
  if (!policy.allowInternet) return 'policy';
  if (packet.flow === 'invalid') return 'invalid';
  if (packet.flow === 'current') return 'allowed';
  // A stateless protocol's packet on a stale flow counts as a new flow under the policy in force; a TCP stream does not.
  if (packet.protocol !== 'tcp') return 'allowed';
  if (packet.flow === 'stale') return 'stale';
  return packet.opening === true ? 'allowed' : 'not-opening';
}

function inbound(policy: EgressPolicy, packet: Packet, place: Place): VerdictReason {
  if (packet.family !== 4) return 'family';
  if (packet.destination !== place.address) return 'spoofed';
  if (!policy.allowInternet) return 'policy';
  if (packet.flow === 'current') return 'allowed';
  return packet.flow === 'new' ? 'unsolicited' : packet.flow;
}
