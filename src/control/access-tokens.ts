/**
 * Access tokens: `sk_e2b_` and 40 hex digits, what E2B's command line logs in with. Coppice has no users; a token stands for
 * whoever was given it, and reaches the teams that it was made for. How it is kept is in secrets.ts.
 *
 * E2B tells the holder of a token the key of each of its teams, again and again, and a key is stored as a hash only. So that
 * key is derived from the token and the team: who holds the token can be told it any time, and the database cannot.
 */
import { createHmac, randomUUID } from 'node:crypto';
import { CoppiceError } from '../contract/errors.ts';
import type { Database } from '../store/database.ts';
import { type ApiKeys, KEY_PREFIX } from './keys.ts';
import {
  checkedName,
  hashOf,
  hasSecretForm,
  type Mask,
  maskOf,
  newSecret,
  SECRET_DIGITS,
  sameHash,
  visibleEnds,
} from './secrets.ts';

const TOKEN_PREFIX = 'sk_e2b_';

/** What a presented token proves. */
export interface TokenHolder {
  readonly tokenID: string;
  readonly name: string;
  /** At least one. */
  readonly teamIDs: readonly string[];
}

/** A token as it may be shown. */
export interface AccessTokenView extends TokenHolder {
  readonly mask: Mask;
  readonly createdAtMs: number;
  readonly revokedAtMs?: number;
}

export interface AccessTokens {
  authenticate(presented: string | undefined): TokenHolder | undefined;
  /** `token` is the only copy of the secret that will ever exist. */
  create(wish: { readonly teamIDs: readonly string[]; readonly name: string }): {
    readonly token: string;
    readonly view: AccessTokenView;
  };
  /** The API key of one of its teams that belongs to this token and ends with it. */
  deriveKey(presented: string, holder: TokenHolder, teamID: string): string;
  /**
   * Ends it and the keys derived from it. False if there is no such token in use, or if it reaches a team that is not
   * `within`.
   */
  revoke(tokenID: string, within?: readonly string[]): boolean;
  list(): readonly AccessTokenView[];
}

interface TokenRow {
  readonly token_id: string;
  readonly name: string;
  readonly hash: Uint8Array;
  readonly mask_prefix: string;
  readonly mask_suffix: string;
  readonly created_at_ms: number;
  readonly revoked_at_ms: number | null;
}

export function createAccessTokens(
  database: Database,
  keys: Pick<ApiKeys, 'adopt' | 'countRevoked' | 'revokeDerived'>,
  now: () => number = Date.now,
): AccessTokens {
  const teamsOf = (tokenID: string): string[] =>
    (
      database
        .prepare('SELECT team_id FROM access_token_teams WHERE token_id = ? ORDER BY team_id')
        .all(tokenID) as unknown as { readonly team_id: string }[]
    ).map((row) => row.team_id);
  const holderOf = (row: TokenRow): TokenHolder =>
    Object.freeze({ tokenID: row.token_id, name: row.name, teamIDs: teamsOf(row.token_id) });
  const viewOf = (row: TokenRow): AccessTokenView =>
    Object.freeze({
      ...holderOf(row),
      mask: maskOf(TOKEN_PREFIX, row.mask_prefix, row.mask_suffix),
      createdAtMs: row.created_at_ms,
      ...(row.revoked_at_ms === null ? {} : { revokedAtMs: row.revoked_at_ms }),
    });
  const inUse = (column: 'hash' | 'token_id', value: string | Uint8Array): TokenRow | undefined =>
    database.prepare(`SELECT * FROM access_tokens WHERE ${column} = ? AND revoked_at_ms IS NULL`).get(value) as
      | TokenRow
      | undefined;

  return Object.freeze<AccessTokens>({
    authenticate: (presented) => {
      if (presented === undefined || !hasSecretForm(presented, TOKEN_PREFIX)) return undefined;
      const wanted = hashOf(presented);
      const row = inUse('hash', wanted);
      return row !== undefined && sameHash(row.hash, wanted) ? holderOf(row) : undefined;
    },

    create: ({ teamIDs, name }) => {
      if (teamIDs.length === 0) throw new CoppiceError('bad_request', 'an access token needs a team');
      const token = newSecret(TOKEN_PREFIX);
      const tokenID = randomUUID();
      const checked = checkedName(name, 'an access token');
      database.transaction(() => {
        database
          .prepare(
            'INSERT INTO access_tokens (token_id, name, hash, mask_prefix, mask_suffix, created_at_ms) ' +
              'VALUES (?, ?, ?, ?, ?, ?)',
          )
          .run(tokenID, checked, hashOf(token), ...visibleEnds(token, TOKEN_PREFIX), now());
        const reach = database.prepare('INSERT INTO access_token_teams (token_id, team_id) VALUES (?, ?)');
        for (const teamID of new Set(teamIDs)) reach.run(tokenID, teamID);
      });
      return { token, view: viewOf(inUse('token_id', tokenID)!) };
    },

    deriveKey: (presented, { tokenID, name }, teamID) => {
      // A key that was revoked by itself stays so: the next one is another.
      const ordinal = keys.countRevoked(tokenID, teamID);
      const digest = createHmac('sha256', presented).update(`API key ${ordinal} of team ${teamID}`).digest('hex');
      const key = KEY_PREFIX + digest.slice(0, SECRET_DIGITS);
      keys.adopt({ teamID, name, key, tokenID });
      return key;
    },

    revoke: (tokenID, within) =>
      database.transaction(() => {
        if (inUse('token_id', tokenID) === undefined) return false;
        if (within !== undefined && !teamsOf(tokenID).every((teamID) => within.includes(teamID))) return false;
        database.prepare('UPDATE access_tokens SET revoked_at_ms = ? WHERE token_id = ?').run(now(), tokenID);
        keys.revokeDerived(tokenID);
        return true;
      }),

    list: () =>
      (
        database.prepare('SELECT * FROM access_tokens ORDER BY created_at_ms, token_id').all() as unknown as TokenRow[]
      ).map(viewOf),
  });
}
