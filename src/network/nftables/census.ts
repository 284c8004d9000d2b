/** Counts what the kernel holds for sandboxes, without asking the journal: what a leak check needs. */
import type { Commands } from './commands.ts';
import { isTapName, TABLE } from './config.ts';

export interface Census {
  readonly taps: readonly string[];
  /** Routed to a tap, dotted. */
  readonly addresses: readonly string[];
  /** Elements that sandboxes have in our sets, e.g. `inet sources cp7 10.4.1.9`. */
  readonly rules: readonly string[];
}

export const EMPTY_CENSUS: Census = { taps: [], addresses: [], rules: [] };

const SETS: Readonly<Record<string, readonly string[]>> = { inet: ['sources', 'internet', 'flows'], arp: ['sources'] };

export async function takeCensus(inside: Commands): Promise<Census> {
  const [links, routes, inet, arp] = await Promise.all([
    inside.links(),
    inside.ipList(['-4', 'route', 'show']),
    inside.nftList(['list', 'table', 'inet', TABLE]),
    inside.nftList(['list', 'table', 'arp', TABLE]),
  ]);
  return {
    taps: links.map((link) => link.name).filter(isTapName),
    addresses: routes
      .filter((route) => isTapName(String(route.dev)))
      .map((route) => String(route.dst))
      .sort(),
    rules: [...(inet ?? []), ...(arp ?? [])].flatMap(elements).sort(),
  };
}

/** nft prints an element as a value, `{ concat: [...] }`, or in a map as `[key, value]`. */
function elements(object: Record<string, unknown>): string[] {
  const set = (object.set ?? object.map) as { family: string; name: string; elem?: unknown[] } | undefined;
  if (!set || !SETS[set.family]?.includes(set.name)) return [];
  return (set.elem ?? []).map((element) => {
    const parts = Array.isArray(element) ? element : ((element as { concat?: unknown[] }).concat ?? [element]);
    return [set.family, set.name, ...parts].join(' ');
  });
}
