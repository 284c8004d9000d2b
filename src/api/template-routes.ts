/** Reading templates. */
import { encodeSnapshotsAsTemplate, encodeTemplate, encodeTemplateWithBuilds } from '../contract/e2b/encode.ts';
import { encodePageToken } from '../contract/e2b/page-token.ts';
import { listAllTemplatesQuery, listTemplatesQuery } from '../contract/e2b/query.ts';
import type { TemplateAlias } from '../contract/e2b/responses.ts';
import { CoppiceError } from '../contract/errors.ts';
import type { NodeApi, SnapshotView, TemplateView } from '../contract/node-api.ts';
import { pageAfter } from './paging.ts';
import { type ApiContext, param, type Route, teamOf } from './route.ts';
import { validate, validationError } from './validation.ts';

const DEFAULT_TAG = ':default';
/** Of one name; a page of the node's. */
const MOST_SNAPSHOTS = 100;

export function templateRoutes({ node }: ApiContext): readonly Route[] {
  return [
    {
      method: 'GET',
      path: '/templates',
      handle: async (request, reply) => {
        demandOwnTeam(validate(listAllTemplatesQuery, request.query).teamID, teamOf(request));
        return reply.send((await newestFirst(node, teamOf(request))).map(encodeTemplate));
      },
    },
    {
      method: 'GET',
      path: '/v2/templates',
      handle: async (request, reply) => {
        const { teamID, nextToken, limit } = validate(listTemplatesQuery, request.query);
        demandOwnTeam(teamID, teamOf(request));
        const after = pageAfter(nextToken, 'desc');
        const rest = (await newestFirst(node, teamOf(request))).filter(
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
        // Builds that are kept fit on one page, so no token was ever given.
        const { nextToken } = validate(listTemplatesQuery, request.query);
        if (nextToken !== undefined) throw validationError('nextToken: not a page token');
        const name = param(request, 'templateID');
        const view = await findTemplate(node, teamOf(request), name);
        if (view !== undefined) return reply.send(encodeTemplateWithBuilds(view));
        const { templateID } = await demandSnapshot(node, teamOf(request), name);
        const query = { teamID: teamOf(request), name: templateID, limit: MOST_SNAPSHOTS };
        const [newest, ...older] = (await node.listSnapshots(query)).snapshots;
        if (newest === undefined) throw new CoppiceError('template_not_found', `template '${name}' not found`);
        return reply.send(encodeSnapshotsAsTemplate([newest, ...older]));
      },
    },
    {
      method: 'GET',
      path: '/templates/aliases/:alias',
      handle: async (request, reply) => {
        const name = param(request, 'alias');
        const found = await findTemplate(node, teamOf(request), name);
        // A team's names of snapshots are its own, so there is none that exists and is somebody else's.
        const { templateID } = found ?? (await demandSnapshot(node, teamOf(request), name));
        return reply.send({
          templateID,
          public: found !== undefined && (found.public ?? true),
        } satisfies TemplateAlias);
      },
    },
  ];
}

/** The team's own, and those that come with Coppice. */
async function newestFirst(node: NodeApi, teamID: string): Promise<TemplateView[]> {
  const all = await node.listTemplates();
  return all.filter((view) => view.teamID === undefined || view.teamID === teamID).sort(compare);
}

type Sortable = Pick<TemplateView, 'createdAtMs' | 'templateID'>;

function compare(a: Sortable, b: Sortable): number {
  return b.createdAtMs - a.createdAtMs || (a.templateID < b.templateID ? 1 : a.templateID > b.templateID ? -1 : 0);
}

/**
 * By id or alias. Names are lower case at E2B, and the tag `default` is the one that every template has. `forbidden`: there is
 * one that is another team's alone.
 */
async function findTemplate(node: NodeApi, teamID: string, text: string): Promise<TemplateView | undefined> {
  const lower = text.toLowerCase();
  const name = lower.endsWith(DEFAULT_TAG) ? lower.slice(0, -DEFAULT_TAG.length) : lower;
  const found = (await node.listTemplates()).filter((view) => view.templateID === name || view.aliases.includes(name));
  const usable = found.find((view) => view.teamID === teamID) ?? found.find((view) => view.public ?? true);
  if (usable !== undefined || found.length === 0) return usable;
  const { snapshots } = await node.listSnapshots({ teamID, name: text, limit: 1 });
  if (snapshots.length > 0) return undefined;
  throw new CoppiceError('forbidden', `you don't have access to template '${text.slice(0, 128)}'`);
}

/** What a list of templates leaves out is a template by its name all the same. */
async function demandSnapshot(node: NodeApi, teamID: string, text: string): Promise<SnapshotView> {
  const [found] = (await node.listSnapshots({ teamID, name: text, limit: 1 })).snapshots;
  if (found === undefined) throw new CoppiceError('template_not_found', `template '${text.slice(0, 128)}' not found`);
  return found;
}

export function demandOwnTeam(asked: string | undefined, own: string): void {
  if (asked !== undefined && asked !== own)
    throw new CoppiceError('forbidden', 'the API key does not belong to the team given in teamID');
}
