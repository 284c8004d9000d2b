/**
 * E2B's REST edge. A request is parsed, authenticated, turned into one call of the node, and the result mapped to E2B's
 * JSON; nothing is decided here. Every answer that is an error is JSON with an integer `code`, because E2B's JavaScript
 * SDK decides by that member and not by the HTTP status.
 */
import { hash, randomBytes } from 'node:crypto';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { type FastifyInstance, type FastifyReply, type FastifyRequest, fastify } from 'fastify';
import { parseBody } from '../contract/e2b/json.ts';
import { PENDING_VERBS } from '../contract/e2b/routes.ts';
import { CoppiceError, toE2BError } from '../contract/errors.ts';
import type { NodeApi } from '../contract/node-api.ts';
import type { Idempotency } from '../control/idempotency.ts';
import type { ApiKeys } from '../control/keys.ts';
import type { Log } from '../telemetry/log.ts';
import { allowAnyOrigin, answerPreflight } from './cors.ts';
import { answerRaw, toCoppiceError } from './errors.ts';
import { type ApiContext, createMethodFinder, type Route } from './route.ts';
import { sandboxRoutes } from './sandbox-routes.ts';
import { snapshotRoutes } from './snapshot-routes.ts';
import { templateRoutes } from './template-routes.ts';
import { validationError } from './validation.ts';

/** No request of the contract comes near this; files travel through the sandbox URL. */
const BODY_BYTES_MAX = 1024 * 1024;
/** How long a client may take to send a body; authentication comes before, so this bounds what strangers can hold. */
const BODY_TIMEOUT_MS = 30_000;
/** Media types that the framework's parser accepts; others are treated like a missing one. */
const MEDIA_TYPE = /^[\w!#$%&'*+.^`|~-]+\/[\w!#$%&'*+.^`|~-]+\s*(?:;|$)/;

export interface ApiOptions {
  readonly node: NodeApi;
  readonly keys: Pick<ApiKeys, 'authenticate'>;
  readonly log: Log;
  /** Without one, requests with an Idempotency-Key are refused by name. */
  readonly idempotency?: Idempotency;
  /** Where clients reach the sandboxes, `host` or `host:port`; sent to them as `domain`. */
  readonly domain?: string;
  /** How long a client may take to send a body. Milliseconds, default 30000; then its connection is cut. */
  readonly bodyTimeoutMs?: number;
}

export interface Api {
  /** For `http.createServer`'s listener, or behind a router that has found the request to be for the API. */
  handle(req: IncomingMessage, res: ServerResponse): void;
  /** Later requests get 503; resolves when the framework has shut down. Requests at work are left to end. */
  close(): Promise<void>;
}

export function createApi(options: ApiOptions): Api {
  const app = createApp(options);
  let ready = false;
  let closed = false;
  const started = Promise.resolve(app.ready()).then(() => {
    ready = true;
  });
  started.catch((error: unknown) => options.log.error({ error }, 'the REST edge did not start'));

  const handle = (req: IncomingMessage, res: ServerResponse): void => {
    allowAnyOrigin(res);
    boundBody(req, options.bodyTimeoutMs ?? BODY_TIMEOUT_MS);
    if (req.method === 'OPTIONS') answerPreflight(req, res);
    else if (closed) answerRaw(res, new CoppiceError('unavailable', 'the server is stopping'));
    else if (ready) app.routing(req, res);
    else
      started.then(
        () => app.routing(req, res),
        () => answerRaw(res, new CoppiceError('unavailable', 'the server could not start')),
      );
  };
  const close = async (): Promise<void> => {
    if (closed) return;
    closed = true;
    await started.catch(() => {});
    await app.close();
  };
  return Object.freeze({ handle, close });
}

/** The server's own request timeout has to be off where sandbox traffic shares the port, so bodies get theirs here. */
function boundBody(req: IncomingMessage, timeoutMs: number): void {
  const length = req.headers['content-length'];
  if (req.headers['transfer-encoding'] === undefined && (length === undefined || length === '0')) return;
  const timer = setTimeout(() => {
    if (!req.complete) req.socket.destroy();
  }, timeoutMs);
  timer.unref();
  req.once('close', () => clearTimeout(timer));
}

function createApp({ node, keys, log, idempotency, domain }: ApiOptions): FastifyInstance {
  const context: ApiContext = { node, idempotency, domain, log };
  const boot = randomBytes(4).toString('hex');
  let requests = 0;
  const app = fastify({
    logger: false,
    bodyLimit: BODY_BYTES_MAX,
    genReqId: () => `${boot}-${(++requests).toString(36)}`,
    routerOptions: { maxParamLength: 2048 },
    frameworkErrors: (error, _request, reply) => {
      const body = toE2BError(toCoppiceError(error));
      (reply as unknown as FastifyReply).code(body.code).send(body);
    },
  });
  app.decorateRequest('principal', undefined);
  app.decorateRequest('bodyHash', undefined);

  const routes = [
    ...openRoutes(context),
    ...sandboxRoutes(context),
    ...snapshotRoutes(context),
    ...templateRoutes(context),
    ...pendingRoutes(),
  ];
  const methodsOf = createMethodFinder(routes);

  const authenticate = (request: FastifyRequest): void => {
    const presented = request.headers['x-api-key'];
    request.principal = keys.authenticate(typeof presented === 'string' ? presented : undefined);
    if (request.principal === undefined)
      throw new CoppiceError('unauthorized', 'missing or invalid API key: send it in the X-API-Key header');
  };

  app.removeAllContentTypeParsers();
  app.addContentTypeParser('*', { parseAs: 'buffer' }, (request, body: Buffer, done) => {
    try {
      const encoding = request.headers['content-encoding'];
      if (encoding !== undefined && encoding !== 'identity')
        throw validationError('Content-Encoding: compressed bodies are not supported');
      if (request.headers['idempotency-key'] !== undefined) request.bodyHash = hash('sha256', body, 'hex');
      done(null, parseBody(body));
    } catch (error) {
      done(error instanceof SyntaxError ? validationError(`malformed JSON: ${error.message}`) : (error as Error));
    }
  });

  app.addHook('onRequest', (request, reply, done) => {
    reply.header('x-request-id', request.id);
    const mediaType = request.raw.headers['content-type'];
    if (mediaType !== undefined && !MEDIA_TYPE.test(mediaType)) delete request.raw.headers['content-type'];
    if (!request.is404) return done();
    // Before the body is read: nobody needs it.
    const methods = methodsOf(request.url.split('?', 1)[0]!);
    if (methods.length === 0) return done(new CoppiceError('route_not_found', 'route not found'));
    reply.header('allow', methods.join(', '));
    done(new CoppiceError('method_not_allowed', `method ${request.method} is not allowed here`));
  });
  app.setNotFoundHandler(() => {
    throw new CoppiceError('route_not_found', 'route not found');
  });

  app.setErrorHandler((error, request, reply) => {
    const known = toCoppiceError(error);
    const body = toE2BError(known);
    if (body.code >= 500 && body.code !== 501) {
      const fields = { requestID: request.id, method: request.method, url: pathOf(request), error: known };
      if (known instanceof CoppiceError && known.code !== 'internal') log.warn(fields, 'request failed');
      else log.error(fields, 'request failed');
    }
    return reply.code(body.code).type('application/json; charset=utf-8').send(body);
  });

  app.addHook('onResponse', (request, reply, done) => {
    const fields = {
      requestID: request.id,
      method: request.method,
      url: pathOf(request),
      status: reply.statusCode,
      ms: Math.round(reply.elapsedTime * 1000) / 1000,
      ...(request.principal === undefined ? {} : { teamID: request.principal.teamID }),
    };
    if (request.method === 'GET' || request.method === 'HEAD') log.debug(fields, 'request');
    else log.info(fields, 'request');
    done();
  });

  for (const route of routes)
    app.route({
      method: route.method,
      url: route.path,
      ...(route.open === true
        ? {}
        : {
            onRequest: (request, _reply, done) => {
              try {
                authenticate(request);
                done();
              } catch (error) {
                done(error as Error);
              }
            },
          }),
      // A verb that is not there yet says so before its body is read.
      ...('pending' in route ? { preParsing: (_request, _reply, _payload, done) => done(route.pending as Error) } : {}),
      handler: (request, reply) => route.handle(request, reply),
    });
  return app;
}

function openRoutes({ node }: ApiContext): readonly Route[] {
  return [
    {
      method: 'GET',
      path: '/health',
      open: true,
      handle: async (_request, reply) => {
        if (!(await node.status()).ready) throw new CoppiceError('unavailable', 'the node is not ready');
        return reply.type('text/plain; charset=utf-8').send('Health check successful');
      },
    },
  ];
}

function pendingRoutes(): readonly (Route & { readonly pending: CoppiceError })[] {
  return PENDING_VERBS.map(({ method, path, verb }) => {
    const pending = new CoppiceError('not_implemented', `${verb} (${method} ${path}) is not implemented yet`);
    return { method, path, pending, handle: () => Promise.reject(pending) };
  });
}

/** Without the query, which may hold what a client filters by. */
function pathOf(request: FastifyRequest): string {
  return request.url.split('?', 1)[0]!.slice(0, 256);
}
