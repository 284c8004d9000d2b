/** The verbs on snapshots, and the deletion of templates, which snapshots are to E2B's clients. */
import { encodeSnapshot } from '../contract/e2b/encode.ts';
import { encodePageToken } from '../contract/e2b/page-token.ts';
import { listSnapshotsQuery, sandboxIDFromPath } from '../contract/e2b/query.ts';
import { sandboxSnapshot } from '../contract/e2b/requests.ts';
import { pageAfter } from './paging.ts';
import { type ApiContext, param, type Route, teamOf, withTiming } from './route.ts';
import { abortSignalOf, sandboxIDOf } from './sandbox-routes.ts';
import { validate } from './validation.ts';

export function snapshotRoutes({ node }: ApiContext): readonly Route[] {
  return [
    {
      method: 'POST',
      path: '/sandboxes/:sandboxID/snapshots',
      handle: async (request, reply) => {
        const { name } = validate(sandboxSnapshot, request.body);
        const { snapshot, receipt } = await node.createSnapshot(teamOf(request), sandboxIDOf(request), {
          signal: abortSignalOf(reply),
          ...(name === undefined || name === null ? {} : { name }),
        });
        return withTiming(reply, receipt).code(201).send(encodeSnapshot(snapshot));
      },
    },
    {
      method: 'GET',
      path: '/snapshots',
      handle: async (request, reply) => {
        const { sandboxID, name, nextToken, limit } = validate(listSnapshotsQuery, request.query);
        const after = pageAfter(nextToken, 'desc');
        const sourceID = sandboxID === undefined ? undefined : sandboxIDFromPath(sandboxID);
        if (sandboxID !== undefined && sourceID === undefined) return reply.send([]);
        const { snapshots, next } = await node.listSnapshots({
          teamID: teamOf(request),
          limit,
          ...(sourceID === undefined ? {} : { sourceID }),
          ...(name === undefined ? {} : { name }),
          ...(after === undefined ? {} : { after: { createdAtMs: after.startedAtMs, buildID: after.sandboxID } }),
        });
        if (next !== undefined)
          reply.header(
            'x-next-token',
            encodePageToken({ startedAtMs: next.createdAtMs, sandboxID: next.buildID }, 'desc'),
          );
        return reply.send(snapshots.map(encodeSnapshot));
      },
    },
    {
      method: 'DELETE',
      path: '/templates/:templateID',
      handle: async (request, reply) => {
        await node.deleteSnapshot(teamOf(request), param(request, 'templateID'));
        return reply.code(204).send();
      },
    },
  ];
}
