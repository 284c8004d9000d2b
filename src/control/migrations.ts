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
  {
    version: 3,
    name: 'control-tokens-nodes-and-points',
    sql: `
      CREATE UNIQUE INDEX teams_name ON teams (name);
      CREATE TABLE access_tokens (
        token_id TEXT PRIMARY KEY,
        name TEXT NOT NULL,
        hash BLOB NOT NULL UNIQUE CHECK (length(hash) = 32),
        mask_prefix TEXT NOT NULL,
        mask_suffix TEXT NOT NULL,
        created_at_ms INTEGER NOT NULL,
        revoked_at_ms INTEGER
      ) STRICT;
      CREATE TABLE access_token_teams (
        token_id TEXT NOT NULL REFERENCES access_tokens (token_id),
        team_id TEXT NOT NULL REFERENCES teams (team_id),
        PRIMARY KEY (token_id, team_id)
      ) STRICT, WITHOUT ROWID;
      ALTER TABLE api_keys ADD COLUMN token_id TEXT REFERENCES access_tokens (token_id);
      CREATE INDEX api_keys_token ON api_keys (token_id, team_id) WHERE token_id IS NOT NULL;
      CREATE TABLE admin_token (
        only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
        hash BLOB NOT NULL CHECK (length(hash) = 32),
        created_at_ms INTEGER NOT NULL
      ) STRICT;
      CREATE TABLE node_states (
        node_id TEXT PRIMARY KEY,
        status TEXT NOT NULL CHECK (status IN ('ready', 'draining', 'standby')),
        changed_at_ms INTEGER NOT NULL
      ) STRICT, WITHOUT ROWID;
      CREATE TABLE team_points (
        team_id TEXT NOT NULL REFERENCES teams (team_id),
        at_ms INTEGER NOT NULL,
        span_ms INTEGER NOT NULL,
        running INTEGER NOT NULL,
        starts INTEGER NOT NULL,
        PRIMARY KEY (team_id, at_ms)
      ) STRICT, WITHOUT ROWID;
    `,
  },
  {
    version: 4,
    name: 'control-webhooks',
    sql: `
      CREATE TABLE webhooks (
        webhook_id TEXT PRIMARY KEY,
        team_id TEXT NOT NULL REFERENCES teams (team_id),
        name TEXT NOT NULL,
        url TEXT NOT NULL,
        secret TEXT NOT NULL,
        kinds TEXT NOT NULL,
        enabled INTEGER NOT NULL CHECK (enabled IN (0, 1)),
        seen INTEGER NOT NULL,
        created_at_ms INTEGER NOT NULL
      ) STRICT;
      CREATE INDEX webhooks_team ON webhooks (team_id, created_at_ms);
      CREATE TABLE deliveries (
        delivery_id TEXT PRIMARY KEY,
        webhook_id TEXT NOT NULL REFERENCES webhooks (webhook_id) ON DELETE CASCADE,
        event_id TEXT NOT NULL,
        kind TEXT NOT NULL,
        body TEXT NOT NULL,
        state TEXT NOT NULL CHECK (state IN ('pending', 'delivered', 'dead')),
        attempts INTEGER NOT NULL,
        next_at_ms INTEGER NOT NULL,
        status INTEGER,
        error TEXT,
        created_at_ms INTEGER NOT NULL
      ) STRICT;
      CREATE INDEX deliveries_due ON deliveries (next_at_ms) WHERE state = 'pending';
      CREATE INDEX deliveries_webhook ON deliveries (webhook_id, created_at_ms);
    `,
  },
  {
    version: 5,
    name: 'control-secrets',
    sql: `
      CREATE TABLE secrets (
        secret_id TEXT PRIMARY KEY,
        team_id TEXT NOT NULL REFERENCES teams (team_id),
        name TEXT NOT NULL,
        version INTEGER NOT NULL,
        sealed BLOB NOT NULL,
        metadata TEXT NOT NULL,
        created_at_ms INTEGER NOT NULL,
        updated_at_ms INTEGER NOT NULL,
        UNIQUE (team_id, name)
      ) STRICT;
      CREATE INDEX secrets_team ON secrets (team_id, created_at_ms, secret_id);
    `,
  },
];
