/** What E2B's REST clients put into the query string and the path. */
import { z } from 'zod';

const METADATA_PAIRS_MAX = 128;
const RFC3339 = /^\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:[Zz]|[+-]\d\d:\d\d)$/;

/** A parameter given twice arrives as a list, which only comma lists can mean. */
const once = z.string().max(8192);

const limit = once
  .regex(/^\d{1,3}$/, 'expected an integer from 1 to 100')
  .transform(Number)
  .pipe(z.int().min(1).max(100))
  .default(100);

const states = z
  .union([once, z.array(once).max(16)])
  .transform((value) => (Array.isArray(value) ? value : [value]).flatMap((part) => part.split(',')))
  .pipe(z.array(z.enum(['running', 'paused'])).max(16))
  .transform((list) => [...new Set(list)])
  .default(['running', 'paused']);

const metadata = once.transform((value, context) => {
  try {
    return parseMetadataFilter(value);
  } catch (error) {
    context.addIssue({ code: 'custom', message: (error as Error).message });
    return z.NEVER;
  }
});

/** A `+` that the client did not encode has become a space by the time it arrives. */
const instant = once.transform((value, context) => {
  const text = value.replace(' ', '+');
  const ms = RFC3339.test(text) ? Date.parse(text) : Number.NaN;
  if (!Number.isNaN(ms)) return ms;
  context.addIssue({ code: 'custom', message: 'expected a time in RFC 3339' });
  return z.NEVER;
});

/** `GET /v2/sandboxes`. Parameters that the contract does not know are ignored, as E2B ignores them. */
export const listSandboxesQuery = z.object({
  metadata: metadata.optional(),
  state: states,
  order: z.enum(['asc', 'desc']).default('desc'),
  startedAfter: instant.optional(),
  template: once.min(1).max(256).optional(),
  nextToken: once.optional(),
  limit,
});

/** `GET /snapshots`. */
export const listSnapshotsQuery = z.object({
  sandboxID: once.min(1).max(128).optional(),
  name: once.min(1).max(256).optional(),
  nextToken: once.optional(),
  limit,
});

/** `GET /secrets`. */
export const listSecretsQuery = z.object({ nextToken: once.optional(), limit });

/** `GET /sandboxes`, deprecated: running sandboxes only. */
export const listRunningQuery = z.object({ metadata: metadata.optional() });

/** `GET /v2/templates` and, over its builds, `GET /templates/{id}`. */
export const listTemplatesQuery = z.object({ teamID: once.optional(), nextToken: once.optional(), limit });

/** `GET /templates`, deprecated: no pages. */
export const listAllTemplatesQuery = z.object({ teamID: once.optional() });

const unixSeconds = once
  .regex(/^\d{1,11}$/, 'expected seconds since 1970')
  .transform(Number)
  .optional();

/** `GET /teams/{id}/metrics`. */
export const teamMetricsQuery = z.object({ start: unixSeconds, end: unixSeconds });

/** `GET /teams/{id}/metrics/max`. */
export const maxTeamMetricQuery = teamMetricsQuery.extend({
  metric: z.enum(['concurrent_sandboxes', 'sandbox_start_rate']),
});

/** `GET /nodes/{id}`. */
export const nodeQuery = z.object({ clusterID: once.optional() });

/**
 * Undoes what is left of E2B's triple encoding after the usual query decoding: the whole is unescaped once, split into
 * pairs, and each piece unescaped again. Plain `a=b` comes out the same. Throws Error on text that is no such list.
 */
export function parseMetadataFilter(value: string): Readonly<Record<string, string>> {
  const filter: Record<string, string> = Object.create(null);
  const pairs = percentDecode(value).split('&');
  if (pairs.length > METADATA_PAIRS_MAX) throw new Error(`more than ${METADATA_PAIRS_MAX} pairs`);
  for (const pair of pairs) {
    if (pair === '' && pairs.length === 1) break;
    const pieces = pair.split('=');
    if (pieces.length !== 2) throw new Error('expected key=value pairs joined by &');
    filter[percentDecode(pieces[0]!)] = percentDecode(pieces[1]!);
  }
  return filter;
}

function percentDecode(text: string): string {
  try {
    return decodeURIComponent(text.replaceAll('+', ' '));
  } catch {
    throw new Error('malformed percent-encoding');
  }
}

/** `<id>` or `<id>-<anything>`: the suffix is cut. Undefined if what is left cannot be the id of a sandbox. */
export function sandboxIDFromPath(text: string): string | undefined {
  const id = text.split('-', 1)[0]!;
  return /^[a-z0-9]{1,64}$/.test(id) ? id : undefined;
}
