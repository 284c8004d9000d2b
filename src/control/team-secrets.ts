/**
 * Secrets of teams: names that clients see, values that none ever does. Values are sealed with a key that lies beside the
 * database, so that a copy of the database tells nothing. Only the newest version is kept: nothing can name another.
 */
import { createCipheriv, createDecipheriv, randomBytes, randomInt } from 'node:crypto';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { CoppiceError } from '../contract/errors.ts';
import type { Database } from '../store/database.ts';

export interface Secret {
  /** `sec_` and 20 of [a-z0-9]. */
  readonly secretID: string;
  /** Lower case; of a team only one. */
  readonly name: string;
  /** 1, and one more with each new value. */
  readonly version: number;
  readonly metadata: Readonly<Record<string, string>>;
  readonly createdAtMs: number;
  readonly updatedAtMs: number;
}

export interface SecretWish {
  readonly value: string;
  /** Default: none, or what there is. */
  readonly metadata?: Readonly<Record<string, string>>;
}

export interface SecretPosition {
  readonly createdAtMs: number;
  readonly secretID: string;
}

/** A secret is chosen by id or name; `secret_not_found` when the team has no such. */
export interface Secrets {
  /** bad_request: no name for one, or too many; conflict: the team has one of that name. */
  create(teamID: string, name: string, wish: SecretWish): Secret;
  update(teamID: string, secret: string, wish: SecretWish): Secret;
  get(teamID: string, secret: string): Secret;
  delete(teamID: string, secret: string): void;
  /** Newest first, those after a position. */
  list(teamID: string, options: { readonly limit: number; readonly after?: SecretPosition }): readonly Secret[];
  /** For whoever puts it where a placeholder stands; nothing that a client reads has it. */
  reveal(teamID: string, secret: string): string;
}

const ID_PREFIX = 'sec_';
const ALPHABET = 'abcdefghijklmnopqrstuvwxyz0123456789';
/** As E2B's SDK has it: names stand between braces in a placeholder. */
const NAME = /^[^{}\p{Cc}]{1,128}$/u;
const MOST_PER_TEAM = 1_000;
const KEY_BYTES = 32;
const NONCE_BYTES = 12;
const TAG_BYTES = 16;

/** The key of a database: made once, mode 0600; of one in memory, its own. */
export function openSecretKey(databasePath: string): Buffer {
  if (databasePath === ':memory:') return randomBytes(KEY_BYTES);
  const path = secretKeyPath(databasePath);
  if (!existsSync(path)) writeFileSync(path, randomBytes(KEY_BYTES), { mode: 0o600, flag: 'wx' });
  return readFileSync(path);
}

export function secretKeyPath(databasePath: string): string {
  return `${databasePath}.secrets-key`;
}

interface Row {
  readonly secret_id: string;
  readonly name: string;
  readonly version: number;
  readonly sealed: Uint8Array;
  readonly metadata: string;
  readonly created_at_ms: number;
  readonly updated_at_ms: number;
}

export function createSecrets(database: Database, key: Buffer, now: () => number = Date.now): Secrets {
  const find = (teamID: string, secret: string): Row => {
    const [column, wanted] = secret.startsWith(ID_PREFIX) ? ['secret_id', secret] : ['name', secret.toLowerCase()];
    const row = database.prepare(`SELECT * FROM secrets WHERE team_id = ? AND ${column} = ?`).get(teamID, wanted);
    if (row) return row as unknown as Row;
    throw new CoppiceError('secret_not_found', `Secret '${secret.slice(0, 128)}' not found`);
  };

  return {
    create(teamID, given, { value, metadata = {} }) {
      const name = given.toLowerCase();
      if (!NAME.test(name))
        throw new CoppiceError('bad_request', 'name: expected 1 to 128 characters, no braces, no control characters');
      if (name.startsWith(ID_PREFIX))
        throw new CoppiceError('bad_request', `name: ${ID_PREFIX} is how the ids of secrets begin`);
      const { count } = database.prepare('SELECT count(*) AS count FROM secrets WHERE team_id = ?').get(teamID) as {
        count: number;
      };
      if (count >= MOST_PER_TEAM)
        throw new CoppiceError('bad_request', `there are ${MOST_PER_TEAM} secrets already; delete some`);
      const secretID = newSecretID();
      const at = now();
      const { changes } = database
        .prepare(
          `INSERT INTO secrets (secret_id, team_id, name, version, sealed, metadata, created_at_ms, updated_at_ms)
           VALUES (?, ?, ?, 1, ?, ?, ?, ?) ON CONFLICT DO NOTHING`,
        )
        .run(secretID, teamID, name, seal(key, value, `${secretID} 1`), JSON.stringify(metadata), at, at);
      if (Number(changes) === 0) throw new CoppiceError('conflict', `Secret with name '${name}' already exists`);
      return toSecret(find(teamID, secretID));
    },
    update(teamID, secret, { value, metadata }) {
      const { secret_id: secretID, version, metadata: before } = find(teamID, secret);
      const next = version + 1;
      database
        .prepare('UPDATE secrets SET version = ?, sealed = ?, metadata = ?, updated_at_ms = ? WHERE secret_id = ?')
        .run(
          next,
          seal(key, value, `${secretID} ${next}`),
          metadata === undefined ? before : JSON.stringify(metadata),
          now(),
          secretID,
        );
      return toSecret(find(teamID, secretID));
    },
    get: (teamID, secret) => toSecret(find(teamID, secret)),
    delete(teamID, secret) {
      database.prepare('DELETE FROM secrets WHERE secret_id = ?').run(find(teamID, secret).secret_id);
    },
    list(teamID, { limit, after = { createdAtMs: Number.MAX_SAFE_INTEGER, secretID: '' } }) {
      const rows = database
        .prepare(
          `SELECT * FROM secrets WHERE team_id = ? AND (created_at_ms, secret_id) < (?, ?)
           ORDER BY created_at_ms DESC, secret_id DESC LIMIT ?`,
        )
        .all(teamID, after.createdAtMs, after.secretID, limit);
      return (rows as unknown as Row[]).map(toSecret);
    },
    reveal(teamID, secret) {
      const { secret_id: secretID, version, sealed } = find(teamID, secret);
      return unseal(key, Buffer.from(sealed), `${secretID} ${version}`);
    },
  };
}

/** AES-256-GCM: nonce, tag, text. `context` is vouched for with it, so that a value cannot stand in for another. */
function seal(key: Buffer, value: string, context: string): Buffer {
  const nonce = randomBytes(NONCE_BYTES);
  const cipher = createCipheriv('aes-256-gcm', key, nonce).setAAD(Buffer.from(context));
  const text = Buffer.concat([cipher.update(value, 'utf8'), cipher.final()]);
  return Buffer.concat([nonce, cipher.getAuthTag(), text]);
}

function unseal(key: Buffer, sealed: Buffer, context: string): string {
  const decipher = createDecipheriv('aes-256-gcm', key, sealed.subarray(0, NONCE_BYTES))
    .setAAD(Buffer.from(context))
    .setAuthTag(sealed.subarray(NONCE_BYTES, NONCE_BYTES + TAG_BYTES));
  return decipher.update(sealed.subarray(NONCE_BYTES + TAG_BYTES), undefined, 'utf8') + decipher.final('utf8');
}

function newSecretID(): string {
  return ID_PREFIX + Array.from({ length: 20 }, () => ALPHABET[randomInt(ALPHABET.length)]).join('');
}

function toSecret(row: Row): Secret {
  return {
    secretID: row.secret_id,
    name: row.name,
    version: row.version,
    metadata: JSON.parse(row.metadata) as Record<string, string>,
    createdAtMs: row.created_at_ms,
    updatedAtMs: row.updated_at_ms,
  };
}
