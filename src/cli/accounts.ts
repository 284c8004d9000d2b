/** The unprivileged users that processes become when Coppice runs as root. Numbers only: no account is added to the host. */
import { readFileSync } from 'node:fs';
import { setPriority } from 'node:os';

export interface Accounts {
  /** Control, which faces clients. */
  readonly control: number;
  /** The VMM of a template's golden boot. */
  readonly builder: number;
  /** First of the range that VMMs take one each of. */
  readonly firstMachine: number;
}

/** Above every range that Debian, systemd and container tools hand out, below 2^31. */
const BASE = 1_990_000_000;
/** For hosts that are containers themselves and map few users: Debian's range for local dynamic use. */
const SMALL_BASE = 60_100;

/** undefined: this process is not root and cannot become anybody else. */
export function accounts(): Accounts | undefined {
  if (process.getuid?.() !== 0) return undefined;
  const base = isMapped(BASE + 10_000) ? BASE : SMALL_BASE;
  return { control: base, builder: base + 1, firstMachine: base + 2 };
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
