/**
 * E2B's REST edge. A request is parsed, authenticated, turned into one call of the node, and the result mapped to E2B's
 * JSON; nothing is decided here. Every answer that is an error is JSON with an integer `code`, because E2B's JavaScript
 * SDK decides by that member and not by the HTTP status.
 */
import { hash, randomBytes } from 'node:crypto';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { type FastifyInstance, type FastifyReply, type FastifyRequest, fastify } from 'fastify';
import { parseBody } from '../contract/e2b/json.ts';
import { PENDING_VERBS, type PendingVerb } from '../contract/e2b/routes.ts';
import { CoppiceError, toE2BError } from '../contract/errors.ts';
import type { NodeApi } from '../contract/node-api.ts';
import type { ControlStore } from '../control/control-store.ts';
import { createTally } from '../control/tally.ts';
import type { WebhookAddresses } from '../control/webhook-addresses.ts';
import type { Log } from '../telemetry/log.ts';
import { activityRoutes } from './activity-routes.ts';
import { adminRoutes } from './admin-routes.ts';
import { createAuthentication } from './authentication.ts';
import { buildRoutes } from './build-routes.ts';
import { takeUpload } from './build-uploads.ts';
import { allowAnyOrigin, answerPreflight } from './cors.ts';
import { answerRaw, toCoppiceError } from './errors.ts';
import { forkRoutes } from './fork-routes.ts';
import { keyRoutes } from './key-routes.ts';
import { createNodeLink } from './node-link.ts';
import { nodeRoutes } from './node-routes.ts';
import { type ApiContext, createMethodFinder, type Route } from './route.ts';
import { sandboxRoutes } from './sandbox-routes.ts';
import { secretRoutes } from './secret-routes.ts';
import { snapshotRoutes } from './snapshot-routes.ts';
import { teamRoutes } from './team-routes.ts';
import { templateRoutes } from './template-routes.ts';
import { tokenRoutes } from './token-routes.ts';
import { validationError } from './validation.ts';
import { takeVolumeContent } from './volume-content.ts';
import { volumeRoutes } from './volume-routes.ts';
import { webhookRoutes } from './webhook-routes.ts';

/** No request of the contract comes near this; files travel through the sandbox URL. */
const BODY_BYTES_MAX = 1024 * 1024;
/** How long a client may take to send a body; authentication comes before, so this bounds what strangers can hold. */
const BODY_TIMEOUT_MS = 30_000;
/** Media types that the framework's parser accepts; others are treated like a missing one. */
const MEDIA_TYPE = /^[\w!#$%&'*+.^`|~-]+\/[\w!#$%&'*+.^`|~-]+\s*(?:;|$)/;

export interface ApiOptions {
  readonly node: NodeApi;
  readonly store: ControlStore;
  readonly log: Log;
  /** Where clients reach the sandboxes, `host` or `host:port`; sent to them as `domain`. */
  readonly domain?: string;
  /** Folder on the disk that `GET /nodes` tells of; default the working directory. */
  readonly home?: string;
  /** Path of the node's traffic socket, which takes archives for builds and the files of volumes; undefined: 501. */
  readonly trafficSocket?: string;
  /** Where webhooks may lead; default: to what is public. */
  readonly webhookAddresses?: WebhookAddresses;
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
  const link = createNodeLink(options.trafficSocket);
  let ready = false;
  let closed = false;
  const started = Promise.resolve(app.ready()).then(() => {
    ready = true;
  });
  started.catch((error: unknown) => options.log.error({ error }, 'the REST edge did not start'));

  const handle = (req: IncomingMessage, res: ServerResponse): void => {
    allowAnyOrigin(res);
    if (ready && !closed && (takeUpload(link, req, res) || takeVolumeContent(link, req, res))) return;
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
    link.close();
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

function createApp({ node, store, log, domain, home = process.cwd(), webhookAddresses }: ApiOptions): FastifyInstance {
  const context: ApiContext = { node, store, webhookAddresses, tally: createTally(), domain, home, log };
  const authenticate = createAuthentication(store);
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
  app.decorateRequest('caller', undefined);
  app.decorateRequest('bodyHash', undefined);

  const routes = [
    ...openRoutes(context),
    ...sandboxRoutes(context),
    ...forkRoutes(context),
    ...snapshotRoutes(context),
    ...activityRoutes(context),
    ...webhookRoutes(context),
    ...templateRoutes(context),
    ...buildRoutes(context),
    ...volumeRoutes(context),
    ...secretRoutes(context),
    ...teamRoutes(context),
    ...keyRoutes(context),
    ...tokenRoutes(context),
    ...nodeRoutes(context),
    ...adminRoutes(context),
    ...pendingRoutes(PENDING_VERBS),
  ];
  const methodsOf = createMethodFinder(routes);

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
    if (!request.is404)
      return done(isNamed(request) ? undefined : new CoppiceError('route_not_found', 'route not found'));
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
    // The framework would close while the client still sends, which then loses this answer to a reset. What comes is
    // thrown away instead, for as long as a body may take.
    if (body.code === 413) reply.removeHeader('connection');
    return reply.code(body.code).type('application/json; charset=utf-8').send(body);
  });

  app.addHook('onResponse', (request, reply, done) => {
    const fields = {
      requestID: request.id,
      method: request.method,
      url: pathOf(request),
      status: reply.statusCode,
      ms: Math.round(reply.elapsedTime * 1000) / 1000,
      ...(request.caller === undefined ? {} : { by: request.caller.by, teamID: request.caller.teamID }),
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
                request.caller = authenticate(request, route.audience ?? 'team');
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

function pendingRoutes(verbs: readonly PendingVerb[]): readonly (Route & { readonly pending: CoppiceError })[] {
  return verbs.map(({ method, path, verb }) => {
    const pending = new CoppiceError('not_implemented', `${verb} (${method} ${path}) is not implemented yet`);
    return { method, path, pending, handle: () => Promise.reject(pending) };
  });
}

/** The framework takes `/templates/` for one of `/templates/:templateID`. */
function isNamed({ params }: FastifyRequest): boolean {
  return !Object.values(params as Readonly<Record<string, string>>).includes('');
}

/** Without the query, which may hold what a client filters by. */
function pathOf(request: FastifyRequest): string {
  return request.url.split('?', 1)[0]!.slice(0, 256);
}
