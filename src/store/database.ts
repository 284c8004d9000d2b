/**
 * The embedded store: one SQLite file through node:sqlite, opened by exactly one room, which brings its own migrations.
 *
 * Write-ahead logging with `synchronous=NORMAL`: a commit is a write into the log without an fsync, so it costs tens of
 * microseconds. A committed transaction survives the death of the process, because the kernel holds the written pages.
 * Only a crash of the kernel or a loss of power can take the last commits back (never tear the file), and nothing that
 * these rows describe outlives that: the machines, routes and addresses of this host are gone with it.
 */
import { chmodSync, closeSync, mkdirSync, openSync } from 'node:fs';
import { dirname } from 'node:path';
import { DatabaseSync, type StatementSync } from 'node:sqlite';
import { CoppiceError } from '../contract/errors.ts';

/** One step of a schema. Once released it is never edited: a later change is a new step. */
export interface Migration {
  /** 1, 2, 3, ... without gaps. */
  readonly version: number;
  /** Unique over all rooms, so that a file opened by the wrong room is noticed. */
  readonly name: string;
  readonly sql: string;
}

export interface Database {
  readonly path: string;
  /** A prepared statement, cached by its text. Do not run the same text inside an `iterate()` over it. */
  prepare(sql: string): StatementSync;
  exec(sql: string): void;
  /**
   * Runs `fn` in one immediate transaction; a throw rolls it back and passes on. Calls nest (the inner one is a
   * savepoint). `fn` must be synchronous: a promise is refused, because its work would run outside the transaction.
   */
  transaction<T>(fn: () => T): T;
  /** Changes whenever another connection has committed to this file. */
  dataVersion(): number;
  close(): void;
  [Symbol.dispose](): void;
}

export interface OpenOptions {
  /** How long a statement waits for another process's write lock. Milliseconds, default 5000. */
  readonly busyTimeoutMs?: number;
}

const STATEMENT_CACHE_MAX = 256;

/**
 * Opens (and creates, mode 0600) the file at `path`, or `:memory:`, and brings its schema up to the last migration.
 * Throws `host_unfit` when the file is no database, belongs to another room, or was written by a newer Coppice.
 */
export function openDatabase(path: string, migrations: readonly Migration[], options: OpenOptions = {}): Database {
  checkNumbering(migrations);
  const busyTimeoutMs = options.busyTimeoutMs ?? 5000;
  if (path !== ':memory:') createPrivateFile(path);
  const handle = new DatabaseSync(path, { timeout: busyTimeoutMs, enableForeignKeyConstraints: true });
  try {
    enterWAL(handle, path, busyTimeoutMs);
    handle.exec('PRAGMA synchronous = NORMAL; PRAGMA journal_size_limit = 8388608');
    const database = new SqliteDatabase(handle, path);
    migrate(database, migrations);
    return database;
  } catch (error) {
    handle.close();
    if (error instanceof CoppiceError) throw error;
    throw new CoppiceError('host_unfit', `cannot open the database ${path}: ${text(error)}`, { cause: error });
  }
}

class SqliteDatabase implements Database {
  readonly path: string;
  readonly #handle: DatabaseSync;
  readonly #statements = new Map<string, StatementSync>();
  #depth = 0;
  #closed = false;

  constructor(handle: DatabaseSync, path: string) {
    this.#handle = handle;
    this.path = path;
  }

  prepare(sql: string): StatementSync {
    const cached = this.#statements.get(sql);
    if (cached !== undefined) return cached;
    const statement = this.#handle.prepare(sql);
    if (this.#statements.size >= STATEMENT_CACHE_MAX) {
      const oldest = this.#statements.keys().next().value;
      if (oldest !== undefined) this.#statements.delete(oldest);
    }
    this.#statements.set(sql, statement);
    return statement;
  }

  exec(sql: string): void {
    this.#handle.exec(sql);
  }

  transaction<T>(fn: () => T): T {
    const depth = this.#depth;
    const outer = depth === 0;
    this.#handle.exec(outer ? 'BEGIN IMMEDIATE' : `SAVEPOINT level_${depth}`);
    this.#depth = depth + 1;
    try {
      const result = fn();
      if (result instanceof Promise) {
        result.catch(() => {});
        throw new TypeError('a transaction function must be synchronous');
      }
      this.#handle.exec(outer ? 'COMMIT' : `RELEASE level_${depth}`);
      return result;
    } catch (error) {
      this.#rollback(outer, depth);
      throw error;
    } finally {
      this.#depth = depth;
    }
  }

  /** SQLite itself ends the transaction on some errors (disk full, for one); the first error is the one to report. */
  #rollback(outer: boolean, depth: number): void {
    try {
      this.#handle.exec(outer ? 'ROLLBACK' : `ROLLBACK TO level_${depth}; RELEASE level_${depth}`);
    } catch {
      // nothing left to roll back
    }
  }

  dataVersion(): number {
    return (this.prepare('PRAGMA data_version').get() as { data_version: number }).data_version;
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#statements.clear();
    this.#handle.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

/** SQLite gives its -wal and -shm files the mode of the main file. */
function createPrivateFile(path: string): void {
  try {
    mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
    closeSync(openSync(path, 'a', 0o600));
    chmodSync(path, 0o600);
  } catch (error) {
    throw new CoppiceError('host_unfit', `cannot create the database ${path}: ${text(error)}`, { cause: error });
  }
}

/** Going over to WAL does not wait for other openers by itself, so two processes that start at once need this loop. */
function enterWAL(handle: DatabaseSync, path: string, busyTimeoutMs: number): void {
  if (path === ':memory:') return;
  const deadline = Date.now() + busyTimeoutMs;
  for (;;) {
    try {
      const row = handle.prepare('PRAGMA journal_mode = WAL').get() as { journal_mode: string };
      if (row.journal_mode !== 'wal') throw new Error(`the file system allows only journal mode ${row.journal_mode}`);
      return;
    } catch (error) {
      const busy = /locked|busy/i.test(text(error));
      if (!busy || Date.now() >= deadline) throw error;
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 10);
    }
  }
}

function migrate(database: Database, migrations: readonly Migration[]): void {
  database.exec(
    'CREATE TABLE IF NOT EXISTS migrations' +
      '(version INTEGER PRIMARY KEY, name TEXT NOT NULL, applied_at_ms INTEGER NOT NULL) STRICT',
  );
  const applied = () =>
    database.prepare('SELECT version, name FROM migrations ORDER BY version').all() as unknown as {
      version: number;
      name: string;
    }[];
  const check = (rows: ReturnType<typeof applied>) => {
    const known = migrations.length;
    const newest = rows.at(-1)?.version ?? 0;
    if (newest > known)
      throw new CoppiceError(
        'host_unfit',
        `${database.path} was written by a newer Coppice (schema ${newest}, this one knows ${known}): ` +
          'start that version, or move the file away',
      );
    for (const row of rows) {
      const ours = migrations[row.version - 1];
      if (ours?.name !== row.name)
        throw new CoppiceError('host_unfit', `${database.path} is another database: its schema begins "${row.name}"`);
    }
    return newest;
  };
  if (check(applied()) === migrations.length) return;
  // One step, one transaction; the state is read again under the write lock because another process may have been first.
  for (const migration of migrations)
    database.transaction(() => {
      if (check(applied()) >= migration.version) return;
      database.exec(migration.sql);
      database
        .prepare('INSERT INTO migrations (version, name, applied_at_ms) VALUES (?, ?, ?)')
        .run(migration.version, migration.name, Date.now());
    });
}

function checkNumbering(migrations: readonly Migration[]): void {
  for (const [index, migration] of migrations.entries())
    if (migration.version !== index + 1)
      throw new TypeError(`migration "${migration.name}" has number ${migration.version}, expected ${index + 1}`);
}

function text(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
