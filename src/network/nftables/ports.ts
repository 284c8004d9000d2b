/** Sandboxes' ports: taps, or veths with a namespace behind them. What they are made of, and how they are found. */
import { readdir, statfs } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import type { Commands, Link } from './commands.ts';
import {
  checkPort,
  type FabricConfig,
  GATEWAY,
  GATEWAY_MAC,
  isPortName,
  namespacePath,
  portOfNamespace,
  sandboxNamespace,
} from './config.ts';
import type { Lease } from './journal.ts';

/** A sandbox's interface in a namespace of its own. */
const FAR_END = 'eth0';

/** f_type of a mounted namespace, NSFS_MAGIC in linux/magic.h. */
const NSFS_MAGIC = 0x6e736673;

/** Device group of ports that are to be deleted; nothing else in the namespace is ever in it. */
const DOOMED_GROUP = 9;

/** Far ends are furnished by this many shells at once. */
const SHELLS = Math.min(availableParallelism(), 4);

/**
 * In a sandbox's own namespace, relative to /proc/sys/net. Its root has no capability over the namespace, so whatever
 * containers' users count on being allowed must be allowed to all: to ping, and to listen below port 1024. IPv6 ends at
 * the loopback device.
 */
const FAR_SETTINGS = `cd /proc/sys/net
echo '0 2147483647' >ipv4/ping_group_range
echo 0 >ipv4/ip_unprivileged_port_start
if [ -e ipv6/conf/lo ]; then
echo 1 >ipv6/conf/default/disable_ipv6
echo 1 >ipv6/conf/${FAR_END}/disable_ipv6
echo 0 >ipv6/conf/lo/disable_ipv6
fi`;

/** True when the path leads to a live namespace, not to a file left by an interrupted `ip netns`. */
export async function isNamespace(path: string): Promise<boolean> {
  try {
    return (await statfs(path)).type === NSFS_MAGIC;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return false;
    throw error;
  }
}

export interface FoundPorts {
  /** Interfaces in the fabric's namespace, by name. */
  readonly interfaces: ReadonlyMap<string, Link>;
  /** Ports whose sandbox namespace has a file; false: the file leads to none. */
  readonly namespaces: ReadonlyMap<string, boolean>;
}

/** Works whether or not the fabric's namespace is there. */
export async function findPorts(config: FabricConfig, inside: Commands): Promise<FoundPorts> {
  const [links, namespaces] = await Promise.all([
    isNamespace(config.namespacePath).then((there) => (there ? inside.links() : [])),
    findNamespaces(config),
  ]);
  return {
    interfaces: new Map(links.filter((link) => isPortName(link.name)).map((link) => [link.name, link])),
    namespaces,
  };
}

async function findNamespaces(config: FabricConfig): Promise<Map<string, boolean>> {
  const names = await readdir(namespacePath()).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return [];
    throw error;
  });
  const ports = names.map((name) => portOfNamespace(config, name)).filter((port) => port !== undefined);
  const live = ports.map((port) => isNamespace(namespacePath(sandboxNamespace(config, port))));
  return new Map((await Promise.all(live)).map((is, index) => [ports[index]!, is]));
}

/** True when all that the lease's port consists of is there. */
export function isWhole(lease: Lease, found: FoundPorts): boolean {
  return found.interfaces.has(lease.port) && (lease.kind === 'tap' || found.namespaces.get(lease.port) === true);
}

/** Makes ports, addressed, routed and up. When it rejects, parts of them may be there. */
export async function makePorts(
  config: FabricConfig,
  leases: readonly Lease[],
  mtu: number,
  inside: Commands,
): Promise<void> {
  const lines = leases.flatMap((lease) => [...creationLines(config, lease, mtu), ...nearLines(lease, mtu)]);
  const apart = leases.filter((lease) => lease.kind === 'namespace');
  if (apart.length === 0) await inside.ip(lines);
  else await inside.shell(`${ipBatch(lines)}\n${furnish(config, apart, mtu)}`);
}

/** Makes existing ports right; those whose MTU is another at both ends. */
export async function repairPorts(
  config: FabricConfig,
  leases: readonly Lease[],
  mtu: number,
  found: FoundPorts,
  inside: Commands,
  signal?: AbortSignal,
): Promise<void> {
  const outdated = leases.filter(
    (lease) => lease.kind === 'namespace' && found.interfaces.get(lease.port)?.mtu !== mtu,
  );
  if (outdated.length > 0) await inside.shell(furnish(config, outdated, mtu), signal);
  await inside.ip(
    leases.flatMap((lease) => nearLines(lease, mtu)),
    signal,
  );
}

/**
 * Deletes interfaces, whoever holds them open, and the sandbox namespaces of `namespaces` (ports' names too); what is not
 * there counts as deleted. Throws when one is left. Interfaces are put in a device group and the group is deleted: the
 * kernel waits out its grace period once, not once for each. They go first, by name: a process that still stands in
 * a namespace keeps it alive without its name.
 */
export async function deletePorts(
  config: FabricConfig,
  interfaces: readonly string[],
  namespaces: readonly string[],
  inside: Commands,
): Promise<void> {
  const marking = interfaces.map((port) => `link set dev ${checkPort(port)} group ${DOOMED_GROUP}`);
  const deleting = namespaces.map((port) => `netns del ${sandboxNamespace(config, port)}`);
  const lines = [...marking, ...(marking.length > 0 ? [`link del group ${DOOMED_GROUP}`] : []), ...deleting];
  if (lines.length === 0 || (await inside.ipForce(lines))) return;
  const found = await findPorts(config, inside);
  const left = [
    ...interfaces.filter((port) => found.interfaces.has(port)),
    ...namespaces.filter((port) => found.namespaces.has(port)).map((port) => sandboxNamespace(config, port)),
  ];
  if (left.length > 0) throw new Error(`ports could not be deleted: ${left.join(', ')}`);
}

/** `ip -batch` lines. The veth is made in the fabric's namespace, and takes on the settings that hold there. */
function creationLines(config: FabricConfig, lease: Lease, mtu: number): string[] {
  const port = checkPort(lease.port);
  if (lease.kind === 'tap')
    return [`tuntap add dev ${port} mode tap${lease.uid === undefined ? '' : ` user ${lease.uid}`}`];
  const own = sandboxNamespace(config, port);
  return [
    `netns add ${own}`,
    `link add name ${port} mtu ${mtu} type veth peer name ${FAR_END} mtu ${mtu} netns ${own}`,
  ];
}

/** `ip -batch` lines for the fabric's namespace; each may be said again. */
function nearLines(lease: Lease, mtu: number): string[] {
  return [
    `link set dev ${lease.port} address ${GATEWAY_MAC} mtu ${mtu} up`,
    `addr replace ${GATEWAY}/32 dev ${lease.port} scope link`,
    `route replace ${lease.address}/32 dev ${lease.port}`,
  ];
}

/**
 * A shell script that settles namespaces of sandboxes, each from within: a shell and an ip each, a few at a time. Fails
 * when one of them fails, and not before all have ended. Nothing in it is quoted, since nothing in it needs to be: all
 * words are made here or are numbers and addresses.
 */
function furnish(config: FabricConfig, leases: readonly Lease[], mtu: number): string {
  const each = leases.map((lease) => {
    const path = namespacePath(sandboxNamespace(config, lease.port));
    return `nsenter --net=${path} sh -e <<'FAR'\n${FAR_SETTINGS}\nexec ${ipBatch(farLines(lease, mtu))}\nFAR`;
  });
  if (each.length === 1) return `exec ${each[0]}\n`;
  const shares = Array.from({ length: Math.min(SHELLS, each.length) }, (_, share) =>
    each.filter((_, index) => index % SHELLS === share).join('\n'),
  );
  const jobs = shares.map((share, index) => `(\n${share}\n) &\nj${index}=$!`);
  const waits = shares.map((_, index) => `wait $j${index} || failed=1`);
  return `${jobs.join('\n')}\nfailed=0\n${waits.join('\n')}\nexit $failed\n`;
}

function farLines(lease: Lease, mtu: number): string[] {
  return [
    'link set dev lo up',
    `link set dev ${FAR_END} mtu ${mtu} up`,
    `addr replace ${lease.address}/32 dev ${FAR_END}`,
    `route replace ${GATEWAY}/32 dev ${FAR_END} scope link`,
    `route replace default via ${GATEWAY} dev ${FAR_END}`,
  ];
}

function ipBatch(lines: readonly string[]): string {
  return `ip -batch - <<'IP'\n${lines.join('\n')}\nIP`;
}
