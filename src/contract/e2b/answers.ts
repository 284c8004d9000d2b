/**
 * Every answer that the REST edge may give: by method and path, the statuses that it declares and the body of each. The
 * edge does not run this; the tests hold every answer against it.
 */
import { z } from 'zod';
import {
  createdWebhook,
  latestMetrics,
  lifecycleEvent,
  queuedDelivery,
  sandboxLogs,
  sandboxLogsV1,
  sandboxMetric,
  webhook,
  webhookDelivery,
} from './activity-responses.ts';
import {
  assignedTags,
  buildFileLink,
  buildInfo,
  buildLogs,
  nothing,
  templateBuildTicket,
  templateNames,
  templateTags,
} from './build-responses.ts';
import { adminCancelResult, adminKillResult, node, nodeDetail, runningCounts } from './node-responses.ts';
import {
  contentErrorBody,
  errorBody,
  forkResult,
  listedSandbox,
  sandbox,
  sandboxDetail,
  secret,
  snapshotInfo,
  template,
  templateAlias,
  templateWithBuilds,
  volume,
  volumeAndToken,
  volumeEntry,
} from './responses.ts';
import { PENDING_VERBS } from './routes.ts';
import {
  createdAccessToken,
  createdTeamAPIKey,
  maxTeamMetric,
  team,
  teamAPIKey,
  teamMetric,
} from './team-responses.ts';

/** Header beside the body. `page`: `X-Next-Token` if and only if there is another page. */
export type AnswerHeader = 'page' | 'x-total-running' | 'server-timing';

export interface Answer {
  /** Undefined: no body, and no content type. */
  readonly body?: z.ZodType;
  readonly text?: boolean;
  /** Of a file, whatever they are. */
  readonly bytes?: boolean;
  readonly headers: readonly AnswerHeader[];
}

interface Declared {
  readonly method: string;
  /** With `:name` for one segment. */
  readonly pattern: string;
  readonly path: RegExp;
  readonly answers: ReadonlyMap<number, Answer>;
  readonly errors: ReadonlySet<number>;
}

/** Of a verb that takes something, and of any: no key, no such thing, a body that cannot be, and what is the server's fault. */
const ERRORS_OF_ALL = [400, 401, 403, 404, 413, 499, 500, 501, 503, 504];
/** For paths and methods that are not declared. */
const ERRORS_OF_NONE = new Set([400, 401, 404, 405, 413, 501, 503]);

const json = (body: z.ZodType, ...headers: AnswerHeader[]): Answer => ({ body, headers });
const EMPTY: Answer = { headers: [] };
const EMPTY_TIMED: Answer = { headers: ['server-timing'] };

/** `:name` is one segment. */
function on(
  method: string,
  paths: string | readonly string[],
  answers: Readonly<Record<number, Answer>>,
  errors: readonly number[] = [],
): Declared[] {
  return [paths].flat().map((path) => ({
    method,
    pattern: path,
    path: new RegExp(`^${path.replace(/:[A-Za-z]+/g, '[^/]+')}$`),
    answers: new Map(Object.entries(answers).map(([status, answer]) => [Number(status), answer])),
    errors: new Set([...ERRORS_OF_ALL, ...errors]),
  }));
}

const ID = '/sandboxes/:sandboxID';
const CONFLICT = [409];
const WRITTEN = [409, 507];

const DECLARED: readonly Declared[] = [
  ...on('GET', '/health', { 200: { text: true, headers: [] } }),
  ...on('POST', '/sandboxes', { 201: json(sandbox, 'server-timing') }),
  ...on('POST', '/v2/sandboxes', { 201: json(sandbox, 'server-timing') }, CONFLICT),
  ...on('GET', '/sandboxes', { 200: json(z.array(listedSandbox)) }),
  ...on('GET', '/v2/sandboxes', { 200: json(z.array(listedSandbox), 'page', 'x-total-running') }),
  ...on('GET', '/sandboxes/metrics', { 200: json(latestMetrics) }),
  ...on('GET', ID, { 200: json(sandboxDetail) }),
  ...on('DELETE', ID, { 204: EMPTY }),
  ...on('POST', [`${ID}/timeout`, `${ID}/refreshes`], { 204: EMPTY }),
  ...on('PUT', `${ID}/network`, { 204: EMPTY }, CONFLICT),
  ...on('POST', `${ID}/pause`, { 204: EMPTY_TIMED }, CONFLICT),
  ...on('POST', `${ID}/resume`, { 201: json(sandbox, 'server-timing') }, CONFLICT),
  ...on(
    'POST',
    [`${ID}/connect`, `/v2${ID}/connect`],
    { 200: json(sandbox), 201: json(sandbox, 'server-timing') },
    CONFLICT,
  ),
  ...on('POST', `${ID}/fork`, { 201: json(z.array(forkResult), 'server-timing') }, CONFLICT),
  ...on('POST', `${ID}/rollback`, { 201: json(sandbox, 'server-timing') }, CONFLICT),
  ...on('POST', `${ID}/snapshots`, { 201: json(snapshotInfo, 'server-timing') }, CONFLICT),
  ...on('GET', `${ID}/metrics`, { 200: json(z.array(sandboxMetric)) }),
  ...on('GET', `${ID}/logs`, { 200: json(sandboxLogsV1) }),
  ...on('GET', `/v2${ID}/logs`, { 200: json(sandboxLogs) }),
  ...on('GET', ['/events/sandboxes', '/events/sandboxes/:sandboxID'], { 200: json(z.array(lifecycleEvent)) }),
  ...on('POST', '/events/webhooks', { 201: json(createdWebhook) }),
  ...on('GET', '/events/webhooks', { 200: json(z.array(webhook)) }),
  ...on('GET', '/events/webhooks/:webhookID', { 200: json(webhook) }),
  ...on('PATCH', '/events/webhooks/:webhookID', { 200: json(webhook) }),
  ...on('DELETE', '/events/webhooks/:webhookID', { 204: EMPTY }),
  ...on('GET', '/events/webhooks/:webhookID/deliveries', { 200: json(z.array(webhookDelivery)) }),
  ...on('POST', '/events/webhooks/:webhookID/replay', { 201: json(queuedDelivery) }),
  ...on('GET', '/snapshots', { 200: json(z.array(snapshotInfo), 'page') }),
  ...on('GET', '/templates', { 200: json(z.array(template)) }),
  ...on('GET', '/v2/templates', { 200: json(z.array(template), 'page') }),
  ...on('GET', '/templates/aliases/:alias', { 200: json(templateAlias) }),
  ...on('GET', '/templates/:templateID', { 200: json(templateWithBuilds) }),
  ...on('DELETE', '/templates/:templateID', { 204: EMPTY }, CONFLICT),
  ...on('POST', '/v3/templates', { 202: json(templateBuildTicket) }, [...CONFLICT, 429]),
  ...on('GET', '/templates/:templateID/files/:hash', { 201: json(buildFileLink) }),
  ...on('PUT', '/templates/:templateID/files/:hash/upload', { 200: EMPTY }),
  ...on('POST', '/v2/templates/:templateID/builds/:buildID', { 202: EMPTY }, [429]),
  ...on('GET', '/templates/:templateID/builds/:buildID/status', { 200: json(buildInfo) }),
  ...on('GET', '/templates/:templateID/builds/:buildID/logs', { 200: json(buildLogs) }),
  ...on('PATCH', '/v2/templates/:templateID', { 200: json(templateNames) }),
  ...on('PATCH', '/templates/:templateID', { 200: json(nothing) }),
  ...on('POST', '/templates/tags', { 201: json(assignedTags) }),
  ...on('DELETE', '/templates/tags', { 204: EMPTY }),
  ...on('GET', '/templates/:templateID/tags', { 200: json(templateTags) }),
  ...on('GET', '/secrets', { 200: json(z.array(secret), 'page') }),
  ...on('POST', '/secrets', { 201: json(secret) }, CONFLICT),
  ...on('GET', '/secrets/:secretID', { 200: json(secret) }),
  ...on('POST', '/secrets/:secretID', { 200: json(secret) }),
  ...on('DELETE', '/secrets/:secretID', { 204: EMPTY }),
  ...on('GET', '/volumes', { 200: json(z.array(volume)) }),
  ...on('POST', '/volumes', { 201: json(volumeAndToken) }, CONFLICT),
  ...on('GET', '/volumes/:volumeID', { 200: json(volumeAndToken) }),
  ...on('DELETE', '/volumes/:volumeID', { 204: EMPTY }, CONFLICT),
  ...on('GET', '/volumecontent/:volumeID/path', { 200: json(volumeEntry) }),
  ...on('PATCH', '/volumecontent/:volumeID/path', { 200: json(volumeEntry) }),
  ...on('DELETE', '/volumecontent/:volumeID/path', { 204: EMPTY }, CONFLICT),
  ...on('GET', '/volumecontent/:volumeID/dir', { 200: json(z.array(volumeEntry)) }),
  ...on('POST', '/volumecontent/:volumeID/dir', { 201: json(volumeEntry) }, WRITTEN),
  ...on('GET', '/volumecontent/:volumeID/file', { 200: { bytes: true, headers: [] } }),
  ...on('PUT', '/volumecontent/:volumeID/file', { 201: json(volumeEntry) }, WRITTEN),
  ...on('GET', '/teams', { 200: json(z.array(team)) }),
  ...on('GET', '/teams/:teamID/metrics', { 200: json(z.array(teamMetric)) }),
  ...on('GET', '/teams/:teamID/metrics/max', { 200: json(maxTeamMetric) }),
  ...on('GET', '/api-keys', { 200: json(z.array(teamAPIKey)) }),
  ...on('POST', ['/api-keys', '/admin/teams/:teamID/api-keys'], { 201: json(createdTeamAPIKey) }),
  ...on('PATCH', '/api-keys/:keyID', { 200: json(teamAPIKey) }),
  ...on('DELETE', ['/api-keys/:keyID', '/admin/teams/:teamID/api-keys/:keyID'], { 204: EMPTY }),
  ...on('POST', '/access-tokens', { 201: json(createdAccessToken) }),
  ...on('DELETE', '/access-tokens/:tokenID', { 204: EMPTY }),
  ...on('GET', '/nodes', { 200: json(z.array(node)) }),
  ...on('GET', '/nodes/:nodeID', { 200: json(nodeDetail) }),
  ...on('POST', '/nodes/:nodeID', { 204: EMPTY }, CONFLICT),
  ...on('POST', '/admin/teams/:teamID/sandboxes/kill', { 200: json(adminKillResult) }),
  ...on('POST', '/admin/teams/:teamID/builds/cancel', { 200: json(adminCancelResult) }),
  ...on('GET', '/admin/sandboxes/running-counts', { 200: json(runningCounts) }),
  ...PENDING_VERBS.flatMap(({ method, path }) => on(method, path, {})),
];

/** Every verb of the contract, those that are not there yet included, as `GET /sandboxes/:sandboxID`. */
export const DECLARED_VERBS: readonly string[] = DECLARED.map(({ method, pattern }) => `${method} ${pattern}`);

/** Which of DECLARED_VERBS a request is for; of several the one with the fewest names. */
export function declaredVerb(method: string, path: string): string | undefined {
  const found = DECLARED.filter((each) => each.method === method && each.path.test(path));
  const names = ({ pattern }: Declared): number => pattern.split(':').length;
  const [best] = found.sort((a, b) => names(a) - names(b));
  return best && `${best.method} ${best.pattern}`;
}

/** What the contract says of one answer; undefined if it has no such. HEAD is GET without its body. */
export function declaredAnswer(method: string, path: string, status: number): Answer | undefined {
  const asked = method === 'HEAD' ? 'GET' : method;
  const found = DECLARED.filter((each) => each.method === asked && each.path.test(path));
  if (status >= 400)
    return (found.length === 0 ? ERRORS_OF_NONE.has(status) : found.some((each) => each.errors.has(status)))
      ? json(path.startsWith('/volumecontent/') ? z.union([errorBody, contentErrorBody]) : errorBody)
      : undefined;
  return found.find((each) => each.answers.has(status))?.answers.get(status);
}
