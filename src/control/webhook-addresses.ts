/**
 * Which addresses a webhook may lead to. It is sent from this host by whoever has a key, so by default only to what is public:
 * not to this host, its links, its cloud's metadata or the networks it is in. What the operator names is let through.
 */
import { lookup as systemLookup } from 'node:dns';
import { BlockList, isIP, type LookupFunction } from 'node:net';
import { CoppiceError } from '../contract/errors.ts';

const PRIVATE_IPV4 = [
  ['0.0.0.0', 8],
  ['10.0.0.0', 8],
  ['100.64.0.0', 10],
  ['127.0.0.0', 8],
  ['169.254.0.0', 16],
  ['172.16.0.0', 12],
  ['192.0.0.0', 24],
  ['192.0.2.0', 24],
  ['192.168.0.0', 16],
  ['198.18.0.0', 15],
  ['198.51.100.0', 24],
  ['203.0.113.0', 24],
  ['224.0.0.0', 4],
  ['240.0.0.0', 4],
] as const;
/** With those that carry an IPv4 address to somewhere else: NAT64, 6to4, Teredo. */
const PRIVATE_IPV6 = [
  ['::', 96],
  ['64:ff9b::', 96],
  ['64:ff9b:1::', 48],
  ['100::', 64],
  ['2001::', 23],
  ['2001:db8::', 32],
  ['2002::', 16],
  ['fc00::', 7],
  ['fe80::', 10],
  ['fec0::', 10],
  ['ff00::', 8],
] as const;

const DENIED = new BlockList();
for (const [prefix, bits] of PRIVATE_IPV4) DENIED.addSubnet(prefix, bits, 'ipv4');
for (const [prefix, bits] of PRIVATE_IPV6) DENIED.addSubnet(prefix, bits, 'ipv6');

export interface WebhookAddresses {
  allows(address: string): boolean;
  /** Throws `bad_request` on a URL that no webhook can have; what its name leads to is looked at when it is used. */
  check(url: string): URL;
  /** As the system's, without what is not allowed: what is connected to is what was looked at. */
  readonly lookup: LookupFunction;
}

/** `allowed`: addresses, or networks as `address/bits`. Throws `bad_request` on what is neither. */
export function createWebhookAddresses(allowed: readonly string[]): WebhookAddresses {
  const list = new BlockList();
  for (const text of allowed) {
    const [address = '', bits, ...rest] = text.split('/');
    const family = isIP(address);
    const length = bits === undefined ? (family === 4 ? 32 : 128) : /^\d{1,3}$/.test(bits) ? Number(bits) : -1;
    if (family === 0 || rest.length > 0 || length < 0 || length > (family === 4 ? 32 : 128))
      throw new CoppiceError('bad_request', `COPPICE_WEBHOOK_ALLOW has what is no address or network: ${text}`);
    list.addSubnet(address, length, family === 4 ? 'ipv4' : 'ipv6');
  }

  const allows = (address: string): boolean => {
    const family = isIP(address);
    if (family === 0) return false;
    const plain = embedded(address);
    const kind = isIP(plain) === 4 ? 'ipv4' : 'ipv6';
    return list.check(plain, kind) || !DENIED.check(plain, kind);
  };

  return {
    allows,
    check(text) {
      const url = URL.canParse(text) ? new URL(text) : undefined;
      if (!url || !['http:', 'https:'].includes(url.protocol))
        throw new CoppiceError('bad_request', 'url: expected a URL that begins with http:// or https://');
      if (url.username !== '' || url.password !== '')
        throw new CoppiceError('bad_request', 'url: a name and password in it are not supported');
      const host = url.hostname.replace(/^\[|\]$/g, '');
      if (isIP(host) !== 0 && !allows(host))
        throw new CoppiceError(
          'bad_request',
          `url: ${host} is not a public address, and the operator has not allowed it`,
        );
      return url;
    },
    lookup: (hostname, options, callback) => {
      systemLookup(hostname, { ...options, all: true }, (error, found) => {
        if (error) return callback(error, '', 0);
        const fit = found.filter(({ address }) => allows(address));
        const [first] = fit;
        if (!first) return callback(new Error(`${hostname} leads to no address that is allowed`), '', 0);
        if (options.all) callback(null, fit);
        else callback(null, first.address, first.family);
      });
    },
  };
}

/** An IPv4 address that is written as IPv6, as what it is. */
function embedded(address: string): string {
  if (isIP(address) !== 6) return address;
  const [, text] = /^\[?(.*?)\]?$/.exec(new URL(`http://[${address.split('%')[0]}]`).hostname) ?? [];
  const mapped = /^::ffff:([0-9a-f]{1,4}):([0-9a-f]{1,4})$/.exec(text ?? '');
  if (!mapped) return text ?? address;
  const [high, low] = [Number.parseInt(mapped[1]!, 16), Number.parseInt(mapped[2]!, 16)];
  return [high >> 8, high & 255, low >> 8, low & 255].join('.');
}
