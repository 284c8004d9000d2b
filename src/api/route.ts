/** What a route of this room is: a verb and a function from request to answer. */
import type { FastifyReply, FastifyRequest } from 'fastify';
import type { NodeApi } from '../contract/node-api.ts';
import type { Idempotency } from '../control/idempotency.ts';
import type { Principal } from '../control/keys.ts';
import type { Log } from '../telemetry/log.ts';

declare module 'fastify' {
  interface FastifyRequest {
    /** Set by authentication, before any body is read. */
    principal: Principal | undefined;
    /** SHA-256 of the body as it arrived; only for requests with an Idempotency-Key. */
    bodyHash: string | undefined;
  }
}

export interface ApiContext {
  readonly node: NodeApi;
  /** Without one, a request with an Idempotency-Key is refused. */
  readonly idempotency: Idempotency | undefined;
  readonly log: Log;
  /** Sent as `domain` of a sandbox; undefined leaves the client's own setting alone. */
  readonly domain: string | undefined;
}

export interface Route {
  readonly method: 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE';
  /** `:name` is one segment. */
  readonly path: string;
  /** Answers without a key. */
  readonly open?: boolean;
  /** Sends the answer through `reply`, or throws CoppiceError. */
  handle(request: FastifyRequest, reply: FastifyReply): Promise<unknown>;
}

/** The team that the key speaks for. */
export function teamOf(request: FastifyRequest): string {
  return request.principal!.teamID;
}

export function param(request: FastifyRequest, name: string): string {
  return (request.params as Readonly<Record<string, string>>)[name] ?? '';
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
