/** The journal's rows. SQL of the journal is here and in its migrations, and nowhere else. */
import {
  type EventKind,
  type EventsQuery,
  type LifecycleEvent,
  LOG_LEVELS,
  type LogEntry,
} from '../contract/node-api.ts';
import { type Database, openDatabase } from '../store/database.ts';
import { JOURNAL_MIGRATIONS } from './journal-migrations.ts';

/** A sandbox as it was last told of. */
export interface Subject {
  readonly sandboxID: string;
  readonly teamID: string;
  readonly state: 'running' | 'paused' | 'gone';
  readonly generation: string;
  readonly templateID: string;
  readonly buildID: string;
  /** Since when it is in that state. */
  readonly sinceMs: number;
}

export interface Noted {
  readonly sandboxID: string;
  readonly entry: LogEntry;
  /** What it counts for. */
  readonly bytes: number;
}

/** Of one sandbox: milliseconds `fromMs` ≤ t < `beforeMs`. */
export interface EntriesQuery {
  readonly sandboxID: string;
  readonly fromMs: number;
  readonly beforeMs: number;
  readonly level: number;
  readonly search: string;
  readonly order: 'asc' | 'desc';
  readonly limit: number;
}

export interface Held {
  readonly entries: number;
  readonly bytes: number;
}

type Value = string | number | null;

interface RawEvent {
  position: number;
  id: string;
  kind: EventKind;
  at_ms: number;
  team_id: string;
  sandbox_id: string;
  generation: string;
  template_id: string;
  build_id: string;
  data: string;
}

export class JournalStore {
  readonly #db: Database;

  constructor(file: string) {
    this.#db = openDatabase(file, JOURNAL_MIGRATIONS);
  }

  close(): void {
    this.#db.close();
  }

  #run(sql: string, ...values: Value[]): number {
    return Number(this.#db.prepare(sql).run(...values).changes);
  }

  #all<T>(sql: string, ...values: Value[]): T[] {
    return this.#db.prepare(sql).all(...values) as T[];
  }

  /** All of it or nothing. */
  write(batch: {
    readonly subjects: readonly Subject[];
    readonly entries: readonly Noted[];
    readonly events: readonly Omit<LifecycleEvent, 'position'>[];
  }): void {
    this.#db.transaction(() => {
      for (const { sandboxID, teamID, state, generation, templateID, buildID, sinceMs } of batch.subjects)
        this.#run(
          'INSERT OR REPLACE INTO subject (sandbox_id, team_id, state, generation, template_id, build_id, since_ms) VALUES (?, ?, ?, ?, ?, ?, ?)',
          ...[sandboxID, teamID, state, generation, templateID, buildID, sinceMs],
        );
      for (const { sandboxID, entry, bytes } of batch.entries)
        this.#run(
          'INSERT INTO entry (sandbox_id, at_ms, level, message, fields, bytes) VALUES (?, ?, ?, ?, ?, ?)',
          ...[sandboxID, entry.atMs, LOG_LEVELS.indexOf(entry.level)],
          ...[entry.message, JSON.stringify(entry.fields), bytes],
        );
      for (const { id, kind, atMs, teamID, sandboxID, generation, templateID, buildID, data } of batch.events)
        this.#run(
          'INSERT INTO event (id, kind, at_ms, team_id, sandbox_id, generation, template_id, build_id, data) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)',
          ...[id, kind, atMs, teamID, sandboxID, generation, templateID, buildID, JSON.stringify(data)],
        );
    });
  }

  subject(sandboxID: string): Subject | undefined {
    return this.#subjects('WHERE sandbox_id = ?', sandboxID)[0];
  }

  /** Those that are not gone. */
  living(): Subject[] {
    return this.#subjects(`WHERE state <> 'gone'`);
  }

  /** Those that have been gone since before that, longest first. */
  goneBefore(ms: number): string[] {
    return this.#subjects(`WHERE state = 'gone' AND since_ms < ? ORDER BY since_ms`, ms).map(
      ({ sandboxID }) => sandboxID,
    );
  }

  #subjects(where: string, ...values: Value[]): Subject[] {
    return this.#all<Subject>(
      `SELECT sandbox_id AS sandboxID, team_id AS teamID, state, generation, template_id AS templateID,
         build_id AS buildID, since_ms AS sinceMs FROM subject ${where}`,
      ...values,
    );
  }

  entries({ sandboxID, fromMs, beforeMs, level, search, order, limit }: EntriesQuery): LogEntry[] {
    const direction = order === 'asc' ? 'ASC' : 'DESC';
    const rows = this.#all<{ at_ms: number; level: number; message: string; fields: string }>(
      `SELECT at_ms, level, message, fields FROM entry
       WHERE sandbox_id = ? AND at_ms >= ? AND at_ms < ? AND level >= ? AND instr(message, ?) > 0
       ORDER BY at_ms ${direction}, sequence ${direction} LIMIT ?`,
      ...[sandboxID, fromMs, beforeMs, level, search, limit],
    );
    return rows.map((row) => ({
      atMs: row.at_ms,
      level: LOG_LEVELS[row.level] ?? 'info',
      message: row.message,
      fields: JSON.parse(row.fields) as LogEntry['fields'],
    }));
  }

  held(sandboxID: string): Held {
    const sql = 'SELECT count(*) AS entries, coalesce(sum(bytes), 0) AS bytes FROM entry WHERE sandbox_id = ?';
    return this.#all<Held>(sql, sandboxID)[0]!;
  }

  /** By sandbox, those that hold most first. */
  holders(): (Held & { readonly sandboxID: string })[] {
    return this.#all(
      'SELECT sandbox_id AS sandboxID, count(*) AS entries, sum(bytes) AS bytes FROM entry GROUP BY 1 ORDER BY 3 DESC',
    );
  }

  dropOldest(sandboxID: string, count: number): void {
    this.#run(
      `DELETE FROM entry WHERE sequence IN
         (SELECT sequence FROM entry WHERE sandbox_id = ? ORDER BY at_ms, sequence LIMIT ?)`,
      sandboxID,
      count,
    );
  }

  /** With all its entries. */
  forget(sandboxID: string): void {
    this.#db.transaction(() => {
      this.#run('DELETE FROM entry WHERE sandbox_id = ?', sandboxID);
      this.#run('DELETE FROM subject WHERE sandbox_id = ?', sandboxID);
    });
  }

  /** Entries of sandboxes that nothing else was told of. */
  dropStrays(): void {
    this.#run('DELETE FROM entry WHERE sandbox_id NOT IN (SELECT sandbox_id FROM subject)');
  }

  events({ teamID, sandboxID, id, kinds, order, after = 0, offset = 0, limit }: EventsQuery): LifecycleEvent[] {
    const given = Object.entries({ team_id: teamID, sandbox_id: sandboxID, id }).flatMap(([column, value]) =>
      value === undefined ? [] : [{ column, value }],
    );
    const where = [
      'position > ?',
      ...given.map(({ column }) => `${column} = ?`),
      ...(kinds ? [`kind IN (${kinds.map(() => '?').join(', ')})`] : []),
    ];
    const rows = this.#all<RawEvent>(
      `SELECT * FROM event WHERE ${where.join(' AND ')} ORDER BY position ${order === 'asc' ? 'ASC' : 'DESC'} LIMIT ? OFFSET ?`,
      ...[after, ...given.map(({ value }) => value), ...(kinds ?? []), limit, offset],
    );
    return rows.map((row) => ({
      id: row.id,
      position: row.position,
      kind: row.kind,
      atMs: row.at_ms,
      teamID: row.team_id,
      sandboxID: row.sandbox_id,
      generation: row.generation,
      templateID: row.template_id,
      buildID: row.build_id,
      data: JSON.parse(row.data) as LifecycleEvent['data'],
    }));
  }

  /** Position of the newest event there ever was. */
  head(): number {
    return this.#all<{ seq: number }>(`SELECT seq FROM sqlite_sequence WHERE name = 'event'`)[0]?.seq ?? 0;
  }

  /** Events from before that, and of each team all but its newest `most`. */
  dropEvents(beforeMs: number, most: number): void {
    this.#run('DELETE FROM event WHERE at_ms < ?', beforeMs);
    const crowded = this.#all<{ team_id: string }>('SELECT team_id FROM event GROUP BY 1 HAVING count(*) > ?', most);
    for (const { team_id: teamID } of crowded)
      this.#run(
        `DELETE FROM event WHERE team_id = ? AND position <=
           (SELECT position FROM event WHERE team_id = ? ORDER BY position DESC LIMIT 1 OFFSET ?)`,
        ...[teamID, teamID, most],
      );
  }
}
