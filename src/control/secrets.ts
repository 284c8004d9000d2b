/**
 * Secrets that clients present: a prefix that says what it is, and 40 hex digits from 20 random bytes.
 *
 * The database holds the SHA-256 of a secret and the few characters that make it recognisable; the secret itself is shown
 * once. A plain hash is enough because 160 bits of randomness cannot be guessed. Lookup goes by the hash, so its timing
 * tells nothing about a stored secret; the final comparison is constant in time as well.
 */
import { hash, randomBytes, timingSafeEqual } from 'node:crypto';
import { CoppiceError } from '../contract/errors.ts';

/** Hex digits behind the prefix. */
export const SECRET_DIGITS = 40;
const NAME_MAX = 128;

/** E2B's four mask members. */
export interface Mask {
  readonly prefix: string;
  readonly valueLength: number;
  readonly maskedValuePrefix: string;
  readonly maskedValueSuffix: string;
}

export function newSecret(prefix: string): string {
  return prefix + randomBytes(SECRET_DIGITS / 2).toString('hex');
}

export function hasSecretForm(text: string, prefix: string): boolean {
  if (text.length !== prefix.length + SECRET_DIGITS || !text.startsWith(prefix)) return false;
  return /^[0-9a-f]+$/.test(text.slice(prefix.length));
}

export function hashOf(secret: string): Buffer {
  return hash('sha256', secret, 'buffer');
}

/** Of two hashes. */
export function sameHash(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && timingSafeEqual(a, b);
}

/** First and last characters of what stands behind the prefix, as they are stored. */
export function visibleEnds(secret: string, prefix: string): readonly [first: string, last: string] {
  return [secret.slice(prefix.length, prefix.length + 2), secret.slice(-4)];
}

export function maskOf(prefix: string, first: string, last: string): Mask {
  return { prefix, valueLength: SECRET_DIGITS, maskedValuePrefix: first, maskedValueSuffix: last };
}

/** The name that a person gave to `what`, without blanks around it. */
export function checkedName(name: string, what: string): string {
  const trimmed = name.trim();
  if (trimmed.length === 0 || trimmed.length > NAME_MAX)
    throw new CoppiceError('bad_request', `${what} needs a name of 1 to ${NAME_MAX} characters`);
  return trimmed;
}
