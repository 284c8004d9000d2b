/** The durable row of each snapshot. */
import { ISOLATIONS, type Isolation, type SnapshotPosition } from '../contract/node-api.ts';
import type { MachineImage, MachineShape } from '../isolation/backend.ts';
import type { Database } from '../store/database.ts';

/**
 * `capturing`: its files are being written. `deleting`: nobody can ask for it any more, its files may be there.
 * `deleted`: its files are gone; the row stays for as long as a machine that was made from it.
 */
export type SnapshotState = 'capturing' | 'ready' | 'deleting' | 'deleted';

export interface SnapshotRow {
  /** UUID, and the name of its folder. */
  readonly buildID: string;
  /** 20 of [a-z0-9]: what clients call it. Snapshots of one name have one, and differ by tag. Settled once it is ready. */
  readonly templateID: string;
  readonly state: SnapshotState;
  readonly teamID: string;
  readonly alias: string | undefined;
  readonly tag: string;
  /** The sandbox that it was taken of. */
  readonly sourceID: string;
  readonly isolation: Isolation;
  /** What the source was made from. Its paths are relative to the folder of snapshots. */
  readonly image: MachineImage;
  readonly shape: MachineShape;
  readonly languages: readonly string[];
  /** Of its template. */
  readonly env: Readonly<Record<string, string>>;
  readonly createdAtMs: number;
  /** False: disk alone. */
  readonly memory: boolean;
  /** For one verb, not for its team: in no list, gone at the next start. */
  readonly hidden: boolean;
  /** As in MachineRow, of its source. */
  readonly baseID: string;
  readonly parentID: string;
  /** Of its files; settled once it is ready. */
  readonly ownBytes: number;
}

/** How a client names snapshots: by id or alias; without a tag, all of that name. */
export interface SnapshotName {
  readonly name: string;
  readonly tag?: string;
}

interface Raw {
  build_id: string;
  template_id: string;
  state: SnapshotState;
  team_id: string;
  alias: string | null;
  tag: string;
  source_id: string;
  isolation: string;
  image: string;
  shape: string;
  languages: string;
  env: string;
  created_at: number;
  memory: number;
  hidden: number;
  base_id: string;
  parent_id: string;
  own_bytes: number;
}

type Value = string | number | null;

export class SnapshotRows {
  readonly #db: Database;

  constructor(db: Database) {
    this.#db = db;
  }

  #run(sql: string, ...values: Value[]): number {
    return Number(this.#db.prepare(sql).run(...values).changes);
  }

  #rows(sql: string, ...values: Value[]): SnapshotRow[] {
    return (this.#db.prepare(sql).all(...values) as unknown as Raw[]).map(fromRaw);
  }

  /** The intent to take one: written before anything of it exists. */
  begin(row: Omit<SnapshotRow, 'state' | 'ownBytes'>): void {
    this.#run(
      `INSERT INTO snapshot (build_id, template_id, state, team_id, alias, tag, source_id, isolation, image, shape,
         languages, env, created_at, memory, hidden, base_id, parent_id)
       VALUES (?, ?, 'capturing', ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
      row.buildID,
      row.templateID,
      row.teamID,
      row.alias ?? null,
      row.tag,
      row.sourceID,
      row.isolation,
      JSON.stringify(row.image),
      JSON.stringify(row.shape),
      JSON.stringify(row.languages),
      JSON.stringify(row.env),
      row.createdAtMs,
      row.memory ? 1 : 0,
      row.hidden ? 1 : 0,
      row.baseID,
      row.parentID,
    );
  }

  /**
   * Its files are there. It takes the id of the team's snapshots of its alias, and the place of the one that has its tag,
   * which is to be deleted from then on. All at once.
   */
  publish(buildID: string, ownBytes: number): SnapshotRow {
    return this.#db.transaction(() => {
      const row = this.get(buildID);
      if (row?.state !== 'capturing') throw new Error(`no snapshot ${buildID} is being taken`);
      const { teamID, alias, tag } = row;
      const namesake =
        alias === undefined
          ? undefined
          : this.#rows(`SELECT * FROM snapshot WHERE team_id = ? AND alias = ? AND state = 'ready'`, teamID, alias)[0];
      const templateID = namesake?.templateID ?? row.templateID;
      this.#run(
        `UPDATE snapshot SET state = 'deleting' WHERE template_id = ? AND tag = ? AND state = 'ready'`,
        templateID,
        tag,
      );
      this.#run(
        `UPDATE snapshot SET state = 'ready', template_id = ?, own_bytes = ? WHERE build_id = ?`,
        templateID,
        ownBytes,
        buildID,
      );
      return { ...row, state: 'ready', templateID, ownBytes };
    });
  }

  get(buildID: string): SnapshotRow | undefined {
    return this.#rows('SELECT * FROM snapshot WHERE build_id = ?', buildID)[0];
  }

  all(): SnapshotRow[] {
    return this.#rows('SELECT * FROM snapshot');
  }

  inState(state: SnapshotState): SnapshotRow[] {
    return this.#rows('SELECT * FROM snapshot WHERE state = ?', state);
  }

  count(teamID: string): number {
    const sql = `SELECT count(*) AS count FROM snapshot WHERE team_id = ? AND hidden = 0 AND state IN ('capturing', 'ready')`;
    return (this.#db.prepare(sql).get(teamID) as { count: number }).count;
  }

  /** Those of a team that can be used, by their name; the id of one before the alias of another. */
  find(teamID: string, { name, tag }: SnapshotName): SnapshotRow[] {
    const found = this.#rows(
      `SELECT * FROM snapshot WHERE team_id = ? AND (template_id = ? OR alias = ?) AND hidden = 0 AND state = 'ready'
       ORDER BY template_id = ? DESC, created_at DESC, build_id DESC`,
      teamID,
      name,
      name,
      name,
    );
    const { templateID } = found[0] ?? {};
    return found.filter((row) => row.templateID === templateID && (tag === undefined || row.tag === tag));
  }

  /** Those of a team that can be used, newest first. */
  page(query: {
    readonly teamID: string;
    readonly sourceID?: string;
    readonly name?: SnapshotName;
    readonly limit: number;
    readonly after?: SnapshotPosition;
  }): SnapshotRow[] {
    const { teamID, sourceID, name, limit, after } = query;
    return this.#rows(
      `SELECT * FROM snapshot WHERE team_id = ? AND hidden = 0 AND state = 'ready'
         AND (? IS NULL OR source_id = ?)
         AND (? IS NULL OR template_id = ? OR alias = ?)
         AND (? IS NULL OR tag = ?)
         AND (? IS NULL OR (created_at, build_id) < (?, ?))
       ORDER BY created_at DESC, build_id DESC LIMIT ?`,
      teamID,
      sourceID ?? null,
      sourceID ?? null,
      name?.name ?? null,
      name?.name ?? null,
      name?.name ?? null,
      name?.tag ?? null,
      name?.tag ?? null,
      after?.createdAtMs ?? null,
      after?.createdAtMs ?? null,
      after?.buildID ?? null,
      limit,
    );
  }

  /** What verbs of an earlier process made for themselves. */
  hidden(): SnapshotRow[] {
    return this.#rows(`SELECT * FROM snapshot WHERE hidden = 1 AND state = 'ready'`);
  }

  /** From now on nobody can ask for it; or it came to nothing. */
  intendDelete(buildID: string): void {
    this.#run(`UPDATE snapshot SET state = 'deleting' WHERE build_id = ? AND state <> 'deleted'`, buildID);
  }

  /** Its files are gone. */
  settleDelete(buildID: string): void {
    this.#run(`UPDATE snapshot SET state = 'deleted' WHERE build_id = ?`, buildID);
    this.purge();
  }

  /** Forgets what is deleted and was made into no machine that is left. */
  purge(): void {
    this.#run(`DELETE FROM snapshot WHERE state = 'deleted' AND build_id NOT IN (SELECT build_id FROM machine)`);
  }
}

function fromRaw(raw: Raw): SnapshotRow {
  return {
    buildID: raw.build_id,
    templateID: raw.template_id,
    state: raw.state,
    teamID: raw.team_id,
    alias: raw.alias ?? undefined,
    tag: raw.tag,
    sourceID: raw.source_id,
    isolation: ISOLATIONS.find((one) => one === raw.isolation)!,
    image: JSON.parse(raw.image),
    shape: JSON.parse(raw.shape),
    languages: JSON.parse(raw.languages),
    env: JSON.parse(raw.env),
    createdAtMs: raw.created_at,
    memory: raw.memory === 1,
    hidden: raw.hidden === 1,
    baseID: raw.base_id,
    parentID: raw.parent_id,
    ownBytes: raw.own_bytes,
  };
}
