/**
 * Any origin may call: what protects this service is the key in a header, which a browser never adds by itself, and no
 * cookie exists.
 */
import type { IncomingMessage, ServerResponse } from 'node:http';

const EXPOSED = 'X-Next-Token, X-Total-Running, Retry-After, Server-Timing, X-Request-Id';
const METHODS = 'GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS';

export function allowAnyOrigin(res: ServerResponse): void {
  res.setHeader('access-control-allow-origin', '*');
  res.setHeader('access-control-expose-headers', EXPOSED);
}

/** Answers OPTIONS for every path. `*` would not cover `Authorization`, so the asked headers are repeated. */
export function answerPreflight(req: IncomingMessage, res: ServerResponse): void {
  const asked = req.headers['access-control-request-headers'];
  res.writeHead(204, {
    'access-control-allow-methods': METHODS,
    'access-control-allow-headers': asked !== undefined && /^[\w\-, ]{1,2048}$/.test(asked) ? asked : '*',
    'access-control-max-age': '86400',
    vary: 'Access-Control-Request-Headers',
    allow: METHODS,
  });
  res.end();
}
