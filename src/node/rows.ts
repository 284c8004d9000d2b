/**
 * The durable row of each machine. SQL of the node is here, in the other rows and in migrations, and nowhere else. Every change of state checks the state it
 * leaves, so that two callers can never both win.
 */
import type { OnTimeout } from '../contract/node-api.ts';
import type { MachineRecord } from '../isolation/backend.ts';
import { type Database, openDatabase } from '../store/database.ts';
import { BuildRows } from './build-rows.ts';
import { MIGRATIONS } from './migrations.ts';
import { SnapshotRows } from './snapshot-rows.ts';
import { NEXT, type RowState } from './state.ts';
import { StepRows } from './step-rows.ts';
import { VolumeRows } from './volume-rows.ts';
import type { Mounted } from './volumes.ts';

/** What a pool entry and a sandbox have in common. */
export interface MachineRow {
  readonly id: string;
  readonly state: RowState;
  readonly templateID: string;
  readonly buildID: string;
  readonly memoryMB: number;
  readonly uid: number | undefined;
  readonly generation: string;
  /** Build of the golden checkpoint that it goes back to, however many snapshots lie between. */
  readonly baseID: string;
  /** Build of the template or snapshot that it last was: made from, captured as, or rolled back to. */
  readonly parentID: string;
  readonly record: MachineRecord | undefined;
  readonly owner: Owner | undefined;
  /** Where a paused sandbox is, or is to be, on disk; undefined: its machine holds it. */
  readonly kept: Kept | undefined;
}

/** A checkpoint of a paused sandbox, see kept.ts. */
export interface Kept {
  /** Name of its folder: a UUID. */
  readonly name: string;
  /** False: disk alone. */
  readonly memory: boolean;
}

/** What a claim adds. Times in ms since the epoch. */
export interface Owner {
  readonly teamID: string;
  readonly secure: boolean;
  readonly metadata: Readonly<Record<string, string>>;
  readonly env: Readonly<Record<string, string>>;
  readonly allowInternet: boolean | undefined;
  /** False: its ports are for who has its traffic token. */
  readonly publicTraffic: boolean;
  readonly maskRequestHost: string | undefined;
  /** What every machine of it has mounted. */
  readonly volumes: readonly Mounted[];
  /** Of the last start: create or resume. */
  readonly startedAtMs: number;
  /** Its deadline; of a paused one, when it was paused. */
  readonly endAtMs: number;
  readonly onTimeout: OnTimeout;
  /** What a pause at the deadline keeps besides the disk. */
  readonly pauseMemory: boolean;
  readonly autoResume: boolean;
  /** As asked for at its create. */
  readonly timeoutMs: number;
}

/** What has become of a sandbox: durable when it is told. */
export type RowFact =
  | { readonly kind: 'created' | 'resumed' }
  /** `salvaged`: its machine was lost. */
  | { readonly kind: 'paused'; readonly salvaged?: boolean }
  | { readonly kind: 'rolling back'; readonly parentID: string }
  | { readonly kind: 'captured'; readonly buildID: string }
  | { readonly kind: 'deadline'; readonly endAtMs: number }
  | { readonly kind: 'network'; readonly allowInternet: boolean | undefined }
  | { readonly kind: 'killed'; readonly reason: string };

interface Raw {
  id: string;
  state: RowState;
  template_id: string;
  build_id: string;
  memory_mb: number;
  uid: number | null;
  generation: string;
  base_id: string;
  parent_id: string;
  kept: string | null;
  record: string | null;
  team_id: string | null;
  secure: number | null;
  metadata: string | null;
  env: string | null;
  allow_internet: number | null;
  public_traffic: number | null;
  mask_request_host: string | null;
  volume_mounts: string | null;
  started_at: number | null;
  end_at: number | null;
  on_timeout: OnTimeout | null;
  timeout_ms: number | null;
  pause_memory: number | null;
  auto_resume: number | null;
}

export class Rows {
  readonly #db: Database;
  readonly snapshots: SnapshotRows;
  /** Told of each such change, in the same turn. Must not throw. */
  tell: (id: string, fact: RowFact) => void = () => {};
  readonly builds: BuildRows;
  readonly steps: StepRows;
  readonly volumes: VolumeRows;

  constructor(file: string) {
    this.#db = openDatabase(file, MIGRATIONS);
    this.snapshots = new SnapshotRows(this.#db);
    this.builds = new BuildRows(this.#db);
    this.steps = new StepRows(this.#db);
    this.volumes = new VolumeRows(this.#db);
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

  /** What the machine will be made of; `parentID` as in MachineRow. */
  assign(
    id: string,
    template: {
      readonly templateID: string;
      readonly buildID: string;
      readonly baseID: string;
      readonly shape: { readonly memoryMB: number };
    },
    parentID: string,
  ): void {
    const { templateID, buildID, baseID, shape } = template;
    this.#run(
      'UPDATE machine SET template_id = ?, build_id = ?, base_id = ?, parent_id = ?, memory_mb = ? WHERE id = ?',
      templateID,
      buildID,
      baseID,
      parentID,
      shape.memoryMB,
      id,
    );
  }

  /** It was captured as this, and goes on from there. */
  setParent(id: string, parentID: string): void {
    this.#run('UPDATE machine SET parent_id = ? WHERE id = ?', parentID, id);
    this.tell(id, { kind: 'captured', buildID: parentID });
  }

  /** A paused sandbox is given a machine again, of a new generation. False: it is being killed. */
  refit(id: string, machine: { readonly uid: number | undefined; readonly generation: string }): boolean {
    return (
      this.#run(
        `UPDATE machine SET uid = ?, generation = ?, record = NULL WHERE id = ? AND state = 'resuming'`,
        machine.uid ?? null,
        machine.generation,
        id,
      ) === 1
    );
  }

  /** The machine of a sandbox that stays is undone. */
  unfit(id: string): void {
    this.#run('UPDATE machine SET uid = NULL, record = NULL WHERE id = ?', id);
  }

  setRecord(id: string, record: MachineRecord): void {
    this.#run('UPDATE machine SET record = ? WHERE id = ?', JSON.stringify(record), id);
  }

  /** The one durable claim. False: somebody else has it, or it is being killed. */
  claim(id: string, owner: Owner): boolean {
    return (
      this.#run(
        `UPDATE machine SET state = 'creating', team_id = ?, secure = ?, metadata = ?, env = ?, allow_internet = ?, started_at = ?, end_at = ?,
           on_timeout = ?, timeout_ms = ?, pause_memory = ?, auto_resume = ?, public_traffic = ?, mask_request_host = ?,
           volume_mounts = ?
         WHERE id = ? AND state IN ('hot', 'preparing')`,
        owner.teamID,
        owner.secure ? 1 : 0,
        JSON.stringify(owner.metadata),
        JSON.stringify(owner.env),
        triState(owner.allowInternet),
        owner.startedAtMs,
        owner.endAtMs,
        owner.onTimeout,
        owner.timeoutMs,
        owner.pauseMemory ? 1 : 0,
        owner.autoResume ? 1 : 0,
        owner.publicTraffic ? 1 : 0,
        owner.maskRequestHost ?? null,
        JSON.stringify(owner.volumes),
        id,
      ) === 1
    );
  }

  /** Moves a row along one edge of the state machine. False: the row was not in `from`. */
  move(id: string, from: RowState, to: RowState): boolean {
    if (!NEXT[from].includes(to)) throw new Error(`no step from ${from} to ${to}`);
    const moved = this.#run('UPDATE machine SET state = ? WHERE id = ? AND state = ?', to, id, from) === 1;
    if (moved && from === 'creating') this.tell(id, { kind: 'created' });
    return moved;
  }

  /** Passes a fact on, if it is one. */
  #told(id: string, fact: RowFact | false): boolean {
    if (fact) this.tell(id, fact);
    return fact !== false;
  }

  /** From any state; false when there is no such row or it is being killed already. `reason`: for its owner. */
  intendKill(id: string, reason = 'it was given up'): boolean {
    const intended = this.#run(`UPDATE machine SET state = 'killing' WHERE id = ? AND state <> 'killing'`, id) === 1;
    return this.#told(id, intended && { kind: 'killed', reason });
  }

  /** The intent of a pause: where it is to be kept, or nowhere, if its machine is to hold it. False: it does not run. */
  beginPause(id: string, kept: Kept | undefined): boolean {
    return (
      this.#run(
        `UPDATE machine SET state = 'pausing', kept = ? WHERE id = ? AND state = 'running'`,
        kept === undefined ? null : JSON.stringify(kept),
        id,
      ) === 1
    );
  }

  /** It could not be paused, and runs. False: it is being killed. */
  undoPause(id: string): boolean {
    return this.#run(`UPDATE machine SET state = 'running', kept = NULL WHERE id = ? AND state = 'pausing'`, id) === 1;
  }

  /** The fact of a pause; its deadline is off. False: it is being killed. */
  settlePause(id: string, pausedAtMs: number): boolean {
    const done =
      this.#run(
        `UPDATE machine SET state = 'paused', end_at = ? WHERE id = ? AND state = 'pausing'`,
        pausedAtMs,
        id,
      ) === 1;
    return this.#told(id, done && { kind: 'paused' });
  }

  /** A paused sandbox is kept on disk from now on, or somewhere else there. False: it is not paused. */
  keep(id: string, kept: Kept): boolean {
    return this.#run(`UPDATE machine SET kept = ? WHERE id = ? AND state = 'paused'`, JSON.stringify(kept), id) === 1;
  }

  /** From now on it is what is kept there, whatever its machine may still be; `parentID` as in MachineRow. False: it is neither. */
  beginRollback(id: string, from: 'running' | 'paused', kept: Kept, parentID: string): boolean {
    const done =
      this.#run(
        `UPDATE machine SET state = 'resuming', kept = ?, parent_id = ? WHERE id = ? AND state = ?`,
        JSON.stringify(kept),
        parentID,
        id,
        from,
      ) === 1;
    return this.#told(id, done && { kind: 'rolling back', parentID });
  }

  /** A sandbox whose machine is gone is what was saved of its disk. False: it is being killed. */
  salvage(id: string, kept: Kept, atMs: number): boolean {
    const done =
      this.#run(
        `UPDATE machine SET state = 'paused', kept = ?, end_at = ?
         WHERE id = ? AND state IN ('running', 'pausing', 'paused', 'resuming')`,
        JSON.stringify(kept),
        atMs,
        id,
      ) === 1;
    return this.#told(id, done && { kind: 'paused', salvaged: true });
  }

  /** The fact of a resume: its machine holds it. False: it is being killed. */
  settleResume(id: string, startedAtMs: number, endAtMs: number): boolean {
    const done =
      this.#run(
        `UPDATE machine SET state = 'running', kept = NULL, started_at = ?, end_at = ? WHERE id = ? AND state = 'resuming'`,
        startedAtMs,
        endAtMs,
        id,
      ) === 1;
    return this.#told(id, done && { kind: 'resumed' });
  }

  remove(id: string): void {
    this.#run('DELETE FROM machine WHERE id = ?', id);
  }

  /** Only a running sandbox has a deadline that can move. `longerOnly`: connect and refresh never shorten. */
  setEnd(id: string, endAtMs: number, longerOnly: boolean): number | undefined {
    const sql = longerOnly
      ? `UPDATE machine SET end_at = MAX(end_at, ?) WHERE id = ? AND state = 'running' RETURNING end_at`
      : `UPDATE machine SET end_at = ? WHERE id = ? AND state = 'running' RETURNING end_at`;
    const end = this.#get<{ end_at: number }>(sql, endAtMs, id)?.end_at;
    if (end !== undefined) this.tell(id, { kind: 'deadline', endAtMs: end });
    return end;
  }

  /** What its owner wishes from now on. False: there is no such sandbox. */
  setInternet(id: string, allowInternet: boolean | undefined): boolean {
    const done =
      this.#run(
        `UPDATE machine SET allow_internet = ? WHERE id = ? AND state IN ('running','pausing','paused','resuming')`,
        triState(allowInternet),
        id,
      ) === 1;
    return this.#told(id, done && { kind: 'network', allowInternet });
  }

  /** Id of a sandbox that has the volume mounted, or will have when it is resumed. */
  userOfVolume(volumeID: string): string | undefined {
    const found = this.#get<{ id: string }>(
      `SELECT machine.id FROM machine, json_each(machine.volume_mounts) AS mount
       WHERE mount.value ->> 'volumeID' = ? LIMIT 1`,
      volumeID,
    );
    return found?.id;
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

  /** Builds of golden checkpoints that a machine or a snapshot goes back to. */
  bases(): Set<string> {
    const sql = `SELECT base_id AS id FROM machine UNION SELECT base_id FROM snapshot WHERE state <> 'deleted'`;
    return new Set(this.#all<{ id: string }>(sql).flatMap(({ id }) => (id === '' ? [] : [id])));
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

function triState(value: boolean | undefined): number | null {
  return value === undefined ? null : Number(value);
}

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
          publicTraffic: raw.public_traffic !== 0,
          maskRequestHost: raw.mask_request_host ?? undefined,
          volumes: JSON.parse(raw.volume_mounts ?? '[]'),
          startedAtMs: raw.started_at!,
          endAtMs: raw.end_at!,
          onTimeout: raw.on_timeout!,
          pauseMemory: raw.pause_memory === 1,
          autoResume: raw.auto_resume === 1,
          timeoutMs: raw.timeout_ms!,
        };
  return {
    id: raw.id,
    state: raw.state,
    templateID: raw.template_id,
    buildID: raw.build_id,
    memoryMB: raw.memory_mb,
    uid: raw.uid ?? undefined,
    generation: raw.generation,
    baseID: raw.base_id,
    parentID: raw.parent_id,
    kept: raw.kept === null ? undefined : (JSON.parse(raw.kept) as Kept),
    record: raw.record === null ? undefined : (JSON.parse(raw.record) as MachineRecord),
    owner,
  };
}
