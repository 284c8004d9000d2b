/** Owners. One default team is made at the first start; every sandbox and key belongs to a team. */
import { randomUUID } from 'node:crypto';
import type { Database } from '../store/database.ts';

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
  const ensureDefault = (): Team =>
    database.transaction(() => {
      const found = select('WHERE is_default = 1')[0];
      if (found !== undefined) return found;
      const team: Team = { teamID: randomUUID(), name: 'default', isDefault: true, createdAtMs: Date.now() };
      database
        .prepare(`INSERT INTO teams (${COLUMNS}) VALUES (?, ?, 1, ?)`)
        .run(team.teamID, team.name, team.createdAtMs);
      return team;
    });
  return Object.freeze({
    default: select('WHERE is_default = 1')[0] ?? ensureDefault(),
    get: (teamID: string) => select('WHERE team_id = ?', teamID)[0],
    list: () => select('ORDER BY created_at_ms, team_id'),
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
