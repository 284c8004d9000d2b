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
  ...pending('template build of an older kind', 'POST', '/templates', '/v2/templates', '/templates/:templateID'),
  ...pending('template build of an older kind', 'POST', '/templates/:templateID/builds/:buildID'),
];
