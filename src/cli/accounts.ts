/** The unprivileged users that processes become when Coppice runs as root. Numbers only: no account is added to the host. */
import { readFileSync } from 'node:fs';
import { setPriority } from 'node:os';
import type { Isolation } from '../isolation/backend.ts';

export interface Accounts {
  /** Control, which faces clients. */
  readonly control: number;
  /** The VMM of a template's golden boot. */
  readonly builder: number;
  /** The ranges that machines take theirs from; jails have no slots where too few users are mapped. */
  readonly machines: Readonly<Record<Isolation, { readonly first: number; readonly slots: number }>>;
}

/** Above every range that Debian, systemd and container tools hand out, below 2^31. */
const BASE = 1_990_000_000;
/** From the end of the range that systemd gives to containers up to BASE, each jail a whole 16-bit range. */
const FIRST_JAIL = 1_879_048_192;
const JAIL_SLOTS = Math.floor((BASE - FIRST_JAIL) / 65_536);
const MICROVM_SLOTS = 4_096;
/** For hosts that are containers themselves and map few users: Debian's range for local dynamic use. */
const SMALL_BASE = 60_100;

/** undefined: this process is not root and cannot become anybody else. */
export function accounts(): Accounts | undefined {
  if (process.getuid?.() !== 0) return undefined;
  const whole = isMapped(BASE + 10_000) && isMapped(FIRST_JAIL);
  const base = whole ? BASE : SMALL_BASE;
  return {
    control: base,
    builder: base + 1,
    machines: {
      microvm: { first: base + 2, slots: MICROVM_SLOTS },
      jail: { first: FIRST_JAIL, slots: whole ? JAIL_SLOTS : 0 },
    },
  };
}

/** Lines of uid_map: first id inside, first id outside, count. */
function isMapped(uid: number): boolean {
  try {
    return readFileSync('/proc/self/uid_map', 'utf8')
      .trim()
      .split('\n')
      .some((line) => {
        const [inside, , count] = line.trim().split(/\s+/).map(Number);
        return inside !== undefined && count !== undefined && uid >= inside && uid < inside + count;
      });
  } catch {
    return false;
  }
}

/** Niceness of node and control: a guest that computes must not keep its sibling's owner waiting. */
const SERVICE_NICENESS = -10;

/** Before everything else in node and control, while they may. VMMs that the node starts get the usual niceness back. */
export function preferMe(): void {
  if (process.getuid?.() === 0) setPriority(SERVICE_NICENESS);
}
