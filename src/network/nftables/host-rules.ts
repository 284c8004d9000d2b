/**
 * The one table that Coppice owns in the host's own namespace. It sees only packets of our veth; other tables are never
 * read or written. `accept` here ends this table's say, not another's.
 */
import { HARD_DENIES } from '../policy.ts';
import { type FabricConfig, GUARD_CHAIN, VETH_PREFIX, type VethAddresses } from './config.ts';
import { timeoutObject } from './ruleset.ts';

/**
 * Replaces the table in one transaction. The checks before routing come before anybody's DNAT, so a port published by
 * another program on the host's own address is not a way in. With `guard` (we turned IPv4 forwarding on) the host goes on
 * forwarding nothing for anybody else, as it did before.
 */
export function hostRuleset(config: FabricConfig, addresses: VethAddresses, guard: boolean): string {
  const { veth, hostTable } = config;
  return `table inet ${hostTable}
delete table inet ${hostTable}
table inet ${hostTable} {
  ${timeoutObject()}
  set denied {
    type ipv4_addr
    flags interval
    elements = { ${HARD_DENIES.join(', ')} }
  }
  chain prerouting {
    type filter hook prerouting priority raw
    policy accept
    iifname != "${veth}" accept
    meta nfproto != ipv4 drop
    ip saddr != ${addresses.uplink} drop
    ip daddr @denied drop
    fib daddr type != unicast drop
  }
  chain input {
    type filter hook input priority filter
    policy accept
    iifname "${veth}" drop
  }
  chain forward {
    type filter hook forward priority filter
    policy accept
    iifname "${veth}" goto outbound
    oifname "${veth}" goto inbound
${guard ? `    goto ${GUARD_CHAIN}\n` : ''}  }
  chain outbound {
    oifname "${VETH_PREFIX}*" drop
    ip daddr @denied drop
    ct state new meta l4proto tcp ct timeout set "idle"
    ct state new,established,related accept
    drop
  }
  chain inbound {
    ct state established,related accept
    drop
  }
${guard ? `  chain ${GUARD_CHAIN} {\n    iifname "${VETH_PREFIX}*" accept\n    oifname "${VETH_PREFIX}*" accept\n    drop\n  }\n` : ''}  chain postrouting {
    type nat hook postrouting priority srcnat
    policy accept
    ip saddr ${addresses.uplink} oifname != "${veth}" masquerade
  }
}
`;
}

/** Removes the table; no error when it is not there. */
export function removeHostRuleset(config: FabricConfig): string {
  return `table inet ${config.hostTable}\ndelete table inet ${config.hostTable}\n`;
}
