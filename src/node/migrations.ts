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
];
