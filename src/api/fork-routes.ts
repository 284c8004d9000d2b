/** A sandbox made many, and a sandbox made what it was. */
import { encodeFork, encodeSandbox } from '../contract/e2b/encode.ts';
import { sandboxFork, sandboxRollback, TIMEOUTS } from '../contract/e2b/requests.ts';
import { positiveTimeout } from './create-request.ts';
import { type ApiContext, type Route, teamOf, withTiming } from './route.ts';
import { abortSignalOf, demandReady, sandboxIDOf } from './sandbox-routes.ts';
import { validate } from './validation.ts';

export function forkRoutes(context: ApiContext): readonly Route[] {
  const { node, domain, store } = context;
  return [
    {
      method: 'POST',
      path: '/sandboxes/:sandboxID/fork',
      handle: async (request, reply) => {
        const { timeout, count } = validate(sandboxFork, request.body);
        const wish = { count: count ?? 1, timeoutSeconds: positiveTimeout(timeout ?? TIMEOUTS.fork) };
        demandReady(context);
        const signal = abortSignalOf(reply);
        const { forks, receipt } = await node.forkSandbox(teamOf(request), sandboxIDOf(request), wish, signal);
        store.points.started(teamOf(request), forks.filter((one) => 'sandbox' in one).length);
        return withTiming(reply, receipt)
          .code(201)
          .send(forks.map((one) => encodeFork(one, domain)));
      },
    },
    {
      method: 'POST',
      path: '/sandboxes/:sandboxID/rollback',
      handle: async (request, reply) => {
        const { snapshotID } = validate(sandboxRollback, request.body);
        const { sandbox, receipt } = await node.rollbackSandbox(teamOf(request), sandboxIDOf(request), snapshotID);
        return withTiming(reply, receipt).code(201).send(encodeSandbox(sandbox, domain));
      },
    },
  ];
}
