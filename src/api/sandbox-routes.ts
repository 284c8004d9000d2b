/** The verbs on sandboxes. */
import type { FastifyReply, FastifyRequest } from 'fastify';
import {
  encodeListedSandbox,
  encodeSandbox,
  encodeSandboxDetail,
  encodeServerTiming,
  wireState,
} from '../contract/e2b/encode.ts';
import { encodePageToken } from '../contract/e2b/page-token.ts';
import { listRunningQuery, listSandboxesQuery, sandboxIDFromPath } from '../contract/e2b/query.ts';
import {
  connectSandboxV1,
  connectSandboxV2,
  IDEMPOTENCY_KEY,
  type NewSandbox,
  newSandboxV1,
  newSandboxV2,
  sandboxNetwork,
  sandboxPause,
  sandboxRefresh,
  sandboxResume,
  sandboxTimeout,
  TIMEOUTS,
} from '../contract/e2b/requests.ts';
import type { ListedSandbox } from '../contract/e2b/responses.ts';
import { CoppiceError } from '../contract/errors.ts';
import type { CreateSandboxRequest, ResumeWish, SandboxView } from '../contract/node-api.ts';
import { listRunning } from '../control/census.ts';
import { NODE_ID } from '../control/node-states.ts';
import {
  cappedTimeout,
  type Generation,
  positiveTimeout,
  refuse,
  toCreateRequest,
  toNetworkUpdate,
  V1,
  V2,
} from './create-request.ts';
import { pageAfter } from './paging.ts';
import { type ApiContext, param, type Route, teamOf, withTiming } from './route.ts';
import { validate, validationError } from './validation.ts';

export function sandboxRoutes(context: ApiContext): readonly Route[] {
  const { node, domain } = context;

  const create = async (reply: FastifyReply, body: NewSandbox, teamID: string, generation: Generation) => {
    const request = toCreateRequest(body, teamID, generation);
    return send(reply, await createNow(context, request, abortSignalOf(reply)));
  };

  const connect = async (request: FastifyRequest, reply: FastifyReply, wish: ResumeWish) => {
    const { sandbox, resumed, receipt } = await node.connectSandbox(teamOf(request), sandboxIDOf(request), wish);
    return withTiming(reply, receipt)
      .code(resumed ? 201 : 200)
      .send(encodeSandbox(sandbox, domain));
  };

  return [
    {
      method: 'POST',
      path: '/sandboxes',
      handle: (request, reply) => create(reply, validate(newSandboxV1, request.body), teamOf(request), V1),
    },
    {
      method: 'POST',
      path: '/v2/sandboxes',
      handle: async (request, reply) => {
        const body = validate(newSandboxV2, request.body);
        const key = request.headers['idempotency-key'];
        if (key === undefined) return create(reply, body, teamOf(request), V2);
        if (typeof key !== 'string' || !IDEMPOTENCY_KEY.test(key))
          throw validationError('Idempotency-Key: expected one value of 1 to 255 characters of a-z and 0-9');
        const wish = toCreateRequest(body, teamOf(request), V2);
        return createOnce(context, key, wish, request, reply);
      },
    },
    {
      method: 'POST',
      path: '/sandboxes/:sandboxID/connect',
      handle: (request, reply) => {
        const { timeout, memory } = validate(connectSandboxV1, request.body);
        return connect(request, reply, resumeWish(cappedTimeout(timeout), memory));
      },
    },
    {
      method: 'POST',
      path: '/v2/sandboxes/:sandboxID/connect',
      handle: (request, reply) => {
        const { timeout = TIMEOUTS.connectV2, memory } = validate(connectSandboxV2, request.body);
        return connect(request, reply, resumeWish(positiveTimeout(timeout), memory));
      },
    },
    {
      method: 'POST',
      path: '/sandboxes/:sandboxID/pause',
      handle: async (request, reply) => {
        const memory = validate(sandboxPause, request.body).memory !== false;
        const receipt = await node.pauseSandbox(teamOf(request), sandboxIDOf(request), { memory });
        return withTiming(reply, receipt).code(204).send();
      },
    },
    {
      method: 'POST',
      path: '/sandboxes/:sandboxID/resume',
      handle: async (request, reply) => {
        const { timeout, autoPause, memory } = validate(sandboxResume, request.body);
        // What its deadline does was settled at its create.
        refuse(autoPause === true, 'autoPause');
        const wish = resumeWish(positiveTimeout(timeout ?? TIMEOUTS.resume), memory);
        const { sandbox, receipt } = await node.resumeSandbox(teamOf(request), sandboxIDOf(request), wish);
        return withTiming(reply, receipt).code(201).send(encodeSandbox(sandbox, domain));
      },
    },
    {
      method: 'GET',
      path: '/sandboxes/:sandboxID',
      handle: async (request, reply) => {
        const id = sandboxIDOf(request);
        const view = await node.getSandbox(teamOf(request), id);
        const state = wireState(view.state);
        if (state === undefined) throw notFound(id);
        return reply.send(encodeSandboxDetail(view, state, domain));
      },
    },
    {
      method: 'GET',
      path: '/v2/sandboxes',
      handle: async (request, reply) => {
        const query = validate(listSandboxesQuery, request.query);
        const after = pageAfter(query.nextToken, query.order);
        const result = await node.listSandboxes({
          teamID: teamOf(request),
          states: query.state,
          ...(query.metadata === undefined ? {} : { metadata: query.metadata }),
          ...(query.template === undefined ? {} : { template: query.template }),
          ...(query.startedAfter === undefined ? {} : { startedAfterMs: query.startedAfter }),
          order: query.order,
          limit: query.limit,
          ...(after === undefined ? {} : { after }),
        });
        if (result.next !== undefined) reply.header('x-next-token', encodePageToken(result.next, query.order));
        return reply.header('x-total-running', String(result.totalRunning)).send(encodeList(result.sandboxes));
      },
    },
    {
      method: 'GET',
      path: '/sandboxes',
      handle: async (request, reply) => {
        const { metadata } = validate(listRunningQuery, request.query);
        // E2B's first list verb has no pages.
        const sandboxes = await listRunning(node, teamOf(request), metadata === undefined ? {} : { metadata });
        return reply.send(encodeList(sandboxes));
      },
    },
    {
      method: 'DELETE',
      path: '/sandboxes/:sandboxID',
      handle: async (request, reply) => {
        await node.killSandbox(teamOf(request), sandboxIDOf(request));
        return reply.code(204).send();
      },
    },
    {
      method: 'PUT',
      path: '/sandboxes/:sandboxID/network',
      handle: async (request, reply) => {
        const { allow_internet_access, ...network } = validate(sandboxNetwork, request.body);
        const update = toNetworkUpdate(network, allow_internet_access ?? undefined);
        await node.updateNetwork(teamOf(request), sandboxIDOf(request), update);
        return reply.code(204).send();
      },
    },
    {
      method: 'POST',
      path: '/sandboxes/:sandboxID/timeout',
      handle: async (request, reply) => {
        const { timeout } = validate(sandboxTimeout, request.body);
        await node.setSandboxTimeout(teamOf(request), sandboxIDOf(request), cappedTimeout(timeout));
        return reply.code(204).send();
      },
    },
    {
      method: 'POST',
      path: '/sandboxes/:sandboxID/refreshes',
      handle: async (request, reply) => {
        const { duration } = validate(sandboxRefresh, request.body);
        const seconds = Math.max(duration ?? 0, TIMEOUTS.refreshMin);
        await node.refreshSandbox(teamOf(request), sandboxIDOf(request), seconds);
        return reply.code(204).send();
      },
    },
  ];
}

function resumeWish(timeoutSeconds: number, memory: boolean | null | undefined): ResumeWish {
  return { timeoutSeconds, ...(memory === false ? { memory } : {}) };
}

interface Created {
  readonly body: string;
  readonly timing: string;
}

async function createNow(context: ApiContext, request: CreateSandboxRequest, signal?: AbortSignal): Promise<Created> {
  demandReady(context);
  const { sandbox, receipt } = await context.tally.count(() => context.node.createSandbox(request, signal));
  context.store.points.started(request.teamID);
  return { body: JSON.stringify(encodeSandbox(sandbox, context.domain)), timing: encodeServerTiming(receipt) };
}

/** A node that its operator has set aside takes no new sandboxes; what is there goes on, and may be resumed. */
export function demandReady({ store }: ApiContext): void {
  const state = store.nodes.get(NODE_ID);
  if (state !== 'ready') throw new CoppiceError('node_draining', `the node is ${state} and takes no new sandboxes`);
}

/** The client's going away does not stop a create that has an idempotency key: the client will ask for it again. */
async function createOnce(
  context: ApiContext,
  key: string,
  wish: CreateSandboxRequest,
  request: FastifyRequest,
  reply: FastifyReply,
): Promise<unknown> {
  const claim = context.store.idempotency.claim(wish.teamID, key, request.bodyHash ?? '');
  if (claim.answer !== undefined) return send(reply, { body: claim.answer.body, timing: 'replay;dur=0' });
  let created: Created;
  try {
    created = await createNow(context, wish);
  } catch (error) {
    claim.release();
    throw error;
  }
  try {
    claim.complete({ status: 201, body: created.body });
  } catch (error) {
    // The sandbox is there and its caller must learn of it; a repetition gets 409 and never a second sandbox.
    context.log.error({ error }, 'the answer to an Idempotency-Key could not be stored');
  }
  return send(reply, created);
}

function send(reply: FastifyReply, { body, timing }: Created): FastifyReply {
  return reply.code(201).header('server-timing', timing).type('application/json; charset=utf-8').send(body);
}

/** Aborts when the client goes away before its answer was written. */
export function abortSignalOf(reply: FastifyReply): AbortSignal {
  const controller = new AbortController();
  reply.raw.once('close', () => {
    if (!reply.raw.writableFinished) controller.abort(new CoppiceError('aborted', 'the client went away'));
  });
  return controller.signal;
}

function encodeList(views: readonly SandboxView[]): ListedSandbox[] {
  return views.flatMap((view) => {
    const state = wireState(view.state);
    return state === undefined ? [] : [encodeListedSandbox(view, state)];
  });
}

export function sandboxIDOf(request: FastifyRequest): string {
  const text = param(request, 'sandboxID');
  const id = sandboxIDFromPath(text);
  if (id === undefined) throw notFound(text.slice(0, 64));
  return id;
}

function notFound(id: string): CoppiceError {
  return new CoppiceError('sandbox_not_found', `Sandbox "${id}" doesn't exist or you don't have access to it`);
}
