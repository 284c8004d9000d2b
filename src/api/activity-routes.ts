/** What sandboxes use, what happens to them and in them. */
import type { FastifyRequest } from 'fastify';
import { encodeEvent, encodeLogEntry, encodeLogsV1, encodeMetric } from '../contract/e2b/activity-encode.ts';
import {
  eventsQuery,
  latestMetricsQuery,
  logsQueryV1,
  logsQueryV2,
  sandboxMetricsQuery,
} from '../contract/e2b/activity-requests.ts';
import { sandboxIDFromPath } from '../contract/e2b/query.ts';
import { type ApiContext, type Route, teamOf } from './route.ts';
import { sandboxIDOf } from './sandbox-routes.ts';
import { validate, validationError } from './validation.ts';

export function activityRoutes({ node }: ApiContext): readonly Route[] {
  const events = async (request: FastifyRequest, of: { readonly sandboxID?: string }) => {
    const { offset, limit, orderAsc, types } = validate(eventsQuery, request.query);
    const found = await node.listEvents({
      teamID: teamOf(request),
      ...of,
      order: orderAsc ? 'asc' : 'desc',
      offset,
      limit,
      ...(types === undefined ? {} : { kinds: types }),
    });
    return found.events.map(encodeEvent);
  };

  return [
    {
      method: 'GET',
      path: '/sandboxes/:sandboxID/metrics',
      handle: async (request, reply) => {
        const { start, end } = validate(sandboxMetricsQuery, request.query);
        if (start !== undefined && end !== undefined && start > end) throw validationError('start: later than end');
        const metrics = await node.sandboxMetrics(teamOf(request), sandboxIDOf(request), {
          ...(start === undefined ? {} : { startMs: start * 1000 }),
          ...(end === undefined ? {} : { endMs: end * 1000 + 999 }),
        });
        return reply.send(metrics.map(encodeMetric));
      },
    },
    {
      method: 'GET',
      path: '/sandboxes/metrics',
      handle: async (request, reply) => {
        const { sandbox_ids: texts } = validate(latestMetricsQuery, request.query);
        const ids = texts.flatMap((text) => sandboxIDFromPath(text) ?? []);
        const latest = await node.latestMetrics(teamOf(request), ids);
        return reply.send({
          sandboxes: Object.fromEntries([...latest].map(([id, metric]) => [id, encodeMetric(metric)])),
        });
      },
    },
    {
      method: 'GET',
      path: '/sandboxes/:sandboxID/logs',
      handle: async (request, reply) => {
        const { start, limit } = validate(logsQueryV1, request.query);
        const entries = await node.listLogs({
          teamID: teamOf(request),
          sandboxID: sandboxIDOf(request),
          direction: 'forward',
          limit,
          ...(start === undefined ? {} : { cursorMs: start }),
        });
        return reply.send(encodeLogsV1(entries));
      },
    },
    {
      method: 'GET',
      path: '/v2/sandboxes/:sandboxID/logs',
      handle: async (request, reply) => {
        const { cursor, ...query } = validate(logsQueryV2, request.query);
        const { level, search, ...rest } = query;
        const entries = await node.listLogs({
          teamID: teamOf(request),
          sandboxID: sandboxIDOf(request),
          ...rest,
          ...(cursor === undefined ? {} : { cursorMs: cursor }),
          ...(level === undefined ? {} : { level }),
          ...(search === undefined ? {} : { search }),
        });
        return reply.send({ logs: entries.map(encodeLogEntry) });
      },
    },
    {
      method: 'GET',
      path: '/events/sandboxes',
      handle: async (request, reply) => reply.send(await events(request, {})),
    },
    {
      method: 'GET',
      path: '/events/sandboxes/:sandboxID',
      handle: async (request, reply) => reply.send(await events(request, { sandboxID: sandboxIDOf(request) })),
    },
  ];
}
