/** Access tokens, for who holds one: another reaches the same teams. */
import type { FastifyRequest } from 'fastify';
import { named } from '../contract/e2b/requests.ts';
import type { CreatedAccessToken } from '../contract/e2b/team-responses.ts';
import { CoppiceError } from '../contract/errors.ts';
import type { TokenHolder } from '../control/access-tokens.ts';
import { type ApiContext, param, type Route } from './route.ts';
import { validate } from './validation.ts';

export function tokenRoutes({ store: { tokens } }: ApiContext): readonly Route[] {
  return [
    {
      method: 'POST',
      path: '/access-tokens',
      audience: 'token',
      handle: async (request, reply) => {
        const { name } = validate(named, request.body);
        const { token, view } = tokens.create({ teamIDs: holderOf(request).teamIDs, name });
        return reply.code(201).send({
          id: view.tokenID,
          name: view.name,
          token,
          mask: view.mask,
          createdAt: new Date(view.createdAtMs).toISOString(),
        } satisfies CreatedAccessToken);
      },
    },
    {
      method: 'DELETE',
      path: '/access-tokens/:tokenID',
      audience: 'token',
      handle: async (request, reply) => {
        const tokenID = param(request, 'tokenID');
        if (!tokens.revoke(tokenID, holderOf(request).teamIDs))
          throw new CoppiceError(
            'key_not_found',
            `Access token "${tokenID.slice(0, 64)}" doesn't exist or you don't have access to it`,
          );
        return reply.code(204).send();
      },
    },
  ];
}

/** Of a route whose audience is `token`. */
export function holderOf(request: FastifyRequest): TokenHolder {
  if (request.caller?.by !== 'token')
    throw new CoppiceError('internal', 'a route for access tokens was asked without one');
  return request.caller.holder;
}
