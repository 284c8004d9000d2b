/** The path rule of every file operation. */
import path from 'node:path';
import type { Account } from './users.ts';

/** Empty and `~`: the home; `~/x` and relative: under it; absolute: as it is. Always absolute and normalised. */
export function resolvePath(given: string, account: Account): string {
  if (given === '' || given === '~') return path.resolve(account.home);
  if (given.startsWith('~/')) return path.join(account.home, given.slice(2));
  return path.resolve(account.home, given);
}
