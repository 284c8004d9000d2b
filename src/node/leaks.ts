/** Counts what is on the host in this home's name and is accounted for by nobody. */
import type { LeakReport } from '../contract/node-api.ts';
import type { IsolationBackend } from '../isolation/backend.ts';
import type { NetworkFabric } from '../network/fabric.ts';

/** `known`: ids of the machines that have a row. */
export async function takeCensus(
  backend: IsolationBackend,
  fabric: NetworkFabric,
  machinesFolder: string,
  known: ReadonlySet<string>,
): Promise<LeakReport> {
  const strays = (await backend.census(machinesFolder)).filter((item) => !known.has(item.id));
  const attachments = await fabric.attached();
  const ours = attachments.filter((one) => known.has(one.id));
  const network = await fabric.census();
  const taps = network.taps.filter((tap) => !ours.some((one) => one.tap === tap));
  const addresses = network.addresses.filter((address) => !ours.some((one) => address.includes(one.address)));
  const rules = network.rules.filter((rule) => !ours.some((one) => rule.includes(one.tap)));
  const count = (kind: string): number => strays.filter((item) => item.kind === kind).length;
  return {
    processes: count('process'),
    taps: taps.length,
    addresses: addresses.length,
    rules: rules.length,
    mounts: count('mount'),
    files: count('file'),
    cgroups: count('cgroup'),
    details: [
      ...strays.map((item) => `${item.kind} ${item.id}: ${item.detail}`),
      ...taps.map((tap) => `tap ${tap}`),
      ...addresses.map((address) => `address ${address}`),
      ...rules.map((rule) => `rule ${rule}`),
    ],
  };
}
