/** The parts that every sandbox shares: the namespace, its rules and settings, and the veth that leads out. */
import { rm, statfs, writeFile } from 'node:fs/promises';
import type { Commands } from './commands.ts';
import { checkTap, type FabricConfig, GATEWAY, isTapName, UPLINK, type VethAddresses } from './config.ts';
import type { Lease } from './journal.ts';
import { run, tryRun } from './run.ts';

/** f_type of a mounted namespace, NSFS_MAGIC in linux/magic.h. */
const NSFS_MAGIC = 0x6e736673;

/** Device group of taps that are to be deleted; nothing else in the namespace is ever in it. */
const DOOMED_GROUP = 9;

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

/** True when the namespace's name leads to a live namespace, not to a file left by an interrupted `ip netns`. */
export async function namespaceExists(config: FabricConfig): Promise<boolean> {
  try {
    return (await statfs(config.namespacePath)).type === NSFS_MAGIC;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return false;
    throw error;
  }
}

export async function ensureNamespace(config: FabricConfig, signal?: AbortSignal): Promise<void> {
  if (await namespaceExists(config)) return;
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

/** `ip -batch` lines that make a tap. */
export function tapLines(lease: Lease, mtu: number): string[] {
  return [
    `tuntap add dev ${lease.tap} mode tap${lease.uid === undefined ? '' : ` user ${lease.uid}`}`,
    ...tapAddressLines(lease, mtu),
  ];
}

/** `ip -batch` lines that make an existing tap right. */
export function tapAddressLines(lease: Lease, mtu: number): string[] {
  return [
    `link set dev ${lease.tap} mtu ${mtu} up`,
    `addr replace ${GATEWAY}/32 dev ${lease.tap} scope link`,
    `route replace ${lease.address}/32 dev ${lease.tap}`,
  ];
}

/**
 * Deletes taps, whoever holds them open; those that are not there count as deleted. Throws when one is left. They are put
 * in a device group and the group is deleted: the kernel waits out its grace period once, not once for each.
 */
export async function deleteTaps(taps: readonly string[], inside: Commands): Promise<void> {
  if (taps.length === 0) return;
  const marking = taps.map((tap) => `link set dev ${checkTap(tap)} group ${DOOMED_GROUP}`);
  if (await inside.ipForce([...marking, `link del group ${DOOMED_GROUP}`])) return;
  const left = (await inside.links()).filter((link) => taps.includes(link.name));
  if (left.length > 0) throw new Error(`taps could not be deleted: ${left.map((link) => link.name).join(', ')}`);
}

export async function listTaps(inside: Commands): Promise<string[]> {
  return (await inside.links()).map((link) => link.name).filter(isTapName);
}

/**
 * Removes the namespace with everything in it, and the veth. Devices go first, by name: a process that still stands
 * in the namespace keeps it alive without its name.
 */
export async function removeNamespace(config: FabricConfig, host: Commands, inside: Commands): Promise<void> {
  if (await namespaceExists(config)) {
    const devices = (await inside.links())
      .map((link) => link.name)
      .filter((name) => name === UPLINK || isTapName(name));
    await inside.ipForce(devices.map((name) => `link del dev ${name}`));
    await inside.sysctl(['net.ipv4.ip_forward=0']);
  }
  if ((await host.links()).some((link) => link.name === config.veth)) await host.ip([`link del dev ${config.veth}`]);
  const removed = await tryRun(['ip', 'netns', 'del', config.namespace]);
  if (removed.code !== 0 && (await namespaceExists(config)))
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
