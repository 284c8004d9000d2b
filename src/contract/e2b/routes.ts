/**
 * Every verb of E2B's REST contract that this server does not answer yet. They get 501 by name, where a path that E2B
 * does not have gets 404. In a path, `:name` is one segment.
 */

export interface PendingVerb {
  readonly method: 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE';
  readonly path: string;
  /** What a person would call it. */
  readonly verb: string;
}

const pending = (verb: string, method: PendingVerb['method'], ...paths: string[]): PendingVerb[] =>
  paths.map((path) => ({ method, path, verb }));

export const PENDING_VERBS: readonly PendingVerb[] = [
  ...pending('fork', 'POST', '/sandboxes/:sandboxID/fork'),
  ...pending('network update', 'PUT', '/sandboxes/:sandboxID/network'),
  ...pending('sandbox metrics', 'GET', '/sandboxes/:sandboxID/metrics', '/sandboxes/metrics'),
  ...pending('sandbox logs', 'GET', '/sandboxes/:sandboxID/logs', '/v2/sandboxes/:sandboxID/logs'),
  ...pending('template build', 'POST', '/templates', '/v2/templates', '/v3/templates', '/templates/:templateID'),
  ...pending('template file link', 'GET', '/templates/:templateID/files/:hash'),
  ...pending(
    'template build',
    'POST',
    '/templates/:templateID/builds/:buildID',
    '/v2/templates/:templateID/builds/:buildID',
  ),
  ...pending('template build status', 'GET', '/templates/:templateID/builds/:buildID/status'),
  ...pending('template build logs', 'GET', '/templates/:templateID/builds/:buildID/logs'),
  ...pending('template update', 'PATCH', '/templates/:templateID', '/v2/templates/:templateID'),
  ...pending('template tag', 'POST', '/templates/tags'),
  ...pending('template untag', 'DELETE', '/templates/tags'),
  ...pending('template tag list', 'GET', '/templates/:templateID/tags'),
  ...pending('volume list', 'GET', '/volumes', '/volumes/:volumeID'),
  ...pending('volume create', 'POST', '/volumes'),
  ...pending('volume delete', 'DELETE', '/volumes/:volumeID'),
  ...(['GET', 'POST', 'PUT', 'PATCH', 'DELETE'] as const).flatMap((method) =>
    pending('volume content', method, '/volumecontent/:volumeID/:kind'),
  ),
  ...pending('secret list', 'GET', '/secrets', '/secrets/:secretID'),
  ...pending('secret write', 'POST', '/secrets', '/secrets/:secretID'),
  ...pending('secret delete', 'DELETE', '/secrets/:secretID'),
  ...pending('team list', 'GET', '/teams'),
  ...pending('team metrics', 'GET', '/teams/:teamID/metrics', '/teams/:teamID/metrics/max'),
  ...pending('API key list', 'GET', '/api-keys'),
  ...pending('API key create', 'POST', '/api-keys'),
  ...pending('API key update', 'PATCH', '/api-keys/:keyID'),
  ...pending('API key delete', 'DELETE', '/api-keys/:keyID'),
  ...pending('access token create', 'POST', '/access-tokens'),
  ...pending('access token delete', 'DELETE', '/access-tokens/:tokenID'),
  ...pending('node list', 'GET', '/nodes', '/nodes/:nodeID'),
  ...pending('node update', 'POST', '/nodes/:nodeID'),
  ...pending('admin kill', 'POST', '/admin/teams/:teamID/sandboxes/kill'),
  ...pending('admin counts', 'GET', '/admin/sandboxes/running-counts'),
  ...pending('admin build cancel', 'POST', '/admin/teams/:teamID/builds/cancel'),
  ...pending('admin key create', 'POST', '/admin/teams/:teamID/api-keys'),
  ...pending('admin key delete', 'DELETE', '/admin/teams/:teamID/api-keys/:keyID'),
];
