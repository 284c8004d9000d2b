/** Counts what the kernel holds for sandboxes, without asking the journal: what a leak check needs. */
import type { Commands } from './commands.ts';
import { type FabricConfig, isPortName, namespacePath, sandboxNamespace, TABLE } from './config.ts';
import { findPorts, isNamespace } from './ports.ts';

export interface Census {
  /** Interfaces in the fabric's namespace by name, namespaces of sandboxes by path. */
  readonly ports: readonly string[];
  /** Routed to a port, dotted. */
  readonly addresses: readonly string[];
  /** Elements that sandboxes have in our sets, e.g. `inet sources cp7 10.4.1.9`. */
  readonly rules: readonly string[];
}

const SETS: Readonly<Record<string, readonly string[]>> = { inet: ['sources', 'internet', 'flows'], arp: ['sources'] };

/** Namespaces of sandboxes are counted even where the fabric's own is gone. */
export async function takeCensus(config: FabricConfig, inside: Commands): Promise<Census> {
  const there = await isNamespace(config.namespacePath);
  const [found, routes, inet, arp] = await Promise.all([
    findPorts(config, inside),
    there ? inside.ipList(['-4', 'route', 'show']) : [],
    there ? inside.nftList(['list', 'table', 'inet', TABLE]) : [],
    there ? inside.nftList(['list', 'table', 'arp', TABLE]) : [],
  ]);
  return {
    ports: [
      ...found.interfaces.keys(),
      ...[...found.namespaces.keys()].map((port) => namespacePath(sandboxNamespace(config, port))),
    ],
    addresses: routes
      .filter((route) => isPortName(String(route.dev)))
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
