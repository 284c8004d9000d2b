/** Maps of strings that clients attach to a sandbox: metadata and environment variables, bounded in count and size. */
import { z } from 'zod';

interface Limits {
  readonly what: string;
  readonly entries: number;
  readonly keyBytes: number;
  readonly valueBytes: number;
  readonly totalBytes: number;
  /** Says what is wrong with a key or value beyond its size. */
  readonly check?: (key: string, value: string) => string | undefined;
}

export const METADATA_LIMITS = {
  what: 'metadata',
  entries: 128,
  keyBytes: 256,
  valueBytes: 8192,
  totalBytes: 65_536,
} as const satisfies Limits;

/** As E2B's API documents them. */
export const SECRET_LIMITS = {
  what: 'metadata',
  entries: 32,
  keyBytes: 128,
  valueBytes: 1024,
  totalBytes: 8192,
} as const satisfies Limits;

export const ENV_LIMITS = {
  what: 'environment variables',
  entries: 512,
  keyBytes: 256,
  valueBytes: 65_536,
  totalBytes: 262_144,
  check: (key: string, value: string) =>
    key === '' || key.includes('=') || key.includes('\0')
      ? 'a name must not be empty or contain = or NUL'
      : value.includes('\0')
        ? 'a value must not contain NUL'
        : undefined,
} as const satisfies Limits;

/** Zod's own record type drops a key called `__proto__` without a word; here it is an error like any other bad key. */
export function stringMap(limits: Limits) {
  return z.unknown().transform((input, context): Readonly<Record<string, string>> => {
    const fault = findFault(input, limits);
    if (fault === undefined) return input as Readonly<Record<string, string>>;
    context.addIssue({ code: 'custom', message: fault });
    return z.NEVER;
  });
}

function findFault(input: unknown, limits: Limits): string | undefined {
  if (typeof input !== 'object' || input === null || Array.isArray(input)) return 'expected an object of strings';
  const entries = Object.entries(input);
  if (entries.length > limits.entries) return `more than ${limits.entries} ${limits.what}`;
  let total = 0;
  for (const [key, value] of entries) {
    if (typeof value !== 'string') return `the value of ${show(key)} is not a string`;
    if (key === '__proto__') return 'the name __proto__ is not allowed';
    if (!key.isWellFormed() || !value.isWellFormed()) return `${show(key)} is not valid Unicode`;
    const keyBytes = Buffer.byteLength(key);
    const valueBytes = Buffer.byteLength(value);
    if (keyBytes > limits.keyBytes) return `the name ${show(key)} is longer than ${limits.keyBytes} bytes`;
    if (valueBytes > limits.valueBytes) return `the value of ${show(key)} is longer than ${limits.valueBytes} bytes`;
    const fault = limits.check?.(key, value);
    if (fault !== undefined) return `${show(key)}: ${fault}`;
    total += keyBytes + valueBytes;
  }
  return total > limits.totalBytes ? `more than ${limits.totalBytes} bytes of ${limits.what}` : undefined;
}

function show(key: string): string {
  return JSON.stringify(key.length > 64 ? `${key.slice(0, 64)}...` : key);
}
