/**
 * The operator's token: it speaks for every team, and it alone is asked about nodes. One at a time, made at the first start
 * and kept as the local key is, in `<home>/admin-token`; the database has its hash.
 */
import { join } from 'node:path';
import type { Database } from '../store/database.ts';
import { readPrivately, writePrivately } from './private-file.ts';
import { hashOf, hasSecretForm, newSecret, sameHash } from './secrets.ts';

const ADMIN_PREFIX = 'coppice_admin_';
const ADMIN_TOKEN_FILE = 'admin-token';

export interface AdminToken {
  authenticate(presented: string | undefined): boolean;
  /** The new token, in whose favour the one before has ended. */
  renew(): string;
}

export function createAdminToken(database: Database, now: () => number = Date.now): AdminToken {
  return Object.freeze<AdminToken>({
    authenticate: (presented) => {
      if (presented === undefined || !hasSecretForm(presented, ADMIN_PREFIX)) return false;
      const row = database.prepare('SELECT hash FROM admin_token').get() as { readonly hash: Uint8Array } | undefined;
      return row !== undefined && sameHash(row.hash, hashOf(presented));
    },
    renew: () => {
      const token = newSecret(ADMIN_PREFIX);
      database
        .prepare('INSERT OR REPLACE INTO admin_token (only_row, hash, created_at_ms) VALUES (1, ?, ?)')
        .run(hashOf(token), now());
      return token;
    },
  });
}

/** Returns the kept token; makes a new one if the file is missing, its token is not valid, or `renew` says so. */
export function ensureAdminToken(admin: AdminToken, home: string, options: { readonly renew?: boolean } = {}): string {
  const path = join(home, ADMIN_TOKEN_FILE);
  const kept = options.renew ? undefined : readPrivately(path);
  if (kept !== undefined && admin.authenticate(kept)) return kept;
  const token = admin.renew();
  writePrivately(path, token);
  return token;
}
