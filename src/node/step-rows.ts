/** The durable rows of what build steps gave. */
import type { Database } from '../store/database.ts';

/** `keeping`: its files are being written. `deleting`: nobody takes it any more. */
export type StepState = 'keeping' | 'ready' | 'deleting';

export interface StepRow {
  /** UUID, and the name of its folder. */
  readonly resultID: string;
  readonly teamID: string;
  /** See stepKey. */
  readonly key: string;
  readonly state: StepState;
  /** What it lies on, relative to the folder of steps. */
  readonly rootfs: string;
  readonly bytes: number;
  readonly usedAtMs: number;
}

interface Raw {
  result_id: string;
  team_id: string;
  key: string;
  state: StepState;
  rootfs: string;
  bytes: number;
  used_at: number;
}

type Value = string | number | null;

export class StepRows {
  readonly #db: Database;

  constructor(db: Database) {
    this.#db = db;
  }

  #run(sql: string, ...values: Value[]): void {
    this.#db.prepare(sql).run(...values);
  }

  #rows(sql: string, ...values: Value[]): StepRow[] {
    return (this.#db.prepare(sql).all(...values) as unknown as Raw[]).map((raw) => ({
      resultID: raw.result_id,
      teamID: raw.team_id,
      key: raw.key,
      state: raw.state,
      rootfs: raw.rootfs,
      bytes: raw.bytes,
      usedAtMs: raw.used_at,
    }));
  }

  /** Before anything of it is written. */
  begin(row: Pick<StepRow, 'resultID' | 'teamID' | 'key' | 'rootfs'>): void {
    this.#run(
      `INSERT INTO build_step (result_id, team_id, key, state, rootfs, used_at) VALUES (?, ?, ?, 'keeping', ?, ?)`,
      row.resultID,
      row.teamID,
      row.key,
      row.rootfs,
      Date.now(),
    );
  }

  /** It is there, and takes the place of an older one. */
  publish({ resultID, teamID, key }: Pick<StepRow, 'resultID' | 'teamID' | 'key'>, bytes: number): void {
    this.#db.transaction(() => {
      this.#run(
        `UPDATE build_step SET state = 'deleting' WHERE team_id = ? AND key = ? AND state = 'ready'`,
        teamID,
        key,
      );
      this.#run(
        `UPDATE build_step SET state = 'ready', bytes = ?, used_at = ? WHERE result_id = ? AND state = 'keeping'`,
        bytes,
        Date.now(),
        resultID,
      );
    });
  }

  find(teamID: string, key: string): StepRow | undefined {
    return this.#rows(`SELECT * FROM build_step WHERE team_id = ? AND key = ? AND state = 'ready'`, teamID, key)[0];
  }

  touch(resultID: string): void {
    this.#run('UPDATE build_step SET used_at = ? WHERE result_id = ?', Date.now(), resultID);
  }

  /** Last used first. */
  all(): StepRow[] {
    return this.#rows('SELECT * FROM build_step ORDER BY used_at DESC, result_id');
  }

  intendDelete(resultID: string): void {
    this.#run(`UPDATE build_step SET state = 'deleting' WHERE result_id = ?`, resultID);
  }

  forget(resultID: string): void {
    this.#run('DELETE FROM build_step WHERE result_id = ?', resultID);
  }
}
