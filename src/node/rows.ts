/**
 * The durable row of each machine. SQL of the node is here, in snapshot-rows and in migrations, and nowhere else. Every change of state checks the state it
 * leaves, so that two callers can never both win.
 */
import type { OnTimeout } from '../contract/node-api.ts';
import type { MachineRecord } from '../isolation/backend.ts';
import { type Database, openDatabase } from '../store/database.ts';
import { MIGRATIONS } from './migrations.ts';
import { SnapshotRows } from './snapshot-rows.ts';
import { NEXT, type RowState } from './state.ts';

/** What a pool entry and a sandbox have in common. */
export interface MachineRow {
  readonly id: string;
  readonly state: RowState;
  readonly templateID: string;
  readonly buildID: string;
  readonly memoryMB: number;
  readonly uid: number | undefined;
  readonly generation: string;
  readonly record: MachineRecord | undefined;
  readonly owner: Owner | undefined;
}

/** What a claim adds. Times in ms since the epoch. */
export interface Owner {
  readonly teamID: string;
  readonly secure: boolean;
  readonly metadata: Readonly<Record<string, string>>;
  readonly env: Readonly<Record<string, string>>;
  readonly allowInternet: boolean | undefined;
  /** Of the last start: create or resume. */
  readonly startedAtMs: number;
  /** Its deadline; of a paused one, when it was paused. */
  readonly endAtMs: number;
  readonly onTimeout: OnTimeout;
}

interface Raw {
  id: string;
  state: RowState;
  template_id: string;
  build_id: string;
  memory_mb: number;
  uid: number | null;
  generation: string;
  record: string | null;
  team_id: string | null;
  secure: number | null;
  metadata: string | null;
  env: string | null;
  allow_internet: number | null;
  started_at: number | null;
  end_at: number | null;
  on_timeout: OnTimeout | null;
}

export class Rows {
  readonly #db: Database;
  readonly snapshots: SnapshotRows;

  constructor(file: string) {
    this.#db = openDatabase(file, MIGRATIONS);
    this.snapshots = new SnapshotRows(this.#db);
  }

  close(): void {
    this.#db.close();
  }

  #run(sql: string, ...values: Value[]): number {
    return Number(this.#db.prepare(sql).run(...values).changes);
  }

  #get<T>(sql: string, ...values: Value[]): T | undefined {
    return this.#db.prepare(sql).get(...values) as T | undefined;
  }

  #all<T>(sql: string, ...values: Value[]): T[] {
    return this.#db.prepare(sql).all(...values) as T[];
  }

  /** The intent to make a machine: written before anything of it exists. */
  prepare(row: { id: string; uid: number | undefined; generation: string }): void {
    this.#run(
      `INSERT INTO machine (id, state, template_id, build_id, memory_mb, uid, generation, created_at) VALUES (?, 'preparing', '', '', 0, ?, ?, ?)`,
      row.id,
      row.uid ?? null,
      row.generation,
      Date.now(),
    );
  }

  /** What the machine will be made of. */
  assign(
    id: string,
    template: {
      readonly templateID: string;
      readonly buildID: string;
      readonly shape: { readonly memoryMB: number };
    },
  ): void {
    const { templateID, buildID, shape } = template;
    this.#run(
      'UPDATE machine SET template_id = ?, build_id = ?, memory_mb = ? WHERE id = ?',
      templateID,
      buildID,
      shape.memoryMB,
      id,
    );
  }

  setRecord(id: string, record: MachineRecord): void {
    this.#run('UPDATE machine SET record = ? WHERE id = ?', JSON.stringify(record), id);
  }

  /** The one durable claim. False: somebody else has it, or it is being killed. */
  claim(id: string, owner: Owner): boolean {
    return (
      this.#run(
        `UPDATE machine SET state = 'creating', team_id = ?, secure = ?, metadata = ?, env = ?, allow_internet = ?, started_at = ?, end_at = ?, on_timeout = ?
         WHERE id = ? AND state IN ('hot', 'preparing')`,
        owner.teamID,
        owner.secure ? 1 : 0,
        JSON.stringify(owner.metadata),
        JSON.stringify(owner.env),
        owner.allowInternet === undefined ? null : owner.allowInternet ? 1 : 0,
        owner.startedAtMs,
        owner.endAtMs,
        owner.onTimeout,
        id,
      ) === 1
    );
  }

  /** Moves a row along one edge of the state machine. False: the row was not in `from`. */
  move(id: string, from: RowState, to: RowState): boolean {
    if (!NEXT[from].includes(to)) throw new Error(`no step from ${from} to ${to}`);
    return this.#run('UPDATE machine SET state = ? WHERE id = ? AND state = ?', to, id, from) === 1;
  }

  /** From any state; false when there is no such row or it is being killed already. */
  intendKill(id: string): boolean {
    return this.#run(`UPDATE machine SET state = 'killing' WHERE id = ? AND state <> 'killing'`, id) === 1;
  }

  /** The fact of a pause; its deadline is off. False: it is being killed. */
  settlePause(id: string, pausedAtMs: number): boolean {
    return (
      this.#run(
        `UPDATE machine SET state = 'paused', end_at = ? WHERE id = ? AND state = 'pausing'`,
        pausedAtMs,
        id,
      ) === 1
    );
  }

  /** The fact of a resume. False: it is being killed. */
  settleResume(id: string, startedAtMs: number, endAtMs: number): boolean {
    return (
      this.#run(
        `UPDATE machine SET state = 'running', started_at = ?, end_at = ? WHERE id = ? AND state = 'resuming'`,
        startedAtMs,
        endAtMs,
        id,
      ) === 1
    );
  }

  remove(id: string): void {
    this.#run('DELETE FROM machine WHERE id = ?', id);
  }

  /** Only a running sandbox has a deadline that can move. `longerOnly`: connect and refresh never shorten. */
  setEnd(id: string, endAtMs: number, longerOnly: boolean): number | undefined {
    const sql = longerOnly
      ? `UPDATE machine SET end_at = MAX(end_at, ?) WHERE id = ? AND state = 'running' RETURNING end_at`
      : `UPDATE machine SET end_at = ? WHERE id = ? AND state = 'running' RETURNING end_at`;
    return this.#get<{ end_at: number }>(sql, endAtMs, id)?.end_at;
  }

  get(id: string): MachineRow | undefined {
    const raw = this.#get<Raw>('SELECT * FROM machine WHERE id = ?', id);
    return raw && fromRaw(raw);
  }

  all(): MachineRow[] {
    return this.#all<Raw>('SELECT * FROM machine').map(fromRaw);
  }

  /** Sandboxes of one team, running and paused, in E2B's order: by start, then id. */
  ofTeam(teamID: string, order: 'asc' | 'desc'): MachineRow[] {
    const direction = order === 'asc' ? 'ASC' : 'DESC';
    return this.#all<Raw>(
      `SELECT * FROM machine WHERE team_id = ? AND state IN ('running','pausing','paused','resuming') ORDER BY started_at ${direction}, id ${direction}`,
      teamID,
    ).map(fromRaw);
  }

  usedUids(): Set<number> {
    return new Set(this.#all<{ uid: number }>('SELECT uid FROM machine WHERE uid IS NOT NULL').map((row) => row.uid));
  }

  countSpawn(templateID: string): void {
    this.#run(
      `INSERT INTO spawned (template_id, count, last_at) VALUES (?, 1, ?)
       ON CONFLICT (template_id) DO UPDATE SET count = count + 1, last_at = excluded.last_at`,
      templateID,
      Date.now(),
    );
  }

  spawns(templateID: string): { count: number; lastAtMs: number | undefined } {
    const row = this.#get<{ count: number; last_at: number }>(
      'SELECT count, last_at FROM spawned WHERE template_id = ?',
      templateID,
    );
    return { count: row?.count ?? 0, lastAtMs: row?.last_at };
  }
}

type Value = string | number | null;

function fromRaw(raw: Raw): MachineRow {
  const owner: Owner | undefined =
    raw.team_id === null
      ? undefined
      : {
          teamID: raw.team_id,
          secure: raw.secure === 1,
          metadata: JSON.parse(raw.metadata ?? '{}'),
          env: JSON.parse(raw.env ?? '{}'),
          allowInternet: raw.allow_internet === null ? undefined : raw.allow_internet === 1,
          startedAtMs: raw.started_at!,
          endAtMs: raw.end_at!,
          onTimeout: raw.on_timeout!,
        };
  return {
    id: raw.id,
    state: raw.state,
    templateID: raw.template_id,
    buildID: raw.build_id,
    memoryMB: raw.memory_mb,
    uid: raw.uid ?? undefined,
    generation: raw.generation,
    record: raw.record === null ? undefined : (JSON.parse(raw.record) as MachineRecord),
    owner,
  };
}
