/** A team's API keys, for the holder of a token or for the operator. */
import { named } from '../contract/e2b/requests.ts';
import type { CreatedTeamAPIKey, TeamAPIKey } from '../contract/e2b/team-responses.ts';
import { CoppiceError } from '../contract/errors.ts';
import type { ApiKeys, ApiKeyView } from '../control/keys.ts';
import type { Teams } from '../control/teams.ts';
import { type ApiContext, param, type Route, teamOf } from './route.ts';
import { validate } from './validation.ts';

export function keyRoutes({ store: { keys, teams } }: ApiContext): readonly Route[] {
  return [
    {
      method: 'GET',
      path: '/api-keys',
      audience: 'keyless',
      handle: async (request, reply) => {
        const inUse = keys.list(teamOf(request)).filter((view) => view.revokedAtMs === undefined);
        return reply.send(inUse.map(encodeKey));
      },
    },
    {
      method: 'POST',
      path: '/api-keys',
      audience: 'keyless',
      handle: async (request, reply) =>
        reply.code(201).send(create(keys, teamOf(request), validate(named, request.body).name)),
    },
    {
      method: 'PATCH',
      path: '/api-keys/:keyID',
      audience: 'keyless',
      handle: async (request, reply) => {
        const { name } = validate(named, request.body);
        const keyID = param(request, 'keyID');
        const view = keys.rename(teamOf(request), keyID, name);
        if (view === undefined) throw notFound(keyID);
        return reply.send(encodeKey(view));
      },
    },
    {
      method: 'DELETE',
      path: '/api-keys/:keyID',
      audience: 'keyless',
      handle: async (request, reply) => {
        revoke(keys, teamOf(request), param(request, 'keyID'));
        return reply.code(204).send();
      },
    },
    {
      method: 'POST',
      path: '/admin/teams/:teamID/api-keys',
      audience: 'admin',
      handle: async (request, reply) => {
        const { name } = validate(named, request.body);
        return reply.code(201).send(create(keys, demandTeam(teams, param(request, 'teamID')), name));
      },
    },
    {
      method: 'DELETE',
      path: '/admin/teams/:teamID/api-keys/:keyID',
      audience: 'admin',
      handle: async (request, reply) => {
        revoke(keys, demandTeam(teams, param(request, 'teamID')), param(request, 'keyID'));
        return reply.code(204).send();
      },
    },
  ];
}

/** Throws `team_not_found`. */
export function demandTeam(teams: Pick<Teams, 'get'>, teamID: string): string {
  if (teams.get(teamID) === undefined)
    throw new CoppiceError(
      'team_not_found',
      `Team "${teamID.slice(0, 64)}" doesn't exist or you don't have access to it`,
    );
  return teamID;
}

function create(keys: ApiKeys, teamID: string, name: string): CreatedTeamAPIKey {
  const { key, view } = keys.create({ teamID, name });
  return { ...encodeKey(view), key };
}

function revoke(keys: ApiKeys, teamID: string, keyID: string): void {
  if (!keys.revoke(keyID, teamID)) throw notFound(keyID);
}

/** There are no users, so nobody is named as its maker. */
function encodeKey(view: ApiKeyView): TeamAPIKey {
  return {
    id: view.keyID,
    name: view.name,
    mask: view.mask,
    createdAt: new Date(view.createdAtMs).toISOString(),
    createdBy: null,
    lastUsed: view.lastUsedAtMs === undefined ? null : new Date(view.lastUsedAtMs).toISOString(),
  };
}

function notFound(keyID: string): CoppiceError {
  return new CoppiceError(
    'key_not_found',
    `API key "${keyID.slice(0, 64)}" doesn't exist or you don't have access to it`,
  );
}
