/** The schema of the control database. Times are milliseconds since the epoch. */
import type { Migration } from '../store/database.ts';

export const CONTROL_MIGRATIONS: readonly Migration[] = [
  {
    version: 1,
    name: 'control-teams-and-keys',
    sql: `
      CREATE TABLE teams (
        team_id TEXT PRIMARY KEY,
        name TEXT NOT NULL,
        is_default INTEGER NOT NULL CHECK (is_default IN (0, 1)),
        created_at_ms INTEGER NOT NULL
      ) STRICT;
      CREATE UNIQUE INDEX teams_one_default ON teams (is_default) WHERE is_default = 1;
      CREATE TABLE api_keys (
        key_id TEXT PRIMARY KEY,
        team_id TEXT NOT NULL REFERENCES teams (team_id),
        name TEXT NOT NULL,
        hash BLOB NOT NULL UNIQUE CHECK (length(hash) = 32),
        mask_prefix TEXT NOT NULL,
        mask_suffix TEXT NOT NULL,
        created_at_ms INTEGER NOT NULL,
        last_used_at_ms INTEGER,
        revoked_at_ms INTEGER
      ) STRICT;
      CREATE INDEX api_keys_team ON api_keys (team_id, created_at_ms);
    `,
  },
  {
    version: 2,
    name: 'control-idempotency',
    sql: `
      CREATE TABLE idempotency (
        team_id TEXT NOT NULL,
        key TEXT NOT NULL,
        fingerprint TEXT NOT NULL,
        boot_id TEXT NOT NULL,
        created_at_ms INTEGER NOT NULL,
        status INTEGER,
        response TEXT,
        PRIMARY KEY (team_id, key)
      ) STRICT, WITHOUT ROWID;
      CREATE INDEX idempotency_age ON idempotency (created_at_ms);
    `,
  },
];
