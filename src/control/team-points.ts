/**
 * How many sandboxes of a team ran at a time, and how many were started since the time before. Kept a week; a team of which
 * nothing runs adds nothing.
 */
import type { Database } from '../store/database.ts';

const KEPT_MS = 7 * 24 * 3600 * 1000;
/** Of one answer. A longer time is told in coarser steps. */
const POINTS_MAX = 1000;
const PRUNE_EVERY = 128;

/** One instant, or the highest count and the mean rate of a step. */
export interface TeamPoint {
  readonly atMs: number;
  readonly running: number;
  /** Per second. */
  readonly startRate: number;
}

export type TeamMeasure = 'running' | 'startRate';

export interface TeamPoints {
  /** Counts starts towards the team's next point. */
  started(teamID: string, count?: number): void;
  /** Adds a point for each team, given how many of its sandboxes run now. */
  record(running: ReadonlyMap<string, number>): void;
  /** Oldest first, both ends included. */
  list(teamID: string, startMs: number, endMs: number): readonly TeamPoint[];
  /** The point at which it was highest, the latest of equals. Undefined: there is no point in that time. */
  highest(teamID: string, measure: TeamMeasure, startMs: number, endMs: number): TeamPoint | undefined;
}

interface Row {
  readonly at_ms: number;
  readonly running: number;
  readonly start_rate: number;
}

const RATE = 'sum(starts) * 1000.0 / sum(span_ms)';

export function createTeamPoints(database: Database, now: () => number = Date.now): TeamPoints {
  const starts = new Map<string, number>();
  /** Teams whose last point says that something ran: their next one is written whatever it says. */
  const busy = new Set<string>();
  let lastMs = now();
  let records = 0;

  const write = (running: ReadonlyMap<string, number>): void => {
    const atMs = now();
    const spanMs = Math.max(1, atMs - lastMs);
    lastMs = atMs;
    database.transaction(() => {
      if (records++ % PRUNE_EVERY === 0)
        database.prepare('DELETE FROM team_points WHERE at_ms <= ?').run(atMs - KEPT_MS);
      const insert = database.prepare(
        'INSERT OR REPLACE INTO team_points (team_id, at_ms, span_ms, running, starts) VALUES (?, ?, ?, ?, ?)',
      );
      for (const [teamID, count] of running) {
        const begun = starts.get(teamID) ?? 0;
        if (count === 0 && begun === 0 && !busy.has(teamID)) continue;
        insert.run(teamID, atMs, spanMs, count, begun);
        if (count === 0 && begun === 0) busy.delete(teamID);
        else busy.add(teamID);
      }
    });
    starts.clear();
  };

  return Object.freeze<TeamPoints>({
    started: (teamID, count = 1) => {
      starts.set(teamID, (starts.get(teamID) ?? 0) + count);
    },
    record: write,
    list: (teamID, startMs, endMs) => {
      const stepMs = Math.max(1, Math.ceil((endMs - startMs + 1) / POINTS_MAX));
      const rows = database
        .prepare(
          `SELECT max(at_ms) AS at_ms, max(running) AS running, ${RATE} AS start_rate FROM team_points ` +
            'WHERE team_id = ? AND at_ms BETWEEN ? AND ? GROUP BY cast((at_ms - ?) / ? AS INTEGER) ORDER BY 1',
        )
        .all(teamID, startMs, endMs, startMs, stepMs) as unknown as Row[];
      return rows.map(toPoint);
    },
    highest: (teamID, measure, startMs, endMs) => {
      const row = database
        .prepare(
          `SELECT at_ms, running, ${RATE} AS start_rate FROM team_points ` +
            'WHERE team_id = ? AND at_ms BETWEEN ? AND ? GROUP BY at_ms ' +
            `ORDER BY ${measure === 'running' ? 'running' : 'start_rate'} DESC, at_ms DESC LIMIT 1`,
        )
        .get(teamID, startMs, endMs) as Row | undefined;
      return row === undefined ? undefined : toPoint(row);
    },
  });
}

function toPoint(row: Row): TeamPoint {
  return { atMs: row.at_ms, running: row.running, startRate: row.start_rate };
}
