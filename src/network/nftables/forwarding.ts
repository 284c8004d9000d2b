/**
 * IPv4 forwarding of the host: turned on with the first policy that lets a sandbox out, and off again at stop when it was
 * we who turned it on. While it is on because of us, the host table forwards nothing for anybody else.
 */
import { readFile, writeFile } from 'node:fs/promises';
import type { Commands } from './commands.ts';
import { type FabricConfig, GUARD_CHAIN, VETH_PREFIX, type VethAddresses } from './config.ts';
import { hostRuleset } from './host-rules.ts';
import type { Journal } from './journal.ts';

const SWITCH = '/proc/sys/net/ipv4/ip_forward';

export interface Forwarding {
  /** Idempotent. The intent is in the journal and the guard in the kernel before the switch is turned. */
  turnOn(addresses: VethAddresses, journal: Journal): Promise<void>;
  /** To be called after our veth is gone. False when it was left on because another fabric still needs it. */
  restore(journal: Journal): Promise<boolean>;
}

export function createForwarding(config: FabricConfig, host: Commands): Forwarding {
  let foundOn = false;
  let turning: Promise<void> | undefined;

  async function turn(addresses: VethAddresses, journal: Journal): Promise<void> {
    const isOn = (await readFile(SWITCH, 'utf8')).trim() !== '0';
    if (isOn && (journal.state.forwardingWasOff || foundOn)) return;
    // Another fabric of this host turned it on: whichever of us stops last turns it off.
    foundOn = isOn && !(await anotherTurnedItOn(config, host));
    if (foundOn) return;
    journal.state.forwardingWasOff = true;
    await journal.save();
    await host.nft(hostRuleset(config, addresses, true));
    if (!isOn) await writeFile(SWITCH, '1\n');
  }

  return {
    turnOn(addresses, journal) {
      turning ??= turn(addresses, journal).finally(() => {
        turning = undefined;
      });
      return turning;
    },

    async restore(journal) {
      foundOn = false;
      if (!journal.state.forwardingWasOff) return true;
      const links = await host.links();
      const others = links.some((link) => link.name.startsWith(VETH_PREFIX) && link.name !== config.veth);
      if (!others) await writeFile(SWITCH, '0\n');
      journal.state.forwardingWasOff = false;
      await journal.save();
      return !others;
    },
  };
}

async function anotherTurnedItOn(config: FabricConfig, host: Commands): Promise<boolean> {
  const objects = (await host.nftList(['list', 'chains'])) ?? [];
  return objects.some((object) => {
    const chain = object.chain as { table?: string; name?: string } | undefined;
    return chain?.name === GUARD_CHAIN && chain.table?.startsWith('coppice_') && chain.table !== config.hostTable;
  });
}
