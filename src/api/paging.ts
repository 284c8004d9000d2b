/** Pages of lists, by E2B's opaque token. */
import { decodePageToken, type PagePosition } from '../contract/e2b/page-token.ts';
import { validationError } from './validation.ts';

/** Where the page begins that a client asks for; undefined: at the beginning. */
export function pageAfter(nextToken: string | undefined, order: 'asc' | 'desc'): PagePosition | undefined {
  if (nextToken === undefined) return undefined;
  const after = decodePageToken(nextToken, order);
  if (after === undefined) throw validationError('nextToken: not a page token');
  return after;
}
