/**
 * API keys: `e2b_` and 40 hex digits from 20 random bytes, the format that every E2B SDK accepts without being told. How
 * they are kept is in secrets.ts.
 */
import { randomUUID } from 'node:crypto';
import { CoppiceError } from '../contract/errors.ts';
import type { Database } from '../store/database.ts';
import { checkedName, hashOf, hasSecretForm, type Mask, maskOf, newSecret, sameHash, visibleEnds } from './secrets.ts';

export const KEY_PREFIX = 'e2b_';
const CACHE_MAX = 1024;

/** Who a request with a key speaks for. */
export interface Principal {
  readonly teamID: string;
  readonly keyID: string;
}

/** A key as it may be shown: never the key, never its hash. */
export interface ApiKeyView {
  /** UUID */
  readonly keyID: string;
  readonly teamID: string;
  readonly name: string;
  readonly mask: Mask;
  readonly createdAtMs: number;
  /** Behind the truth by up to the flush interval. */
  readonly lastUsedAtMs?: number;
  readonly revokedAtMs?: number;
}

export interface ApiKeys {
  /** The owner of a presented key, or undefined. Microseconds; no disk write. */
  authenticate(presented: string | undefined): Principal | undefined;
  /** `key` is the only copy of the secret that will ever exist. */
  create(wish: { readonly teamID: string; readonly name: string }): { readonly key: string; readonly view: ApiKeyView };
  /**
   * A key that the holder of an access token can derive again, instead of a random one: it ends with the token. Nothing
   * happens if it is there already.
   */
  adopt(wish: { readonly teamID: string; readonly name: string; readonly key: string; readonly tokenID: string }): void;
  /** How many keys of the token for the team were revoked one by one. */
  countRevoked(tokenID: string, teamID: string): number;
  /** Undefined if the team has no such key in use. */
  rename(teamID: string, keyID: string, name: string): ApiKeyView | undefined;
  /**
   * False if there is no such key (of the team, if one is given) or it is revoked already. Other processes see it at their
   * next request.
   */
  revoke(keyID: string, teamID?: string): boolean;
  /** Those derived from an access token. */
  revokeDerived(tokenID: string): void;
  list(teamID?: string): readonly ApiKeyView[];
  /** Writes the times of last use that are still in memory. */
  flush(): void;
  close(): void;
}

export interface KeyOptions {
  readonly now?: () => number;
  /** How often times of last use go to disk. Milliseconds, default 10000; 0 = only at close. */
  readonly flushIntervalMs?: number;
}

interface KeyRow {
  readonly key_id: string;
  readonly team_id: string;
  readonly name: string;
  readonly hash: Uint8Array;
  readonly mask_prefix: string;
  readonly mask_suffix: string;
  readonly created_at_ms: number;
  readonly last_used_at_ms: number | null;
  readonly revoked_at_ms: number | null;
}

export function createKeys(database: Database, options: KeyOptions = {}): ApiKeys {
  const keys = new Keys(database, options.now ?? Date.now);
  keys.startFlushing(options.flushIntervalMs ?? 10_000);
  return keys;
}

class Keys implements ApiKeys {
  readonly #database: Database;
  readonly #now: () => number;
  /** Hex hash to owner; only keys that exist, so that guesses cannot fill it. */
  readonly #cache = new Map<string, Principal>();
  readonly #lastUsed = new Map<string, number>();
  #dataVersion = -1;
  #timer: NodeJS.Timeout | undefined;

  constructor(database: Database, now: () => number) {
    this.#database = database;
    this.#now = now;
  }

  startFlushing(intervalMs: number): void {
    if (intervalMs <= 0) return;
    this.#timer = setInterval(() => this.#flushQuietly(), intervalMs);
    this.#timer.unref();
  }

  authenticate(presented: string | undefined): Principal | undefined {
    if (presented === undefined || !hasSecretForm(presented, KEY_PREFIX)) return undefined;
    const wanted = hashOf(presented);
    const hex = wanted.toString('hex');
    // `coppice key revoke` runs in a process of its own: the data version tells that it has written.
    const version = this.#database.dataVersion();
    if (version !== this.#dataVersion) {
      this.#dataVersion = version;
      this.#cache.clear();
    }
    const principal = this.#cache.get(hex) ?? this.#lookUp(wanted, hex);
    if (principal !== undefined) this.#lastUsed.set(principal.keyID, this.#now());
    return principal;
  }

  #lookUp(wanted: Buffer, hex: string): Principal | undefined {
    const row = this.#database
      .prepare('SELECT key_id, team_id, hash FROM api_keys WHERE hash = ? AND revoked_at_ms IS NULL')
      .get(wanted) as Pick<KeyRow, 'key_id' | 'team_id' | 'hash'> | undefined;
    if (row === undefined || !sameHash(row.hash, wanted)) return undefined;
    const principal = Object.freeze({ teamID: row.team_id, keyID: row.key_id });
    if (this.#cache.size >= CACHE_MAX) this.#cache.clear();
    this.#cache.set(hex, principal);
    return principal;
  }

  create({ teamID, name }: { readonly teamID: string; readonly name: string }): { key: string; view: ApiKeyView } {
    const key = newSecret(KEY_PREFIX);
    const keyID = this.#insert(teamID, checkedName(name, 'a key'), key);
    return { key, view: this.#view(keyID)! };
  }

  adopt(wish: {
    readonly teamID: string;
    readonly name: string;
    readonly key: string;
    readonly tokenID: string;
  }): void {
    const known = this.#database.prepare('SELECT 1 FROM api_keys WHERE hash = ?').get(hashOf(wish.key));
    if (known === undefined) this.#insert(wish.teamID, wish.name, wish.key, wish.tokenID);
  }

  #insert(teamID: string, name: string, key: string, tokenID: string | null = null): string {
    const keyID = randomUUID();
    this.#database.transaction(() => {
      const team = this.#database.prepare('SELECT 1 FROM teams WHERE team_id = ?').get(teamID);
      if (team === undefined) throw new CoppiceError('bad_request', `there is no team ${teamID}`);
      this.#database
        .prepare(
          'INSERT INTO api_keys (key_id, team_id, name, hash, mask_prefix, mask_suffix, created_at_ms, token_id) ' +
            'VALUES (?, ?, ?, ?, ?, ?, ?, ?)',
        )
        .run(keyID, teamID, name, hashOf(key), ...visibleEnds(key, KEY_PREFIX), this.#now(), tokenID);
    });
    return keyID;
  }

  countRevoked(tokenID: string, teamID: string): number {
    const row = this.#database
      .prepare(
        'SELECT count(*) AS found FROM api_keys WHERE token_id = ? AND team_id = ? AND revoked_at_ms IS NOT NULL',
      )
      .get(tokenID, teamID) as { readonly found: number };
    return row.found;
  }

  rename(teamID: string, keyID: string, name: string): ApiKeyView | undefined {
    const { changes } = this.#database
      .prepare('UPDATE api_keys SET name = ? WHERE key_id = ? AND team_id = ? AND revoked_at_ms IS NULL')
      .run(checkedName(name, 'a key'), keyID, teamID);
    return Number(changes) > 0 ? this.#view(keyID) : undefined;
  }

  #view(keyID: string): ApiKeyView | undefined {
    const row = this.#database.prepare('SELECT * FROM api_keys WHERE key_id = ?').get(keyID);
    return row === undefined ? undefined : toView(row as unknown as KeyRow);
  }

  revoke(keyID: string, teamID?: string): boolean {
    const { changes } = this.#database
      .prepare(
        'UPDATE api_keys SET revoked_at_ms = ? WHERE key_id = ? AND team_id = ifnull(?, team_id) AND revoked_at_ms IS NULL',
      )
      .run(this.#now(), keyID, teamID ?? null);
    this.#cache.clear();
    return Number(changes) > 0;
  }

  revokeDerived(tokenID: string): void {
    this.#database
      .prepare('UPDATE api_keys SET revoked_at_ms = ? WHERE token_id = ? AND revoked_at_ms IS NULL')
      .run(this.#now(), tokenID);
    this.#cache.clear();
  }

  list(teamID?: string): readonly ApiKeyView[] {
    const rows = (teamID === undefined
      ? this.#database.prepare('SELECT * FROM api_keys ORDER BY created_at_ms, key_id').all()
      : this.#database
          .prepare('SELECT * FROM api_keys WHERE team_id = ? ORDER BY created_at_ms, key_id')
          .all(teamID)) as unknown as KeyRow[];
    return rows.map(toView);
  }

  flush(): void {
    if (this.#lastUsed.size === 0) return;
    this.#database.transaction(() => {
      const update = this.#database.prepare('UPDATE api_keys SET last_used_at_ms = ? WHERE key_id = ?');
      for (const [keyID, at] of this.#lastUsed) update.run(at, keyID);
    });
    this.#lastUsed.clear();
  }

  /** A busy database keeps the times in memory for the next round; nothing depends on them. */
  #flushQuietly(): void {
    try {
      this.flush();
    } catch {
      // tried again at the next interval and at close
    }
  }

  close(): void {
    clearInterval(this.#timer);
    this.#flushQuietly();
  }
}

function toView(row: KeyRow): ApiKeyView {
  return Object.freeze({
    keyID: row.key_id,
    teamID: row.team_id,
    name: row.name,
    mask: maskOf(KEY_PREFIX, row.mask_prefix, row.mask_suffix),
    createdAtMs: row.created_at_ms,
    ...(row.last_used_at_ms === null ? {} : { lastUsedAtMs: row.last_used_at_ms }),
    ...(row.revoked_at_ms === null ? {} : { revokedAtMs: row.revoked_at_ms }),
  });
}
