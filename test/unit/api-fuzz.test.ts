/** Hostile input: whatever comes, the answer is JSON with an integer code, no 5xx but 501, and the server lives on. */
import assert from 'node:assert/strict';
import test from 'node:test';
import fc from 'fast-check';
import { decodePageToken, encodePageToken } from '../../src/contract/e2b/page-token.ts';
import { parseMetadataFilter } from '../../src/contract/e2b/query.ts';
import { PENDING_VERBS } from '../../src/contract/e2b/routes.ts';
import { createFakeNode, serveAPI } from '../helpers/fake-node.ts';

const node = createFakeNode();
const api = await serveAPI(node);
test.after(api.close);
const made = await api.call('POST', '/v2/sandboxes', { body: { templateID: 'base-jail' } });
const id: string = made.json.sandboxID;
const { token } = api.store.tokens.create({ teamIDs: [api.teamID], name: 'fuzz' });

const word = fc.oneof(
  fc.constantFrom(
    api.teamID,
    'local',
    id,
    `${id}-x`,
    'base',
    '%',
    '%00',
    '..',
    'metrics',
    'tags',
    '',
    '__proto__',
    'constructor',
    '%2F',
  ),
  fc.string({ maxLength: 30 }).map((text) => encodeURIComponent(text.toWellFormed())),
);
const known = fc
  .constantFrom(
    ...PENDING_VERBS.map((each) => each.path),
    '/sandboxes',
    '/v2/sandboxes',
    '/sandboxes/:a',
    '/sandboxes/:a/connect',
    '/v2/sandboxes/:a/connect',
    '/sandboxes/:a/timeout',
    '/sandboxes/:a/refreshes',
    '/sandboxes/:a/pause',
    '/sandboxes/:a/resume',
    '/sandboxes/:a/fork',
    '/sandboxes/:a/rollback',
    '/sandboxes/:a/snapshots',
    '/snapshots',
    '/sandboxes/:a/metrics',
    '/sandboxes/metrics',
    '/sandboxes/:a/logs',
    '/v2/sandboxes/:a/logs',
    '/events/sandboxes',
    '/events/sandboxes/:a',
    '/events/webhooks',
    '/events/webhooks/:a',
    '/events/webhooks/:a/deliveries',
    '/events/webhooks/:a/replay',
    '/templates',
    '/v2/templates',
    '/templates/:a',
    '/templates/aliases/:a',
    '/teams',
    '/teams/:a/metrics',
    '/teams/:a/metrics/max',
    '/api-keys',
    '/api-keys/:a',
    '/access-tokens',
    '/access-tokens/:a',
    '/nodes',
    '/nodes/:a',
    '/admin/teams/:a/sandboxes/kill',
    '/admin/sandboxes/running-counts',
    '/admin/teams/:a/api-keys',
    '/admin/teams/:a/api-keys/:b',
    '/health',
  )
  .chain((path) => word.map((value) => path.replace(/:[A-Za-z]+/g, () => value)));
const path = fc.oneof(
  { weight: 4, arbitrary: known },
  { weight: 1, arbitrary: fc.array(word).map((parts) => `/${parts.join('/')}`) },
);
const query = fc
  .array(
    fc.tuple(
      fc.constantFrom(
        'metadata',
        'state',
        'limit',
        'order',
        'startedAfter',
        'template',
        'sandboxID',
        'name',
        'nextToken',
        'teamID',
        'start',
        'end',
        'sandbox_ids',
        'cursor',
        'direction',
        'level',
        'search',
        'offset',
        'orderAsc',
        'types',
        'start',
        'end',
        'metric',
        'clusterID',
        '__proto__',
        'x',
      ),
      fc.oneof(word, fc.constantFrom('a%3Db', '1', '100', 'asc', 'running', '2026-01-01T00:00:00Z', '%E0', '%25E0')),
    ),
    { maxLength: 4 },
  )
  .map((pairs) => (pairs.length === 0 ? '' : `?${pairs.map(([key, value]) => `${key}=${value}`).join('&')}`));
const member = fc.constantFrom(
  'templateID',
  'timeout',
  'autoPause',
  'autoPauseMemory',
  'autoResume',
  'secure',
  'allow_internet_access',
  'network',
  'metadata',
  'envVars',
  'mcp',
  'iam',
  'volumeMounts',
  'duration',
  'memory',
  'name',
  'count',
  'snapshotID',
  'url',
  'events',
  'enabled',
  'signatureSecret',
  'eventID',
  '__proto__',
  'constructor',
  'toString',
);
const value = fc.oneof(
  fc.jsonValue({ maxDepth: 3 }),
  fc.constantFrom(
    'base',
    1,
    15,
    0,
    -1,
    86_401,
    2 ** 53,
    1e308,
    true,
    {},
    [],
    { enabled: true },
    { __proto__: null, denyOut: ['0.0.0.0/0'] },
  ),
);
const body = fc.oneof(
  fc.constant(undefined),
  fc.dictionary(member, value).map((each) => JSON.stringify(each)),
  fc.dictionary(member, value).map((each) => JSON.stringify({ templateID: 'base', ...each })),
  fc.json(),
  fc.string(),
  fc.uint8Array({ maxLength: 200 }).map((bytes) => Buffer.from(bytes)),
);
const headerValue = fc.string({ maxLength: 40 }).map((text) => text.replace(/[^\x20-\x7e]/g, ''));
const headers = fc.dictionary(
  fc.constantFrom(
    'content-type',
    'content-encoding',
    'idempotency-key',
    'authorization',
    'accept',
    'x-api-key',
    'origin',
    'x-team-id',
    'range',
  ),
  fc.oneof(headerValue, fc.constantFrom('application/json', 'text/plain', 'gzip', 'identity', 'abc')),
);
/** Beside the API key: what it does not admit, one of these may. */
const credentials = fc.constantFrom<Readonly<Record<string, string>>>(
  {},
  { 'x-admin-token': api.adminToken },
  { 'x-admin-token': api.adminToken, 'x-team-id': api.teamID },
  { authorization: `Bearer ${token}`, 'x-team-id': api.teamID },
);
const method = fc.constantFrom(
  'GET',
  'POST',
  'PUT',
  'PATCH',
  'DELETE',
  'HEAD',
  'OPTIONS',
  'TRACE',
  'QUERY',
  'PROPFIND',
  'LINK',
);

/** A create that may well succeed, so that the generator gets behind the front door. */
const nearlyValid = fc.tuple(
  fc.constant('POST'),
  fc.constantFrom('/sandboxes', '/v2/sandboxes'),
  fc.constant(''),
  fc.constant({}),
  fc
    .dictionary(fc.constantFrom('timeout', 'metadata', 'envVars', 'network', 'allow_internet_access'), value, {
      maxKeys: 1,
    })
    .map((each): string | Buffer | undefined => JSON.stringify({ templateID: 'base', ...each })),
);
const anything = fc.tuple(
  method,
  path,
  query,
  fc.tuple(headers, credentials).map(([some, more]) => ({ ...some, ...more })),
  body,
);

test('random requests', async () => {
  const statuses = new Map<number, number>();
  await fc.assert(
    fc.asyncProperty(
      fc.oneof({ weight: 5, arbitrary: anything }, { weight: 1, arbitrary: nearlyValid }),
      async ([verb, where, what, more, content]) => {
        const answer = await api.call(verb, where + what, {
          headers: more,
          body: verb === 'TRACE' ? undefined : content,
        });
        statuses.set(answer.status, (statuses.get(answer.status) ?? 0) + 1);
        assert.ok(
          answer.status < 500 || answer.status === 501,
          `${verb} ${where}${what}: ${answer.status} ${answer.text}`,
        );
      },
    ),
    { numRuns: 2500 },
  );
  for (const status of [200, 201, 400, 404, 405, 501]) assert.ok(statuses.has(status), `no answer was ${status}`);
  assert.equal((await api.call('GET', '/health')).status, 200);
});

test('what a client writes as JSON reaches the node as written', async () => {
  const text = fc.string({ unit: 'binary', maxLength: 40 }).filter((each) => each.isWellFormed());
  const map = fc.dictionary(
    text.filter((key) => key !== '__proto__'),
    text,
    { maxKeys: 8 },
  );
  await fc.assert(
    fc.asyncProperty(map, async (metadata) => {
      const answer = await api.call('POST', '/v2/sandboxes', { body: { templateID: 'base', metadata } });
      assert.equal(answer.status, 201);
      assert.deepEqual({ ...node.requests.at(-1)!.metadata }, { ...metadata });
    }),
    { numRuns: 150 },
  );
});

test('the metadata filter undoes what the SDKs encode', () => {
  const text = fc.string({ unit: 'binary', maxLength: 20 }).filter((each) => each.isWellFormed());
  const map = fc.dictionary(
    text.filter((key) => key !== '__proto__'),
    text,
    { minKeys: 1, maxKeys: 5 },
  );
  fc.assert(
    fc.property(map, (metadata) => {
      const pairs = Object.entries(metadata).map(
        ([key, each]) => [encodeURIComponent(key), encodeURIComponent(each)] as [string, string],
      );
      // On the wire this is percent-encoded a third time, which the query parser has undone.
      assert.deepEqual({ ...parseMetadataFilter(new URLSearchParams(pairs).toString()) }, { ...metadata });
    }),
  );
  assert.deepEqual({ ...parseMetadataFilter('k%2520ey=v%253D1%25262') }, { 'k ey': 'v=1&2' });
  assert.deepEqual({ ...parseMetadataFilter('a=b') }, { a: 'b' });
  assert.deepEqual({ ...parseMetadataFilter('') }, {});
});

test('page tokens come back as they were, and garbage does not', () => {
  const position = fc
    .tuple(fc.integer({ min: 0, max: 4_102_444_800_000 }), fc.stringMatching(/^i[a-z0-9]{20}$/))
    .map(([startedAtMs, sandboxID]) => ({ startedAtMs, sandboxID }));
  fc.assert(
    fc.property(position, fc.constantFrom('asc' as const, 'desc' as const), (at, order) => {
      const token = encodePageToken(at, order);
      assert.deepEqual(decodePageToken(token, order), at);
      assert.equal(decodePageToken(token, order === 'asc' ? 'desc' : 'asc'), undefined);
    }),
  );
  fc.assert(fc.property(fc.string(), (garbage) => assert.equal(decodePageToken(garbage, 'desc'), undefined)));
});
