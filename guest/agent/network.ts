/** IPv4 address and default route of one interface, by the kernel's own interfaces: no `ip` program is needed in the guest. */
import fs from 'node:fs';
import type { Identity } from '../../src/channel/protocol.ts';
import { Failure } from './failure.ts';
import type { Libc } from './libc.ts';

const AF_INET = 2;
const AF_NETLINK = 16;
const SOCK_DGRAM = 2;
const SOCK_RAW = 3;
const SOCK_CLOEXEC = 0o2000000;
const SIOCADDRT = 0x890b;
const SIOCGIFFLAGS = 0x8913;
const SIOCSIFFLAGS = 0x8914;
const SIOCSIFADDR = 0x8916;
const SIOCSIFNETMASK = 0x891c;
const IFF_UP = 1;
const RTF_UP = 1;
const RTF_GATEWAY = 2;
const RTF_HOST = 4;
const IFREQ_BYTES = 40;
const RTENTRY_BYTES = 120;
const NAME_BYTES = 16;
const NETLINK_ROUTE = 0;
const RTM_NEWADDR = 20;
const RTM_DELADDR = 21;
const NLM_F_REQUEST = 1;
const NLM_F_ACK = 4;
const NLM_F_EXCL = 0x200;
const NLM_F_CREATE = 0x400;
const NLMSG_ERROR = 2;
const NLMSG_HEADER_BYTES = 16;
const IFA_ADDRESS = 1;
const IFA_LOCAL = 2;
const ADDRESS_MESSAGE_BYTES = 40;
const REPLY_BYTES = 8_192;
const MSG_DONTWAIT = 0x40;
const DOT = 46;
const DIGIT_0 = 48;

/** Address of a sandbox: its interface, and what it reaches everything by. */
export type Network = NonNullable<Identity['network']>;

/**
 * `set` makes an address the only one of `device`, brings it up, and routes everything by `gateway`, reached on the link
 * itself: the prefix may be 32. null: down and without an address.
 *
 * A clone is born with the address of its checkpoint, on an interface that is up. Swapping that address for its own leaves
 * card, queues and routes alone, which is a fraction of the work of bringing an interface up.
 */
export function createNetwork(libc: () => Libc, device: string): { set(network: Network | null): void } {
  let now: Network | null | undefined;
  let swap: AddressSwap | undefined;

  return {
    set(network) {
      if (network && now && now.gateway === network.gateway && now.prefix === network.prefix) {
        swap ??= openSwap(libc(), device);
        if (now.address === network.address || swap(now, network)) {
          now = network;
          return;
        }
      }
      now = undefined;
      setAddress(libc(), device, network);
      now = network;
    },
  };
}

/** Takes the interface down (which drops its address' routes), then addresses it, brings it up, and routes. */
function setAddress(libc: Libc, device: string, network: Network | null): void {
  // Checked and encoded first: a wrong wish must not take the interface down.
  const address = addressRequest(device, network?.address ?? '0.0.0.0');
  const mask = addressRequest(device, maskOf(network?.prefix ?? 0));
  if (network) addressRequest(device, network.gateway);
  if (!network && !fs.existsSync(`/sys/class/net/${device}`)) return;
  const socket = libc.call('socket', AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  try {
    setUp(libc, socket, device, false);
    libc.call('ioctl', socket, SIOCSIFADDR, address);
    if (!network) return;
    libc.call('ioctl', socket, SIOCSIFNETMASK, mask);
    setUp(libc, socket, device, true);
    const name = Buffer.alloc(NAME_BYTES);
    name.write(device, 'latin1');
    const toGateway = route(network.gateway, '0.0.0.0', '255.255.255.255', RTF_UP | RTF_HOST, libc.addressOf(name));
    libc.call('ioctl', socket, SIOCADDRT, toGateway);
    const toAll = route('0.0.0.0', network.gateway, '0.0.0.0', RTF_UP | RTF_GATEWAY, libc.addressOf(name));
    libc.call('ioctl', socket, SIOCADDRT, toAll);
  } finally {
    fs.closeSync(socket);
  }
}

/** False: the kernel refused, since somebody has changed the interface. */
type AddressSwap = (from: Network, to: Network) => boolean;

/** rtnetlink(7): adds one address and removes the other in one message, in this order, so that the routes stay. */
function openSwap(libc: Libc, device: string): AddressSwap {
  const socket = libc.call('socket', AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
  const index = Number(fs.readFileSync(`/sys/class/net/${device}/ifindex`, 'utf8'));
  const messages = Buffer.alloc(2 * ADDRESS_MESSAGE_BYTES);
  const replies = Buffer.alloc(REPLY_BYTES);
  return (from, to) => {
    writeAddressMessage(messages.subarray(0, ADDRESS_MESSAGE_BYTES), RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, index, to);
    writeAddressMessage(messages.subarray(ADDRESS_MESSAGE_BYTES), RTM_DELADDR, 0, index, from);
    libc.call('sendto', socket, messages, messages.length, 0, null, 0);
    // The kernel has answered both by the time that the call returns: a message each, or both in one.
    for (let acknowledged = 0, good = true; ; ) {
      const length = libc.call('recv', socket, replies, REPLY_BYTES, MSG_DONTWAIT);
      for (let at = 0; at + NLMSG_HEADER_BYTES + 4 <= length; at += align(replies.readUInt32LE(at))) {
        if (replies.readUInt16LE(at + 4) !== NLMSG_ERROR) return false;
        acknowledged++;
        good &&= replies.readInt32LE(at + NLMSG_HEADER_BYTES) === 0;
      }
      if (acknowledged >= 2) return good;
    }
  };
}

/** struct nlmsghdr, struct ifaddrmsg, IFA_LOCAL and IFA_ADDRESS. */
function writeAddressMessage(target: Buffer, type: number, flags: number, index: number, network: Network): void {
  target.writeUInt32LE(ADDRESS_MESSAGE_BYTES, 0);
  target.writeUInt16LE(type, 4);
  target.writeUInt16LE(NLM_F_REQUEST | NLM_F_ACK | flags, 6);
  target[16] = AF_INET;
  target[17] = network.prefix;
  target.writeUInt32LE(index, 20);
  const address = octets(network.address);
  target.writeUInt16LE(8, 24);
  target.writeUInt16LE(IFA_LOCAL, 26);
  target.set(address, 28);
  target.writeUInt16LE(8, 32);
  target.writeUInt16LE(IFA_ADDRESS, 34);
  target.set(address, 36);
}

const align = (length: number): number => Math.max(NLMSG_HEADER_BYTES, (length + 3) & ~3);

function maskOf(prefix: number): string {
  const mask = prefix === 0 ? 0 : (0xffffffff << (32 - prefix)) >>> 0;
  return [mask >>> 24, (mask >>> 16) & 255, (mask >>> 8) & 255, mask & 255].join('.');
}

function setUp(libc: Libc, socket: number, device: string, up: boolean): void {
  const request = Buffer.alloc(IFREQ_BYTES);
  request.write(device, 'latin1');
  libc.call('ioctl', socket, SIOCGIFFLAGS, request);
  const flags = request.readUInt16LE(NAME_BYTES);
  request.writeUInt16LE(up ? flags | IFF_UP : flags & ~IFF_UP, NAME_BYTES);
  libc.call('ioctl', socket, SIOCSIFFLAGS, request);
}

function addressRequest(device: string, address: string): Buffer {
  const request = Buffer.alloc(IFREQ_BYTES);
  request.write(device, 'latin1');
  writeSocketAddress(request, NAME_BYTES, address);
  return request;
}

/** struct rtentry of 64-bit Linux. */
function route(destination: string, gateway: string, mask: string, flags: number, deviceName: bigint): Buffer {
  const entry = Buffer.alloc(RTENTRY_BYTES);
  writeSocketAddress(entry, 8, destination);
  writeSocketAddress(entry, 24, gateway);
  writeSocketAddress(entry, 40, mask);
  entry.writeUInt16LE(flags, 56);
  entry.writeBigUInt64LE(deviceName, 88);
  return entry;
}

function writeSocketAddress(target: Buffer, at: number, address: string): void {
  target.writeUInt16LE(AF_INET, at);
  target.set(octets(address), at + 4);
}

/** By hand: on the path of every create. */
function octets(address: string): Uint8Array {
  const found = new Uint8Array(4);
  let part = 0;
  let digits = 0;
  let value = 0;
  for (let at = 0; at <= address.length; at++) {
    const code = at === address.length ? DOT : address.charCodeAt(at);
    if (code === DOT) {
      if (digits === 0 || digits > 3 || value > 255 || part > 3) throw notAnAddress(address);
      found[part++] = value;
      digits = 0;
      value = 0;
    } else {
      if (code < DIGIT_0 || code > DIGIT_0 + 9) throw notAnAddress(address);
      value = value * 10 + code - DIGIT_0;
      digits++;
    }
  }
  if (part !== 4) throw notAnAddress(address);
  return found;
}

function notAnAddress(address: string): Failure {
  return new Failure('invalid_argument', `'${address}' is not an IPv4 address`);
}
