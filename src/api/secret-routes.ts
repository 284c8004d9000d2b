/** The verbs on secrets. No answer has a value in it. */
import type { z } from 'zod';
import { encodePageToken } from '../contract/e2b/page-token.ts';
import { listSecretsQuery } from '../contract/e2b/query.ts';
import { newSecret, secretUpdate } from '../contract/e2b/requests.ts';
import type { secret as wireSecret } from '../contract/e2b/responses.ts';
import type { Secret } from '../control/team-secrets.ts';
import { pageAfter } from './paging.ts';
import { type ApiContext, param, type Route, teamOf } from './route.ts';
import { validate } from './validation.ts';

const ONE = '/secrets/:secretID';

export function secretRoutes({ store: { secrets } }: ApiContext): readonly Route[] {
  return [
    {
      method: 'GET',
      path: '/secrets',
      handle: async (request, reply) => {
        const { nextToken, limit } = validate(listSecretsQuery, request.query);
        const after = pageAfter(nextToken, 'desc');
        const found = secrets.list(teamOf(request), {
          limit: limit + 1,
          ...(after === undefined ? {} : { after: { createdAtMs: after.startedAtMs, secretID: after.sandboxID } }),
        });
        const page = found.slice(0, limit);
        const last = page.at(-1);
        if (found.length > page.length && last !== undefined)
          reply.header(
            'x-next-token',
            encodePageToken({ startedAtMs: last.createdAtMs, sandboxID: last.secretID }, 'desc'),
          );
        return reply.send(page.map(encodeSecret));
      },
    },
    {
      method: 'POST',
      path: '/secrets',
      handle: async (request, reply) => {
        const { name, ...wish } = validate(newSecret, request.body);
        return reply.code(201).send(encodeSecret(secrets.create(teamOf(request), name, wishOf(wish))));
      },
    },
    {
      method: 'GET',
      path: ONE,
      handle: async (request, reply) =>
        reply.send(encodeSecret(secrets.get(teamOf(request), param(request, 'secretID')))),
    },
    {
      method: 'POST',
      path: ONE,
      handle: async (request, reply) => {
        const wish = wishOf(validate(secretUpdate, request.body));
        return reply.send(encodeSecret(secrets.update(teamOf(request), param(request, 'secretID'), wish)));
      },
    },
    {
      method: 'DELETE',
      path: ONE,
      handle: async (request, reply) => {
        secrets.delete(teamOf(request), param(request, 'secretID'));
        return reply.code(204).send();
      },
    },
  ];
}

function wishOf({ value, metadata }: z.output<typeof secretUpdate>) {
  return { value, ...(metadata === undefined || metadata === null ? {} : { metadata }) };
}

function encodeSecret(one: Secret): z.output<typeof wireSecret> {
  return {
    secretID: one.secretID,
    name: one.name,
    currentVersion: one.version,
    metadata: { ...one.metadata },
    createdAt: new Date(one.createdAtMs).toISOString(),
    updatedAt: new Date(one.updatedAtMs).toISOString(),
  };
}
