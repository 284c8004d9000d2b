/**
 * API keys: `e2b_` and 40 hex digits from 20 random bytes, the format that every E2B SDK accepts without being told.
 *
 * The database holds the SHA-256 of a key and the few characters that make it recognisable; the key itself is shown
 * once. A plain hash is enough because the key is 160 bits of randomness: there is nothing to guess. Lookup goes by the
 * hash, so its timing tells nothing about a stored key; the final comparison is constant in time as well.
 */
import { hash, randomBytes, randomUUID, timingSafeEqual } from 'node:crypto';
import { CoppiceError } from '../contract/errors.ts';
import type { Database } from '../store/database.ts';

const KEY_PREFIX = 'e2b_';
const KEY_PATTERN = /^e2b_[0-9a-f]{40}$/;
const CACHE_MAX = 1024;
const NAME_MAX = 128;

/** Who a request speaks for. */
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
  /** E2B's four mask members. */
  readonly mask: {
    readonly prefix: string;
    readonly valueLength: number;
    readonly maskedValuePrefix: string;
    readonly maskedValueSuffix: string;
  };
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
  /** False if there is no such key or it is revoked already. Other processes see it at their next request. */
  revoke(keyID: string): boolean;
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
    if (presented === undefined || presented.length !== 44 || !KEY_PATTERN.test(presented)) return undefined;
    const hex = hash('sha256', presented, 'hex');
    // `coppice key revoke` runs in a process of its own: the data version tells that it has written.
    const version = this.#database.dataVersion();
    if (version !== this.#dataVersion) {
      this.#dataVersion = version;
      this.#cache.clear();
    }
    const principal = this.#cache.get(hex) ?? this.#lookUp(hex);
    if (principal !== undefined) this.#lastUsed.set(principal.keyID, this.#now());
    return principal;
  }

  #lookUp(hex: string): Principal | undefined {
    const wanted = Buffer.from(hex, 'hex');
    const row = this.#database
      .prepare('SELECT key_id, team_id, hash FROM api_keys WHERE hash = ? AND revoked_at_ms IS NULL')
      .get(wanted) as Pick<KeyRow, 'key_id' | 'team_id' | 'hash'> | undefined;
    if (row === undefined || !timingSafeEqual(row.hash, wanted)) return undefined;
    const principal = Object.freeze({ teamID: row.team_id, keyID: row.key_id });
    if (this.#cache.size >= CACHE_MAX) this.#cache.clear();
    this.#cache.set(hex, principal);
    return principal;
  }

  create(wish: { readonly teamID: string; readonly name: string }): { key: string; view: ApiKeyView } {
    const name = wish.name.trim();
    if (name.length === 0 || name.length > NAME_MAX)
      throw new CoppiceError('bad_request', `a key needs a name of 1 to ${NAME_MAX} characters`);
    const value = randomBytes(20).toString('hex');
    const key = KEY_PREFIX + value;
    const keyID = randomUUID();
    const createdAtMs = this.#now();
    this.#database.transaction(() => {
      const team = this.#database.prepare('SELECT 1 FROM teams WHERE team_id = ?').get(wish.teamID);
      if (team === undefined) throw new CoppiceError('bad_request', `there is no team ${wish.teamID}`);
      this.#database
        .prepare(
          'INSERT INTO api_keys (key_id, team_id, name, hash, mask_prefix, mask_suffix, created_at_ms) ' +
            'VALUES (?, ?, ?, ?, ?, ?, ?)',
        )
        .run(keyID, wish.teamID, name, hash('sha256', key, 'buffer'), value.slice(0, 2), value.slice(-4), createdAtMs);
    });
    return { key, view: this.list(wish.teamID).find((each) => each.keyID === keyID)! };
  }

  revoke(keyID: string): boolean {
    const { changes } = this.#database
      .prepare('UPDATE api_keys SET revoked_at_ms = ? WHERE key_id = ? AND revoked_at_ms IS NULL')
      .run(this.#now(), keyID);
    this.#cache.clear();
    return Number(changes) > 0;
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
    mask: {
      prefix: KEY_PREFIX,
      valueLength: 40,
      maskedValuePrefix: row.mask_prefix,
      maskedValueSuffix: row.mask_suffix,
    },
    createdAtMs: row.created_at_ms,
    ...(row.last_used_at_ms === null ? {} : { lastUsedAtMs: row.last_used_at_ms }),
    ...(row.revoked_at_ms === null ? {} : { revokedAtMs: row.revoked_at_ms }),
  });
}
