/** The schema of the journal. A migration that has been released is never changed. Times are milliseconds since the epoch. */
import type { Migration } from '../store/database.ts';

export const JOURNAL_MIGRATIONS: readonly Migration[] = [
  {
    version: 1,
    name: 'journal: entries and events',
    sql: `
      CREATE TABLE subject (
        sandbox_id TEXT PRIMARY KEY,
        team_id TEXT NOT NULL,
        state TEXT NOT NULL CHECK (state IN ('running','paused','gone')),
        generation TEXT NOT NULL,
        template_id TEXT NOT NULL,
        build_id TEXT NOT NULL,
        since_ms INTEGER NOT NULL
      ) STRICT, WITHOUT ROWID;
      CREATE INDEX subject_gone ON subject (since_ms) WHERE state = 'gone';
      CREATE TABLE entry (
        sequence INTEGER PRIMARY KEY,
        sandbox_id TEXT NOT NULL,
        at_ms INTEGER NOT NULL,
        level INTEGER NOT NULL,
        message TEXT NOT NULL,
        fields TEXT NOT NULL,
        bytes INTEGER NOT NULL
      ) STRICT;
      CREATE INDEX entry_sandbox ON entry (sandbox_id, at_ms, sequence);
      CREATE TABLE event (
        position INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        kind TEXT NOT NULL,
        at_ms INTEGER NOT NULL,
        team_id TEXT NOT NULL,
        sandbox_id TEXT NOT NULL,
        generation TEXT NOT NULL,
        template_id TEXT NOT NULL,
        build_id TEXT NOT NULL,
        data TEXT NOT NULL
      ) STRICT;
      CREATE INDEX event_team ON event (team_id, position);
      CREATE INDEX event_sandbox ON event (sandbox_id, position);
    `,
  },
];
