/** IPv4 addresses and ranges as unsigned 32-bit integers. Strict: no octal, no shorthand, no leading zeros. */

/** A range of addresses: `base` has every bit below the prefix cleared. */
export interface Range {
  readonly base: number;
  /** 0 to 32. */
  readonly prefix: number;
}

const OCTET = /^(?:0|[1-9]\d{0,2})$/;

/** The address as an unsigned integer, or undefined when `text` is not dotted IPv4. */
export function parseAddress(text: string): number | undefined {
  const parts = text.split('.');
  if (parts.length !== 4) return undefined;
  let value = 0;
  for (const part of parts) {
    const octet = Number(part);
    if (!OCTET.test(part) || octet > 255) return undefined;
    value = value * 256 + octet;
  }
  return value;
}

export function formatAddress(address: number): string {
  return [24, 16, 8, 0].map((shift) => (address >>> shift) & 255).join('.');
}

/** `a.b.c.d/n`, or a lone address as a /32. Undefined when malformed or when bits below the prefix are set. */
export function parseRange(text: string): Range | undefined {
  const [address = '', length = '32', ...rest] = text.split('/');
  const base = parseAddress(address);
  if (base === undefined || rest.length > 0 || !/^(?:0|[1-9]\d?)$/.test(length)) return undefined;
  const prefix = Number(length);
  if (prefix > 32 || (base & mask(prefix)) >>> 0 !== base) return undefined;
  return { base, prefix };
}

export function contains(range: Range, address: number): boolean {
  return (address & mask(range.prefix)) >>> 0 === range.base;
}

export function overlaps(a: Range, b: Range): boolean {
  return a.prefix <= b.prefix ? contains(a, b.base) : contains(b, a.base);
}

function mask(prefix: number): number {
  return prefix === 0 ? 0 : (0xffffffff << (32 - prefix)) >>> 0;
}
