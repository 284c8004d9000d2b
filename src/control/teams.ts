/** Owners. One default team is made at the first start; every sandbox and key belongs to a team. */
import { randomUUID } from 'node:crypto';
import { CoppiceError } from '../contract/errors.ts';
import type { Database } from '../store/database.ts';
import { checkedName } from './secrets.ts';

export interface Team {
  /** UUID */
  readonly teamID: string;
  readonly name: string;
  readonly isDefault: boolean;
  readonly createdAtMs: number;
}

export interface Teams {
  /** The team that local keys belong to. */
  readonly default: Team;
  get(teamID: string): Team | undefined;
  /** By id or name. Throws `team_not_found`. */
  find(text: string): Team;
  /** Throws `conflict` when there is one of that name. */
  create(name: string): Team;
  /** In the order in which they were made. */
  list(): readonly Team[];
}

interface TeamRow {
  readonly team_id: string;
  readonly name: string;
  readonly is_default: number;
  readonly created_at_ms: number;
}

const COLUMNS = 'team_id, name, is_default, created_at_ms';

export function createTeams(database: Database): Teams {
  const select = (where: string, ...values: string[]) =>
    (database.prepare(`SELECT ${COLUMNS} FROM teams ${where}`).all(...values) as unknown as TeamRow[]).map(toTeam);
  const insert = (name: string, isDefault: boolean): Team => {
    const team: Team = { teamID: randomUUID(), name, isDefault, createdAtMs: Date.now() };
    database
      .prepare(`INSERT INTO teams (${COLUMNS}) VALUES (?, ?, ?, ?)`)
      .run(team.teamID, team.name, isDefault ? 1 : 0, team.createdAtMs);
    return Object.freeze(team);
  };
  const ensureDefault = (): Team =>
    database.transaction(() => select('WHERE is_default = 1')[0] ?? insert('default', true));
  return Object.freeze({
    default: select('WHERE is_default = 1')[0] ?? ensureDefault(),
    get: (teamID: string) => select('WHERE team_id = ?', teamID)[0],
    find: (text: string) => {
      const found = select('WHERE team_id = ?', text)[0] ?? select('WHERE name = ?', text)[0];
      if (found === undefined) throw new CoppiceError('team_not_found', `there is no team ${text.slice(0, 128)}`);
      return found;
    },
    create: (name: string) =>
      database.transaction(() => {
        const checked = checkedName(name, 'a team');
        if (select('WHERE name = ?', checked).length > 0)
          throw new CoppiceError('conflict', `there is a team called ${checked} already`);
        return insert(checked, false);
      }),
    list: () => select('ORDER BY rowid'),
  });
}

function toTeam(row: TeamRow): Team {
  return Object.freeze({
    teamID: row.team_id,
    name: row.name,
    isDefault: row.is_default === 1,
    createdAtMs: row.created_at_ms,
  });
}
