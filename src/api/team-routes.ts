/** The teams that an access token reaches, and how many sandboxes a team has run. */

import type { FastifyRequest } from 'fastify';
import { maxTeamMetricQuery, teamMetricsQuery } from '../contract/e2b/query.ts';
import type { MaxTeamMetric, Team, TeamMetric } from '../contract/e2b/team-responses.ts';
import type { TeamMeasure, TeamPoint } from '../control/team-points.ts';
import { bearerOf } from './authentication.ts';
import { demandTeam } from './key-routes.ts';
import { type ApiContext, param, type Route, teamOf } from './route.ts';
import { holderOf } from './token-routes.ts';
import { validate, validationError } from './validation.ts';

/** What is told when the client names no time. */
const DEFAULT_SPAN_S = 24 * 3600;

export function teamRoutes({ store }: ApiContext): readonly Route[] {
  const { teams, tokens, points } = store;

  /** Another team's id is as unknown as one that there is not. */
  const ownTeam = (request: FastifyRequest): string => {
    const teamID = param(request, 'teamID');
    return demandTeam({ get: (id) => (id === teamOf(request) ? teams.get(id) : undefined) }, teamID);
  };

  return [
    {
      method: 'GET',
      path: '/teams',
      audience: 'token',
      handle: async (request, reply) => {
        const holder = holderOf(request);
        const own = teams.list().filter((team) => holder.teamIDs.includes(team.teamID));
        // E2B's command line logs in to the one that is the default, and gives up without one.
        const chosen = own.find((team) => team.isDefault) ?? own[0];
        return reply.send(
          own.map(
            (team) =>
              ({
                teamID: team.teamID,
                name: team.name,
                apiKey: tokens.deriveKey(bearerOf(request)!, holder, team.teamID),
                isDefault: team === chosen,
              }) satisfies Team,
          ),
        );
      },
    },
    {
      method: 'GET',
      path: '/teams/:teamID/metrics',
      handle: async (request, reply) => {
        const teamID = ownTeam(request);
        const { startMs, endMs } = spanOf(validate(teamMetricsQuery, request.query));
        return reply.send(points.list(teamID, startMs, endMs).map(encodePoint));
      },
    },
    {
      method: 'GET',
      path: '/teams/:teamID/metrics/max',
      handle: async (request, reply) => {
        const teamID = ownTeam(request);
        const query = validate(maxTeamMetricQuery, request.query);
        const { startMs, endMs } = spanOf(query);
        const measure: TeamMeasure = query.metric === 'concurrent_sandboxes' ? 'running' : 'startRate';
        const point = points.highest(teamID, measure, startMs, endMs);
        return reply.send({ ...instantOf(point?.atMs ?? endMs), value: point?.[measure] ?? 0 } satisfies MaxTeamMetric);
      },
    },
  ];
}

/** Seconds of the query, the last one included to its end. */
function spanOf(query: { readonly start?: number | undefined; readonly end?: number | undefined }): {
  readonly startMs: number;
  readonly endMs: number;
} {
  const end = query.end ?? Math.floor(Date.now() / 1000);
  const start = query.start ?? Math.max(0, end - DEFAULT_SPAN_S);
  if (start > end) throw validationError('start: later than end');
  return { startMs: start * 1000, endMs: end * 1000 + 999 };
}

function encodePoint({ atMs, running, startRate }: TeamPoint): TeamMetric {
  return { ...instantOf(atMs), concurrentSandboxes: running, sandboxStartRate: startRate };
}

function instantOf(atMs: number): { readonly timestamp: string; readonly timestampUnix: number } {
  return { timestamp: new Date(atMs).toISOString(), timestampUnix: Math.floor(atMs / 1000) };
}
