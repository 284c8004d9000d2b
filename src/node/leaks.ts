/** Counts what is on the host in this home's name and is accounted for by nobody. */
import type { LeakReport } from '../contract/node-api.ts';
import type { Backends } from '../isolation/backends.ts';
import type { NetworkFabric } from '../network/fabric.ts';

/**
 * `known`: ids of the machines that have a row, asked before the host is counted and after: what was made or ended meanwhile is
 * in one of the two. `files`: what was found to belong to nobody already.
 */
export async function takeCensus(
  backends: Backends,
  fabric: NetworkFabric,
  machinesFolder: string,
  known: () => Iterable<string>,
  files: readonly string[] = [],
): Promise<LeakReport> {
  const ids = new Set(known());
  const before = await fabric.leased();
  const items = await backends.census(machinesFolder);
  const network = await fabric.census();
  const after = await fabric.leased();
  for (const id of known()) ids.add(id);
  const strays = items.filter((item) => !ids.has(item.id));
  const ours = [...before, ...after].filter((one) => ids.has(one.id));
  const ports = network.ports.filter((port) => !ours.some((one) => one.port === port || one.namespace === port));
  const addresses = network.addresses.filter((address) => !ours.some((one) => address === one.address));
  const rules = network.rules.filter((rule) => !ours.some((one) => rule.split(' ').includes(one.port)));
  const count = (kind: string): number => strays.filter((item) => item.kind === kind).length;
  return {
    processes: count('process'),
    taps: ports.length,
    addresses: addresses.length,
    rules: rules.length,
    mounts: count('mount'),
    files: count('file') + files.length,
    cgroups: count('cgroup'),
    details: [
      ...strays.map((item) => `${item.kind} ${item.id}: ${item.detail}`),
      ...files.map((name) => `file ${name}: of no row`),
      ...ports.map((port) => `port ${port}`),
      ...addresses.map((address) => `address ${address}`),
      ...rules.map((rule) => `rule ${rule}`),
    ],
  };
}
