/** The durable rows of volumes. What a row names is on the disk while its state is `ready`; in any other it may be there in part. */
import type { Database } from '../store/database.ts';

export type VolumeState = 'making' | 'ready' | 'deleting';

export interface VolumeRow {
  readonly volumeID: string;
  readonly teamID: string;
  readonly name: string;
  readonly state: VolumeState;
}

interface Raw {
  volume_id: string;
  team_id: string;
  name: string;
  state: VolumeState;
}

const fromRaw = (raw: Raw): VolumeRow => ({
  volumeID: raw.volume_id,
  teamID: raw.team_id,
  name: raw.name,
  state: raw.state,
});

export class VolumeRows {
  readonly #db: Database;

  constructor(db: Database) {
    this.#db = db;
  }

  /** False: the team has one of that name. One that is being deleted has none any more. */
  plan(volumeID: string, teamID: string, name: string): boolean {
    const { changes } = this.#db
      .prepare(
        `INSERT INTO volume (volume_id, team_id, name, state, created_at) VALUES (?, ?, ?, 'making', ?)
         ON CONFLICT DO NOTHING`,
      )
      .run(volumeID, teamID, name, Date.now());
    return Number(changes) === 1;
  }

  /** False: it is not in that state. */
  move(volumeID: string, from: VolumeState, to: VolumeState): boolean {
    const { changes } = this.#db
      .prepare('UPDATE volume SET state = ? WHERE volume_id = ? AND state = ?')
      .run(to, volumeID, from);
    return Number(changes) === 1;
  }

  remove(volumeID: string): void {
    this.#db.prepare('DELETE FROM volume WHERE volume_id = ?').run(volumeID);
  }

  get(volumeID: string): VolumeRow | undefined {
    const raw = this.#db.prepare('SELECT * FROM volume WHERE volume_id = ?').get(volumeID) as Raw | undefined;
    return raw && fromRaw(raw);
  }

  ofTeam(teamID: string): readonly VolumeRow[] {
    const raws = this.#db
      .prepare(`SELECT * FROM volume WHERE team_id = ? AND state = 'ready' ORDER BY name`)
      .all(teamID) as unknown as Raw[];
    return raws.map(fromRaw);
  }

  /** In whatever state. */
  countOfTeam(teamID: string): number {
    const { count } = this.#db
      .prepare('SELECT count(*) AS count FROM volume WHERE team_id = ?')
      .get(teamID) as unknown as { count: number };
    return count;
  }

  all(): readonly VolumeRow[] {
    return (this.#db.prepare('SELECT * FROM volume').all() as unknown as Raw[]).map(fromRaw);
  }
}
