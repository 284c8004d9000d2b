/** The node's database. A migration that has been released is never changed. */
import type { Migration } from '../store/database.ts';

export const MIGRATIONS: readonly Migration[] = [
  {
    version: 1,
    name: 'node: machines',
    sql: `
      CREATE TABLE machine (
        id TEXT PRIMARY KEY,
        state TEXT NOT NULL CHECK (state IN ('preparing','hot','creating','running','killing')),
        template_id TEXT NOT NULL,
        build_id TEXT NOT NULL,
        memory_mb INTEGER NOT NULL,
        uid INTEGER,
        generation TEXT NOT NULL,
        record TEXT,
        attachment TEXT,
        created_at INTEGER NOT NULL,
        team_id TEXT,
        secure INTEGER,
        metadata TEXT,
        env TEXT,
        allow_internet INTEGER,
        started_at INTEGER,
        end_at INTEGER
      ) STRICT;
      CREATE UNIQUE INDEX machine_uid ON machine (uid) WHERE uid IS NOT NULL;
      CREATE INDEX machine_team ON machine (team_id, started_at, id);
      CREATE TABLE spawned (
        template_id TEXT PRIMARY KEY,
        count INTEGER NOT NULL,
        last_at INTEGER NOT NULL
      ) STRICT;
    `,
  },
  {
    version: 2,
    name: 'node: pauses and snapshots',
    // A CHECK cannot be altered: the table is made anew.
    sql: `
      CREATE TABLE machine_2 (
        id TEXT PRIMARY KEY,
        state TEXT NOT NULL CHECK
          (state IN ('preparing','hot','creating','running','pausing','paused','resuming','killing')),
        template_id TEXT NOT NULL,
        build_id TEXT NOT NULL,
        memory_mb INTEGER NOT NULL,
        uid INTEGER,
        generation TEXT NOT NULL,
        record TEXT,
        created_at INTEGER NOT NULL,
        team_id TEXT,
        secure INTEGER,
        metadata TEXT,
        env TEXT,
        allow_internet INTEGER,
        started_at INTEGER,
        end_at INTEGER,
        on_timeout TEXT CHECK (on_timeout IN ('kill','pause'))
      ) STRICT;
      INSERT INTO machine_2 SELECT id, state, template_id, build_id, memory_mb, uid, generation, record, created_at,
        team_id, secure, metadata, env, allow_internet, started_at, end_at, iif(team_id IS NULL, NULL, 'kill') FROM machine;
      DROP TABLE machine;
      ALTER TABLE machine_2 RENAME TO machine;
      CREATE UNIQUE INDEX machine_uid ON machine (uid) WHERE uid IS NOT NULL;
      CREATE INDEX machine_team ON machine (team_id, started_at, id);
      CREATE INDEX machine_build ON machine (build_id);
      CREATE TABLE snapshot (
        build_id TEXT PRIMARY KEY,
        template_id TEXT NOT NULL,
        state TEXT NOT NULL CHECK (state IN ('capturing','ready','deleting','deleted')),
        team_id TEXT NOT NULL,
        alias TEXT,
        tag TEXT NOT NULL,
        source_id TEXT NOT NULL,
        isolation TEXT NOT NULL,
        image TEXT NOT NULL,
        shape TEXT NOT NULL,
        languages TEXT NOT NULL,
        env TEXT NOT NULL,
        created_at INTEGER NOT NULL
      ) STRICT;
      CREATE UNIQUE INDEX snapshot_tag ON snapshot (template_id, tag) WHERE state = 'ready';
      CREATE INDEX snapshot_team ON snapshot (team_id, created_at, build_id);
    `,
  },
  {
    version: 3,
    name: 'node: checkpoints of sandboxes',
    sql: `
      ALTER TABLE machine ADD COLUMN timeout_ms INTEGER;
      ALTER TABLE machine ADD COLUMN pause_memory INTEGER;
      ALTER TABLE machine ADD COLUMN auto_resume INTEGER;
      ALTER TABLE machine ADD COLUMN base_id TEXT NOT NULL DEFAULT '';
      ALTER TABLE machine ADD COLUMN parent_id TEXT NOT NULL DEFAULT '';
      ALTER TABLE machine ADD COLUMN kept TEXT;
      UPDATE machine SET base_id = build_id, parent_id = build_id,
        timeout_ms = iif(team_id IS NULL, NULL, max(end_at - started_at, 1000)),
        pause_memory = iif(team_id IS NULL, NULL, 1), auto_resume = iif(team_id IS NULL, NULL, 0);
      ALTER TABLE snapshot ADD COLUMN memory INTEGER NOT NULL DEFAULT 0;
      ALTER TABLE snapshot ADD COLUMN hidden INTEGER NOT NULL DEFAULT 0;
      ALTER TABLE snapshot ADD COLUMN base_id TEXT NOT NULL DEFAULT '';
      ALTER TABLE snapshot ADD COLUMN parent_id TEXT NOT NULL DEFAULT '';
      ALTER TABLE snapshot ADD COLUMN own_bytes INTEGER NOT NULL DEFAULT 0;
      CREATE INDEX machine_base ON machine (base_id);
      CREATE INDEX snapshot_base ON snapshot (base_id);
    `,
  },
  {
    version: 4,
    name: 'node: templates of teams',
    sql: `
      CREATE TABLE template (
        template_id TEXT PRIMARY KEY,
        team_id TEXT NOT NULL,
        name TEXT NOT NULL,
        public INTEGER NOT NULL,
        created_at INTEGER NOT NULL,
        updated_at INTEGER NOT NULL
      ) STRICT;
      CREATE UNIQUE INDEX template_name ON template (team_id, name);
      CREATE TABLE template_tag (
        template_id TEXT NOT NULL REFERENCES template (template_id) ON DELETE CASCADE,
        tag TEXT NOT NULL,
        build_id TEXT NOT NULL,
        created_at INTEGER NOT NULL,
        PRIMARY KEY (template_id, tag)
      ) STRICT;
      CREATE TABLE build (
        build_id TEXT PRIMARY KEY,
        template_id TEXT NOT NULL,
        team_id TEXT NOT NULL,
        name TEXT NOT NULL,
        state TEXT NOT NULL CHECK (state IN ('waiting','building','ready','error','deleting')),
        tags TEXT NOT NULL,
        shape TEXT NOT NULL,
        request TEXT,
        attempts INTEGER NOT NULL DEFAULT 0,
        reason TEXT,
        result TEXT,
        created_at INTEGER NOT NULL,
        started_at INTEGER,
        updated_at INTEGER NOT NULL,
        finished_at INTEGER
      ) STRICT;
      CREATE INDEX build_template ON build (template_id, created_at);
      CREATE INDEX build_state ON build (state);
      CREATE TABLE build_log (
        build_id TEXT NOT NULL,
        line INTEGER NOT NULL,
        at INTEGER NOT NULL,
        level TEXT NOT NULL,
        step TEXT,
        message TEXT NOT NULL,
        PRIMARY KEY (build_id, line)
      ) STRICT, WITHOUT ROWID;
      CREATE TABLE build_step (
        result_id TEXT PRIMARY KEY,
        team_id TEXT NOT NULL,
        key TEXT NOT NULL,
        state TEXT NOT NULL CHECK (state IN ('keeping','ready','deleting')),
        rootfs TEXT NOT NULL,
        bytes INTEGER NOT NULL DEFAULT 0,
        used_at INTEGER NOT NULL
      ) STRICT;
      CREATE INDEX build_step_key ON build_step (team_id, key);
    `,
  },
  {
    version: 5,
    name: 'node: who may reach a sandbox',
    sql: `
      ALTER TABLE machine ADD COLUMN public_traffic INTEGER;
      ALTER TABLE machine ADD COLUMN mask_request_host TEXT;
      UPDATE machine SET public_traffic = iif(team_id IS NULL, NULL, 1);
    `,
  },
  {
    version: 6,
    name: 'node: volumes',
    sql: `
      CREATE TABLE volume (
        volume_id TEXT PRIMARY KEY,
        team_id TEXT NOT NULL,
        name TEXT NOT NULL,
        state TEXT NOT NULL CHECK (state IN ('making','ready','deleting')),
        created_at INTEGER NOT NULL
      ) STRICT;
      CREATE UNIQUE INDEX volume_name ON volume (team_id, name) WHERE state <> 'deleting';
      ALTER TABLE machine ADD COLUMN volume_mounts TEXT;
    `,
  },
];
