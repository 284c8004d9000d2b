/**
 * Who asks, by headers alone, so that no body is read for a stranger. Three secrets are known: the API key of a team; the
 * access token of whoever was given it, which picks one of its teams by X-Team-ID; the operator's token, which picks any.
 */
import type { FastifyRequest } from 'fastify';
import { CoppiceError } from '../contract/errors.ts';
import type { TokenHolder } from '../control/access-tokens.ts';
import type { ControlStore } from '../control/control-store.ts';

/** What a request's headers prove. `teamID`: the team that it speaks for. */
export type Caller =
  | { readonly by: 'key'; readonly teamID: string }
  | { readonly by: 'token'; readonly teamID?: string; readonly holder: TokenHolder }
  | { readonly by: 'admin'; readonly teamID?: string };

/**
 * Who may ask a route. `team`: a key, or either token with X-Team-ID. `keyless`: as `team` and without a key, so that a key
 * cannot make itself a successor. `token`: an access token, whatever team. `admin`: the operator.
 */
export type Audience = 'team' | 'keyless' | 'token' | 'admin';

const MISSING: Readonly<Record<Audience, string>> = {
  team: 'missing or invalid API key: send it in the X-API-Key header',
  keyless: 'missing or invalid access token: send it as Authorization: Bearer, with the team in X-Team-ID',
  token: 'missing or invalid access token: send it as Authorization: Bearer',
  admin: 'missing or invalid admin token: send it in the X-Admin-Token header',
};

const ADMITTED: Readonly<Record<Audience, ReadonlySet<Caller['by']>>> = {
  team: new Set(['key', 'token', 'admin']),
  keyless: new Set(['token', 'admin']),
  token: new Set(['token']),
  admin: new Set(['admin']),
};

export type Authenticate = (request: FastifyRequest, audience: Audience) => Caller;

/** Of several secrets the first that the audience admits decides, valid or not. */
export function createAuthentication(store: Pick<ControlStore, 'keys' | 'tokens' | 'admin' | 'teams'>): Authenticate {
  const identify = (request: FastifyRequest, audience: Audience): Caller | undefined => {
    const admits = ADMITTED[audience];
    const key = one(request.headers['x-api-key']);
    if (key !== undefined && admits.has('key')) {
      const principal = store.keys.authenticate(key);
      return principal && { by: 'key', teamID: principal.teamID };
    }
    if (request.headers.authorization !== undefined && admits.has('token')) {
      const holder = store.tokens.authenticate(bearerOf(request));
      return holder && { by: 'token', holder };
    }
    const token = one(request.headers['x-admin-token']);
    return token !== undefined && admits.has('admin') && store.admin.authenticate(token) ? { by: 'admin' } : undefined;
  };

  return (request, audience) => {
    const caller = identify(request, audience);
    if (caller === undefined) throw new CoppiceError('unauthorized', MISSING[audience]);
    if (caller.by === 'key' || audience === 'token' || audience === 'admin') return caller;
    const teamID = one(request.headers['x-team-id']);
    if (teamID === undefined) throw new CoppiceError('unauthorized', 'a token needs the team in the X-Team-ID header');
    const reaches =
      caller.by === 'token' ? caller.holder.teamIDs.includes(teamID) : store.teams.get(teamID) !== undefined;
    if (!reaches) throw new CoppiceError('forbidden', 'the token does not reach the team given in X-Team-ID');
    return { ...caller, teamID };
  };
}

export function bearerOf(request: FastifyRequest): string | undefined {
  return /^Bearer +(\S+)$/i.exec(request.headers.authorization ?? '')?.[1];
}

/** A header given several times is none. */
function one(value: string | string[] | undefined): string | undefined {
  return typeof value === 'string' ? value : undefined;
}
