/** What a route of this room is: a verb and a function from request to answer. */
import type { FastifyReply, FastifyRequest } from 'fastify';
import { encodeServerTiming } from '../contract/e2b/encode.ts';
import { CoppiceError } from '../contract/errors.ts';
import type { NodeApi, Receipt } from '../contract/node-api.ts';
import type { ControlStore } from '../control/control-store.ts';
import type { Tally } from '../control/tally.ts';
import type { WebhookAddresses } from '../control/webhook-addresses.ts';
import type { Log } from '../telemetry/log.ts';
import type { Audience, Caller } from './authentication.ts';

declare module 'fastify' {
  interface FastifyRequest {
    /** Set by authentication, before any body is read. */
    caller: Caller | undefined;
    /** SHA-256 of the body as it arrived; only for requests with an Idempotency-Key. */
    bodyHash: string | undefined;
  }
}

export interface ApiContext {
  readonly node: NodeApi;
  readonly store: ControlStore;
  /** Where webhooks may lead; default: to what is public. */
  readonly webhookAddresses?: WebhookAddresses | undefined;
  readonly tally: Tally;
  readonly log: Log;
  /** Sent as `domain` of a sandbox; undefined leaves the client's own setting alone. */
  readonly domain: string | undefined;
  /** Folder on the disk that the node tells of. */
  readonly home: string;
}

export interface Route {
  readonly method: 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE';
  /** `:name` is one segment. */
  readonly path: string;
  /** Answers anybody. */
  readonly open?: boolean;
  /** Who else may ask; default `team`. */
  readonly audience?: Audience;
  /** Sends the answer through `reply`, or throws CoppiceError. */
  handle(request: FastifyRequest, reply: FastifyReply): Promise<unknown>;
}

/** The team that the request speaks for, of a route for one. */
export function teamOf(request: FastifyRequest): string {
  const teamID = request.caller?.teamID;
  if (teamID === undefined) throw new CoppiceError('internal', 'a route for a team was asked without one');
  return teamID;
}

export function param(request: FastifyRequest, name: string): string {
  return (request.params as Readonly<Record<string, string>>)[name] ?? '';
}

/** Tells the client what the verb took. No receipt: there was nothing to do. */
export function withTiming(reply: FastifyReply, receipt: Receipt | undefined): FastifyReply {
  return receipt === undefined ? reply : reply.header('server-timing', encodeServerTiming(receipt));
}

/** Methods by which a path may be asked, for telling 405 from 404. Cold path: only asked when no route matched. */
export function createMethodFinder(routes: readonly Pick<Route, 'method' | 'path'>[]): (path: string) => string[] {
  const patterns = routes.map(({ method, path }) => ({
    method,
    pattern: new RegExp(`^${path.replace(/:[A-Za-z]+/g, '[^/]+')}$`),
  }));
  return (path) => {
    const found = new Set<string>(patterns.filter(({ pattern }) => pattern.test(path)).map(({ method }) => method));
    if (found.has('GET')) found.add('HEAD');
    return [...found].sort();
  };
}
