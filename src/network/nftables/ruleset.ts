/** The policy of policy.ts as nftables rules for inside the namespace: everything not allowed here is dropped. */

import { SERVICE_PORT } from '../fabric.ts';
import { parseAddress } from '../ipv4.ts';
import { HARD_DENIES } from '../policy.ts';
import {
  checkPort,
  FLOW_LIMIT,
  GATEWAY,
  SERVICE_RATE,
  TABLE,
  TCP_ESTABLISHED_TIMEOUT,
  TCP_TIME_WAIT_TIMEOUT,
  UPLINK,
} from './config.ts';
import { type Lease, MARK_LIMIT } from './journal.ts';

/** What the rules need to know of a lease. `mark` 0: nothing may leave. */
export type Subject = Pick<Lease, 'port' | 'address' | 'mark' | 'served'>;

/** Replaces the namespace's tables with exactly these, in one transaction; no packet sees a state in between. */
export function namespaceRuleset(subjects: readonly Subject[]): string {
  const base = `table inet ${TABLE}
delete table inet ${TABLE}
table arp ${TABLE}
delete table arp ${TABLE}
table inet ${TABLE} {
  ${timeoutObject()}
  set denied {
    type ipv4_addr
    flags interval
    elements = { ${HARD_DENIES.join(', ')} }
  }
  # Which port may send from which address.
  set sources {
    type ifname . ipv4_addr
  }
  # Ports whose policy lets them out, with the mark that this grant puts on the flows they open.
  map internet {
    type ifname : mark
  }
  # The grants in force. A flow whose mark is not here was opened under a policy, or by a holder of the address, that is
  # gone: it is cut in both directions without touching connection tracking.
  set flows {
    type ifname . mark
  }
  # Ports that may reach what the host serves.
  set served {
    type ifname
  }
  set busy {
    type ifname
    size 65535
    flags dynamic
  }
  set opening {
    type ifname
    size 65535
    flags dynamic
  }
  chain prerouting {
    type filter hook prerouting priority raw
    policy drop
    meta nfproto != ipv4 drop
    iifname "${UPLINK}" accept
    iifname . ip saddr @sources accept
  }
  # The namespace itself has one service, for those that are told to have it.
  chain input {
    type filter hook input priority filter
    policy drop
    iifname @served ip daddr ${GATEWAY} tcp dport ${SERVICE_PORT} goto service
  }
  chain service {
    ct state invalid drop
    ct state new add @busy { iifname ct count over ${FLOW_LIMIT} } drop
    ct state new add @opening { iifname limit rate over ${SERVICE_RATE}/second burst ${2 * SERVICE_RATE} packets } drop
    ct state new ct timeout set "idle"
    accept
  }
  # It answers those, sends refusals and path errors towards sandboxes, and nothing else.
  chain output {
    type filter hook output priority filter
    policy drop
    oifname @served ip saddr ${GATEWAY} tcp sport ${SERVICE_PORT} ct state established accept
    oifname "cp*" meta l4proto icmp ct state related accept
    oifname "cp*" tcp flags & rst == rst accept
  }
  chain forward {
    type filter hook forward priority filter
    policy drop
    ct state invalid drop
    tcp flags & (syn | rst) == syn tcp option maxseg size set rt mtu
    iifname "${UPLINK}" oifname . ct mark @flows ct state established,related accept
    iifname "${UPLINK}" drop
    ip daddr @denied goto refuse
    oifname != "${UPLINK}" goto refuse
    iifname . ct mark @flows ct state established,related accept
    meta l4proto tcp ct state != new goto refuse
    meta l4proto tcp tcp flags & (fin | syn | rst | ack) != syn drop
    ct mark set iifname map @internet
    iifname . ct mark != @flows goto refuse
    ct state new add @busy { iifname ct count over ${FLOW_LIMIT} } goto refuse
    ct state new meta l4proto tcp ct timeout set "idle"
    accept
  }
  # Says no at once, so that a program in the sandbox fails now instead of waiting for a timeout.
  chain refuse {
    meta l4proto tcp reject with tcp reset
    reject with icmp admin-prohibited
  }
  chain postrouting {
    type nat hook postrouting priority srcnat
    oifname "${UPLINK}" masquerade
  }
}
# A guest may ask for its gateway and answer for itself: no entry for any other address gets into the host-wide
# neighbour table.
table arp ${TABLE} {
  set sources {
    type ifname . ipv4_addr
  }
  chain input {
    type filter hook input priority 0
    policy drop
    iifname "${UPLINK}" accept
    arp daddr ip ${GATEWAY} iifname . arp saddr ip @sources accept
  }
}
`;
  return base + addSubjects(subjects).join('\n');
}

/** A `ct timeout` for TCP, inside a table: gone flows leave the tables of namespace and host in bounded time. */
export function timeoutObject(): string {
  return `ct timeout idle {
    protocol tcp
    l3proto ip
    policy = { established : ${TCP_ESTABLISHED_TIMEOUT}, time_wait : ${TCP_TIME_WAIT_TIMEOUT} }
  }`;
}

/** Lines that make the ports known, denied or granted as they say. */
export function addSubjects(subjects: readonly Subject[]): string[] {
  if (subjects.length === 0) return [];
  const sources = subjects.map((subject) => `"${checkPort(subject.port)}" . ${checkAddress(subject.address)}`);
  return [
    `add element inet ${TABLE} sources { ${sources.join(', ')} }`,
    `add element arp ${TABLE} sources { ${sources.join(', ')} }`,
    ...grant(subjects.filter((subject) => subject.mark !== 0)),
    ...openService(subjects.filter(({ served }) => served)),
  ];
}

/** Lines that let the subjects reach what the host serves. */
export function openService(subjects: readonly Subject[]): string[] {
  if (subjects.length === 0) return [];
  return [`add element inet ${TABLE} served { ${subjects.map(({ port }) => `"${checkPort(port)}"`).join(', ')} }`];
}

/** Lines that undo addSubjects; the subjects must be there as they say. */
export function removeSubjects(subjects: readonly Subject[]): string[] {
  return addSubjects(subjects)
    .map((line) => line.replace(/^add /, 'delete '))
    .reverse();
}

/** Lines that let the subjects out under their marks. */
export function grant(subjects: readonly Subject[]): string[] {
  if (subjects.length === 0) return [];
  const map = subjects.map((subject) => `"${checkPort(subject.port)}" : ${checkMark(subject.mark)}`);
  const flows = subjects.map((subject) => `"${subject.port}" . ${subject.mark}`);
  return [
    `add element inet ${TABLE} internet { ${map.join(', ')} }`,
    `add element inet ${TABLE} flows { ${flows.join(', ')} }`,
  ];
}

/** Lines that undo grant: nothing new leaves, and flows opened under these marks are cut. */
export function revoke(subjects: readonly Subject[]): string[] {
  return grant(subjects).map((line) => line.replace(/^add /, 'delete '));
}

function checkMark(mark: number): number {
  if (!Number.isInteger(mark) || mark < 1 || mark > MARK_LIMIT) throw new RangeError(`not a mark: ${mark}`);
  return mark;
}

function checkAddress(address: string): string {
  if (parseAddress(address) === undefined) throw new RangeError(`not an address: ${address}`);
  return address;
}
