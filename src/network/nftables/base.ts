/** The parts that every sandbox shares: the namespace, its rules and settings, and the veth that leads out. */
import { rm, statfs, writeFile } from 'node:fs/promises';
import type { Commands } from './commands.ts';
import { type FabricConfig, UPLINK, type VethAddresses } from './config.ts';
import { deletePorts, findPorts, isNamespace } from './ports.ts';
import { run, tryRun } from './run.ts';

/** In the order they are written: ip_forward first, for the kernel resets others when it changes. */
const SETTINGS = [
  'net.ipv4.ip_forward=1',
  ...['all', 'default'].flatMap((scope) => [
    `net.ipv4.conf.${scope}.rp_filter=1`,
    `net.ipv4.conf.${scope}.accept_redirects=0`,
    `net.ipv4.conf.${scope}.secure_redirects=0`,
    `net.ipv4.conf.${scope}.send_redirects=0`,
    `net.ipv4.conf.${scope}.accept_source_route=0`,
    `net.ipv4.conf.${scope}.proxy_arp=0`,
    `net.ipv4.conf.${scope}.arp_ignore=1`,
    `net.ipv4.conf.${scope}.arp_announce=2`,
  ]),
];
const NO_IPV6 = ['net.ipv6.conf.all.disable_ipv6=1', 'net.ipv6.conf.default.disable_ipv6=1'];

export async function ensureNamespace(config: FabricConfig, signal?: AbortSignal): Promise<void> {
  if (await isNamespace(config.namespacePath)) return;
  await rm(config.namespacePath, { force: true });
  await run(['ip', 'netns', 'add', config.namespace], { signal });
}

/** To be called with the rules already in force: this turns forwarding on inside the namespace. */
export async function applySettings(inside: Commands, signal?: AbortSignal): Promise<void> {
  await inside.sysctl(SETTINGS, signal);
  // A kernel without IPv6 has no such keys, and no IPv6 to turn off.
  if (await kernelHas('/proc/sys/net/ipv6')) await inside.sysctl(NO_IPV6, signal);
}

/** Makes the veth, or makes it right. Its MTU is that of the host's way out, so that the guest's TCP is clamped to it. */
export async function ensureVeth(
  config: FabricConfig,
  addresses: VethAddresses,
  host: Commands,
  inside: Commands,
  signal?: AbortSignal,
): Promise<{ readonly mtu: number }> {
  const mtu = await wayOutMtu(host);
  const [outer, inner] = await Promise.all([host.links(), inside.links()]);
  const hasOuter = outer.some((link) => link.name === config.veth);
  const hasInner = inner.some((link) => link.name === UPLINK);
  if (!hasOuter || !hasInner || !(await isAddressed(config, addresses, host))) {
    if (hasOuter) await host.ipForce([`link del dev ${config.veth}`]);
    if (hasInner) await inside.ipForce([`link del dev ${UPLINK}`]);
    await host.ip([`link add name ${config.veth} type veth peer name ${UPLINK} netns ${config.namespace}`], signal);
  }
  for (const key of [`ipv6/conf/${config.veth}/disable_ipv6`, `ipv4/conf/${config.veth}/rp_filter`])
    if (await kernelHas(`/proc/sys/net/${key}`)) await writeFile(`/proc/sys/net/${key}`, '1\n');
  await host.ip(
    [
      `link set dev ${config.veth} mtu ${mtu}`,
      `addr replace ${addresses.host}/30 dev ${config.veth}`,
      `link set dev ${config.veth} up`,
    ],
    signal,
  );
  await inside.ip(
    [
      `link set dev ${UPLINK} mtu ${mtu}`,
      `addr replace ${addresses.uplink}/30 dev ${UPLINK}`,
      `link set dev ${UPLINK} up`,
      `route replace default via ${addresses.host} dev ${UPLINK}`,
    ],
    signal,
  );
  return { mtu };
}

/**
 * Removes the namespace with everything in it, the namespaces of sandboxes, and the veth. Devices go first, by name: a
 * process that still stands in the namespace keeps it alive without its name.
 */
export async function removeNamespace(config: FabricConfig, host: Commands, inside: Commands): Promise<void> {
  const there = await isNamespace(config.namespacePath);
  const found = await findPorts(config, inside);
  const namespaces = [...found.namespaces.keys()];
  await deletePorts(config, [...found.interfaces.keys()], namespaces, there ? inside : host);
  if (there) {
    await inside.ipForce([`link del dev ${UPLINK}`]);
    await inside.sysctl(['net.ipv4.ip_forward=0']);
  }
  if ((await host.links()).some((link) => link.name === config.veth)) await host.ip([`link del dev ${config.veth}`]);
  const removed = await tryRun(['ip', 'netns', 'del', config.namespace]);
  if (removed.code !== 0 && (await isNamespace(config.namespacePath)))
    throw new Error(`namespace ${config.namespace} could not be removed: ${removed.stderr.trim()}`);
}

async function isAddressed(config: FabricConfig, addresses: VethAddresses, host: Commands): Promise<boolean> {
  const [link] = await host.ipList(['-4', 'addr', 'show', 'dev', config.veth]);
  const found = (link?.addr_info ?? []) as { local?: string; prefixlen?: number }[];
  return found.length === 0 || (found.length === 1 && found[0]?.local === addresses.host && found[0].prefixlen === 30);
}

async function wayOutMtu(host: Commands): Promise<number> {
  const [route] = await host.ipList(['-4', 'route', 'show', 'default']);
  const link = (await host.links()).find(({ name }) => name === route?.dev);
  return Math.min(Math.max(link?.mtu ?? 1500, 576), 65_535);
}

async function kernelHas(path: string): Promise<boolean> {
  return statfs(path).then(
    () => true,
    () => false,
  );
}
