/** Generators that hold a state in this process, which every process that grew from the same checkpoint has in common. */
import crypto from 'node:crypto';
import { createRequire } from 'node:module';

/** crypto.randomUUID and crypto.randomInt keep that many values ready. */
const [UUIDS, INTEGERS] = [128, 1_024] as const;

/** V8's own state cannot be set: from the first reseeding on, Math.random is xoshiro128** with a state of ours. */
let state: Uint32Array | undefined;
const native = Math.random;

export function replaceMathRandom(): void {
  const random = (): number => {
    if (state === undefined) return native();
    const [high, low] = [next(state) >>> 5, next(state) >>> 6];
    return (high * 67_108_864 + low) / 9_007_199_254_740_992;
  };
  Object.defineProperty(Math, 'random', { value: random, writable: true, configurable: true });
}

/** `entropy`: 64 bytes. */
export function reseed(entropy: Buffer): void {
  state = new Uint32Array(Uint8Array.from(entropy.subarray(0, 16)).buffer);
  addToOpenSSL(entropy);
  for (let count = 0; count < UUIDS; count += 1) crypto.randomUUID();
  for (let count = 0; count < INTEGERS; count += 1) crypto.randomInt(2);
}

function next(s: Uint32Array): number {
  const rotated = Math.imul(s[1]!, 5);
  const result = Math.imul((rotated << 7) | (rotated >>> 25), 9) >>> 0;
  const shifted = s[1]! << 9;
  s[2]! ^= s[0]!;
  s[3]! ^= s[1]!;
  s[1]! ^= s[2]!;
  s[0]! ^= s[3]!;
  s[2]! ^= shifted;
  s[3] = (s[3]! << 11) | (s[3]! >>> 21);
  return result;
}

/** Node gives its OpenSSL no entropy; the function is there for add-ons. */
function addToOpenSSL(entropy: Buffer): void {
  const koffi = createRequire(import.meta.url)('koffi') as typeof import('koffi');
  const add = koffi.load(null).func('void RAND_add(const void *bytes, int size, double entropy)');
  add(entropy, entropy.length, entropy.length);
}
