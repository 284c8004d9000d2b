/** Templates that teams build: E2B's third generation of these verbs. */
import { encodeBuild, encodeLogLine, encodeTicket } from '../contract/e2b/build-encode.ts';
import {
  assignTags,
  buildLogsQuery,
  buildStatusQuery,
  removeTags,
  templateBuildRequest,
  templateBuildStart,
  templateUpdate,
} from '../contract/e2b/build-requests.ts';
import type {
  AssignedTags,
  BuildFileLink,
  BuildLogs,
  TemplateNames,
  TemplateTags,
} from '../contract/e2b/build-responses.ts';
import { uploadLink } from './build-uploads.ts';
import { type ApiContext, param, type Route, teamOf } from './route.ts';
import { demandOwnTeam } from './template-routes.ts';
import { validate } from './validation.ts';

export function buildRoutes({ node }: ApiContext): readonly Route[] {
  const update: Route['handle'] = async (request, reply) => {
    const { public: isPublic } = validate(templateUpdate, request.body);
    const teamID = teamOf(request);
    const template = param(request, 'templateID');
    const names =
      isPublic === undefined || isPublic === null ? [] : [...(await node.publishTemplate(teamID, template, isPublic))];
    return reply.send(request.url.startsWith('/v2/') ? ({ names } satisfies TemplateNames) : {});
  };
  return [
    {
      method: 'POST',
      path: '/v3/templates',
      handle: async (request, reply) => {
        const body = validate(templateBuildRequest, request.body);
        const teamID = teamOf(request);
        demandOwnTeam(body.teamID ?? undefined, teamID);
        const { tags, cpuCount, memoryMB, minFreeDiskMb } = body;
        const ticket = await node.requestBuild({
          teamID,
          name: (body.name ?? body.alias)!,
          tags: tags ?? [],
          ...(cpuCount === undefined || cpuCount === null ? {} : { cpuCount }),
          ...(memoryMB === undefined || memoryMB === null ? {} : { memoryMB }),
          ...(minFreeDiskMb === undefined || minFreeDiskMb === null ? {} : { freeDiskMB: minFreeDiskMb }),
        });
        return reply.code(202).send(encodeTicket(ticket));
      },
    },
    {
      method: 'GET',
      path: '/templates/:templateID/files/:hash',
      handle: async (request, reply) => {
        const [templateID, hash] = [param(request, 'templateID'), param(request, 'hash')];
        const { present, ticket } = await node.buildFile(teamOf(request), templateID, hash);
        const url = uploadLink(request.raw, templateID, hash, ticket);
        return reply.code(201).send({ present, url } satisfies BuildFileLink);
      },
    },
    {
      method: 'POST',
      path: '/v2/templates/:templateID/builds/:buildID',
      handle: async (request, reply) => {
        const build = validate(templateBuildStart, request.body);
        await node.startBuild(
          { teamID: teamOf(request), templateID: param(request, 'templateID'), buildID: param(request, 'buildID') },
          JSON.stringify(build),
        );
        return reply.code(202).send();
      },
    },
    {
      method: 'GET',
      path: '/templates/:templateID/builds/:buildID/status',
      handle: async (request, reply) => {
        const { logsOffset, limit, level } = validate(buildStatusQuery, request.query);
        const view = await node.getBuild({
          teamID: teamOf(request),
          templateID: param(request, 'templateID'),
          buildID: param(request, 'buildID'),
          offset: logsOffset,
          limit,
          ...(level === undefined ? {} : { level }),
        });
        return reply.send(encodeBuild(view));
      },
    },
    {
      method: 'GET',
      path: '/templates/:templateID/builds/:buildID/logs',
      handle: async (request, reply) => {
        const { cursor, limit, direction, level } = validate(buildLogsQuery, request.query);
        const { logs } = await node.getBuild({
          teamID: teamOf(request),
          templateID: param(request, 'templateID'),
          buildID: param(request, 'buildID'),
          offset: 0,
          limit,
          direction,
          ...(cursor === undefined ? {} : { cursorMs: cursor }),
          ...(level === undefined ? {} : { level }),
        });
        return reply.send({ logs: logs.map(encodeLogLine) } satisfies BuildLogs);
      },
    },
    { method: 'PATCH', path: '/v2/templates/:templateID', handle: update },
    { method: 'PATCH', path: '/templates/:templateID', handle: update },
    {
      method: 'POST',
      path: '/templates/tags',
      handle: async (request, reply) => {
        const { target, tags } = validate(assignTags, request.body);
        const assigned = await node.tagTemplate(teamOf(request), target, tags);
        return reply.code(201).send({ tags: [...assigned.tags], buildID: assigned.buildID } satisfies AssignedTags);
      },
    },
    {
      method: 'DELETE',
      path: '/templates/tags',
      handle: async (request, reply) => {
        const { name, tags } = validate(removeTags, request.body);
        await node.untagTemplate(teamOf(request), name, tags);
        return reply.code(204).send();
      },
    },
    {
      method: 'GET',
      path: '/templates/:templateID/tags',
      handle: async (request, reply) => {
        const tags = await node.listTags(teamOf(request), param(request, 'templateID'));
        return reply.send(
          tags.map(({ tag, buildID, createdAtMs }) => ({
            tag,
            buildID,
            createdAt: new Date(createdAtMs).toISOString(),
          })) satisfies TemplateTags,
        );
      },
    },
  ];
}
