/** What the operator does to the sandboxes of every team. */
import type { AdminCancelResult, AdminKillResult } from '../contract/e2b/node-responses.ts';
import { countRunning, killRunning } from '../control/census.ts';
import { demandTeam } from './key-routes.ts';
import { type ApiContext, param, type Route } from './route.ts';

export function adminRoutes({ node, store: { teams } }: ApiContext): readonly Route[] {
  return [
    {
      method: 'POST',
      path: '/admin/teams/:teamID/sandboxes/kill',
      audience: 'admin',
      handle: async (request, reply) => {
        const { killed, failed } = await killRunning(node, demandTeam(teams, param(request, 'teamID')));
        return reply.send({ killedCount: killed, failedCount: failed } satisfies AdminKillResult);
      },
    },
    {
      method: 'POST',
      path: '/admin/teams/:teamID/builds/cancel',
      audience: 'admin',
      handle: async (request, reply) => {
        const cancelled = await node.cancelBuilds(demandTeam(teams, param(request, 'teamID')));
        return reply.send({ cancelledCount: cancelled, failedCount: 0 } satisfies AdminCancelResult);
      },
    },
    {
      method: 'GET',
      path: '/admin/sandboxes/running-counts',
      audience: 'admin',
      handle: async (_request, reply) => {
        const counts = await countRunning(node, teams);
        return reply.send(Object.fromEntries([...counts].filter(([, count]) => count > 0)));
      },
    },
  ];
}
