/** Names and constants of one fabric. Everything that ends up in a command is made or checked here. */
import { CoppiceError } from '../../contract/errors.ts';
import { formatAddress } from '../ipv4.ts';

/** On every port, answering ARP; the sandbox's default route. */
export const GATEWAY = '169.254.1.1';
/** Its address on the link, the same on every port: a machine that goes on behind another port finds it where it was. */
export const GATEWAY_MAC = '02:c0:99:1c:e0:fe';
/** The fabric's end of the veth, inside the namespace. */
export const UPLINK = 'up0';
/** nft table inside the namespace (families inet and arp). */
export const TABLE = 'coppice';
/** Marks a host table whose fabric turned IPv4 forwarding on: see host-rules.ts. */
export const GUARD_CHAIN = 'forwarding_was_off';
/** Host ends of all fabrics' veths start so. */
export const VETH_PREFIX = 'cpv-';
/** Tracked flows that one sandbox may hold at a time; opening more is refused. Keeps the host's table from filling. */
export const FLOW_LIMIT = 4096;
/** Connections a second that one sandbox may open to what the host serves, which has work with each. */
export const SERVICE_RATE = 20;
/** Seconds. RFC 5382 asks a NAT to keep idle TCP for at least 2 h 4 min. */
export const TCP_ESTABLISHED_TIMEOUT = 7440;
/** Seconds. */
export const TCP_TIME_WAIT_TIMEOUT = 30;

const PORT = /^cp[1-9]\d{0,9}$/;
const NAMESPACE_FOLDER = '/run/netns';

export interface FabricConfig {
  readonly instance: string;
  readonly namespace: string;
  /** e.g. /run/netns/coppice-a1 */
  readonly namespacePath: string;
  readonly veth: string;
  readonly hostTable: string;
}

/** Throws bad_request unless `instance` is [a-z0-9]{1,8}. */
export function fabricConfig(instance: string): FabricConfig {
  if (!/^[a-z0-9]{1,8}$/.test(instance))
    throw new CoppiceError('bad_request', 'network instance must be 1 to 8 of a-z and 0-9');
  const namespace = `coppice-${instance}`;
  return {
    instance,
    namespace,
    namespacePath: `${NAMESPACE_FOLDER}/${namespace}`,
    veth: `${VETH_PREFIX}${instance}`,
    hostTable: `coppice_${instance}`,
  };
}

/** Addresses of the veth, out of the fabric's /16: the first /30. */
export interface VethAddresses {
  /** Network address of the /30. */
  readonly network: string;
  readonly host: string;
  readonly uplink: string;
}

export function vethAddresses(subnet: number): VethAddresses {
  return { network: formatAddress(subnet), host: formatAddress(subnet + 1), uplink: formatAddress(subnet + 2) };
}

/** A sandbox's interface in the fabric's namespace: `cp<number>`, at most 12 characters. */
export function portName(lease: number): string {
  return checkPort(`cp${lease}`);
}

export function isPortName(name: string): boolean {
  return PORT.test(name);
}

/** Returns `name`, or throws internal: a port's name is only ever made here. */
export function checkPort(name: string): string {
  if (!isPortName(name)) throw new CoppiceError('internal', `not a port name: ${JSON.stringify(name)}`);
  return name;
}

/**
 * A sandbox's own namespace, of the fabric's name and its port's number: `coppice-a1-42`, at most 27 characters. No
 * instance has a dash in it, so that it is nobody else's, and no fabric's.
 */
export function sandboxNamespace(config: FabricConfig, port: string): string {
  return `${config.namespace}-${checkPort(port).slice(2)}`;
}

/** The port that a namespace of this name goes with; undefined when it is no sandbox's of this fabric. */
export function portOfNamespace(config: FabricConfig, name: string): string | undefined {
  const prefix = `${config.namespace}-`;
  const port = `cp${name.slice(prefix.length)}`;
  return name.startsWith(prefix) && isPortName(port) ? port : undefined;
}

/** Where `ip netns` keeps a namespace of this name; of no name, the folder of all. */
export function namespacePath(name?: string): string {
  return name === undefined ? NAMESPACE_FOLDER : `${NAMESPACE_FOLDER}/${name}`;
}

/** Throws bad_request unless `id` could be a sandbox id. Ids never reach a command; this bounds the journal. */
export function checkId(id: string): void {
  if (!/^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$/.test(id))
    throw new CoppiceError('bad_request', 'a sandbox id is 1 to 64 letters, digits, dots, dashes and underscores');
}

/** Throws bad_request unless `uid` is a Unix user id (-1 as unsigned is not one). */
export function checkUid(uid: number | undefined): void {
  if (uid !== undefined && !(Number.isInteger(uid) && uid >= 0 && uid < 0xffffffff))
    throw new CoppiceError('bad_request', 'uid must be an integer from 0 to 4294967294');
}
