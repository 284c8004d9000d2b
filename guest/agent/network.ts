/** IPv4 address and default route of one interface, by the classic ioctls: no `ip` program is needed in the guest. */
import fs from 'node:fs';
import type { Identity } from '../../src/channel/protocol.ts';
import { Failure } from './failure.ts';
import type { Libc } from './libc.ts';

const AF_INET = 2;
const SOCK_DGRAM = 2;
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

/**
 * Takes the interface down (which drops its address' routes), then addresses it, brings it up, and routes everything by
 * `gateway`, reached on the link itself: the prefix may be 32. null: down and without an address.
 */
export function setAddress(libc: Libc, device: string, network: NonNullable<Identity['network']> | null): void {
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
  const parts = address.split('.').map(Number);
  if (parts.length !== 4 || parts.some((part) => !(part >= 0 && part <= 255)))
    throw new Failure('invalid_argument', `'${address}' is not an IPv4 address`);
  target.writeUInt16LE(AF_INET, at);
  target.set(parts, at + 4);
}
