/** What E2B's SDK has no verb for: the running service's REST edge, asked directly. */
import { apiUrl, runningService } from './client-environment.ts';

export interface ServiceAnswer {
  /** The parsed JSON body. */
  readonly body: unknown;
  /** `X-Next-Token`, when there is another page. */
  readonly next?: string;
}

/** Throws with the service's own message when it does not answer 2xx, or does not answer. */
export async function ask(method: 'GET' | 'POST' | 'DELETE', path: string, body?: object): Promise<ServiceAnswer> {
  const service = runningService();
  const url = apiUrl(service);
  const response = await fetch(`${url}${path}`, {
    method,
    headers: {
      'x-api-key': service.E2B_API_KEY,
      ...(body === undefined ? {} : { 'content-type': 'application/json' }),
    },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  }).catch((error: unknown) => {
    throw new Error(`no service answers at ${url}`, { cause: error });
  });
  const answer: unknown = await response.json().catch(() => undefined);
  if (!response.ok) throw new Error(`${response.status}: ${messageOf(answer)}`);
  const next = response.headers.get('x-next-token');
  return { body: answer, ...(next ? { next } : {}) };
}

/** All pages of a list. `path` may have a query. */
export async function askAll<T>(path: string): Promise<T[]> {
  const found: T[] = [];
  for (let token: string | undefined; ; ) {
    const query = token === undefined ? '' : `${path.includes('?') ? '&' : '?'}nextToken=${encodeURIComponent(token)}`;
    const { body, next } = await ask('GET', `${path}${query}`);
    found.push(...(body as T[]));
    if (next === undefined) return found;
    token = next;
  }
}

function messageOf(answer: unknown): string {
  const { message } = (answer ?? {}) as { message?: unknown };
  return typeof message === 'string' ? message : 'an answer that is not of Coppice';
}
