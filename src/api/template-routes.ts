/** Reading templates. */
import { encodeTemplate, encodeTemplateWithBuilds } from '../contract/e2b/encode.ts';
import { decodePageToken, encodePageToken } from '../contract/e2b/page-token.ts';
import { listAllTemplatesQuery, listTemplatesQuery } from '../contract/e2b/query.ts';
import type { TemplateAlias } from '../contract/e2b/responses.ts';
import { CoppiceError } from '../contract/errors.ts';
import type { NodeApi, TemplateView } from '../contract/node-api.ts';
import { type ApiContext, param, type Route, teamOf } from './route.ts';
import { validate, validationError } from './validation.ts';

const DEFAULT_TAG = ':default';

export function templateRoutes({ node }: ApiContext): readonly Route[] {
  return [
    {
      method: 'GET',
      path: '/templates',
      handle: async (request, reply) => {
        demandOwnTeam(validate(listAllTemplatesQuery, request.query).teamID, teamOf(request));
        return reply.send((await newestFirst(node)).map(encodeTemplate));
      },
    },
    {
      method: 'GET',
      path: '/v2/templates',
      handle: async (request, reply) => {
        const { teamID, nextToken, limit } = validate(listTemplatesQuery, request.query);
        demandOwnTeam(teamID, teamOf(request));
        const after = nextToken === undefined ? undefined : decodePageToken(nextToken, 'desc');
        if (nextToken !== undefined && after === undefined) throw validationError('nextToken: not a page token');
        const rest = (await newestFirst(node)).filter(
          (view) =>
            after === undefined || compare({ createdAtMs: after.startedAtMs, templateID: after.sandboxID }, view) < 0,
        );
        const page = rest.slice(0, limit);
        const last = page.at(-1);
        if (rest.length > page.length && last !== undefined)
          reply.header(
            'x-next-token',
            encodePageToken({ startedAtMs: last.createdAtMs, sandboxID: last.templateID }, 'desc'),
          );
        return reply.send(page.map(encodeTemplate));
      },
    },
    {
      method: 'GET',
      path: '/templates/:templateID',
      handle: async (request, reply) => {
        // A template has one build: its first page is its last, so no token was ever given.
        const { nextToken } = validate(listTemplatesQuery, request.query);
        if (nextToken !== undefined) throw validationError('nextToken: not a page token');
        const view = await findTemplate(node, param(request, 'templateID'));
        return reply.send(encodeTemplateWithBuilds(view));
      },
    },
    {
      method: 'GET',
      path: '/templates/aliases/:alias',
      handle: async (request, reply) => {
        const { templateID } = await findTemplate(node, param(request, 'alias'));
        return reply.send({ templateID, public: true } satisfies TemplateAlias);
      },
    },
  ];
}

async function newestFirst(node: NodeApi): Promise<TemplateView[]> {
  return [...(await node.listTemplates())].sort(compare);
}

type Sortable = Pick<TemplateView, 'createdAtMs' | 'templateID'>;

function compare(a: Sortable, b: Sortable): number {
  return b.createdAtMs - a.createdAtMs || (a.templateID < b.templateID ? 1 : a.templateID > b.templateID ? -1 : 0);
}

/** By id or alias. Names are lower case at E2B, and the tag `default` is the one that every template has. */
async function findTemplate(node: NodeApi, text: string): Promise<TemplateView> {
  const lower = text.toLowerCase();
  const name = lower.endsWith(DEFAULT_TAG) ? lower.slice(0, -DEFAULT_TAG.length) : lower;
  const found = (await node.listTemplates()).find((view) => view.templateID === name || view.aliases.includes(name));
  if (found === undefined) throw new CoppiceError('template_not_found', `template '${text.slice(0, 128)}' not found`);
  return found;
}

function demandOwnTeam(asked: string | undefined, own: string): void {
  if (asked !== undefined && asked !== own)
    throw new CoppiceError('forbidden', 'the API key does not belong to the team given in teamID');
}
