/** Every verb of the REST contract by plain HTTP, against the whole service: what a client without an SDK gets. */
import assert from 'node:assert/strict';
import type { Kind } from '../behaviours/support/kinds.ts';

export interface RestContext {
  readonly kind: Kind;
  readonly teamID: string;
  /** A team beside it, and a key of that. */
  readonly other: { readonly teamID: string; readonly key: string };
  /** An access token of the team, as an authorization header; and the operator's. */
  readonly asHolder: Readonly<Record<string, string>>;
  readonly asAdmin: Readonly<Record<string, string>>;
  /** A success or an error of the test. `who`: headers in place of the team's key. */
  // biome-ignore lint/suspicious/noExplicitAny: the front holds its shape against the contract
  ask(method: string, path: string, body?: unknown, who?: Readonly<Record<string, string>>): Promise<any>;
  /** The status alone. */
  status(method: string, path: string): Promise<number>;
  /** Id of a sandbox of the row's own. */
  create(more?: object): Promise<string>;
  atEnd(end: () => unknown): void;
}

export type RestRow = (context: RestContext) => Promise<void>;

const HOOK = { name: 'hook', url: 'https://hooks.example/here', events: ['sandbox.lifecycle.killed'], enabled: false };

async function hook({ ask, atEnd }: RestContext): Promise<string> {
  const { id } = await ask('POST', '/events/webhooks', HOOK);
  atEnd(() => ask('DELETE', `/events/webhooks/${id}`).catch(() => {}));
  return id as string;
}

/** A template that waits for a build that never comes. */
async function waiting({ ask, atEnd }: RestContext, name: string): Promise<{ templateID: string; buildID: string }> {
  const made = await ask('POST', '/v3/templates', { name, cpuCount: 1, memoryMB: 512 });
  atEnd(() => ask('DELETE', `/templates/${made.templateID}`).catch(() => {}));
  return made;
}

async function secret({ ask, atEnd }: RestContext, name: string) {
  const made = await ask('POST', '/secrets', { name, value: 'a value' });
  atEnd(() => ask('DELETE', `/secrets/${made.secretID}`).catch(() => {}));
  return made;
}

/** A volume of the row's own: what its content API is asked with, and a folder and a file in it. */
async function volume({ ask, atEnd }: RestContext, name: string) {
  const made = await ask('POST', '/volumes', { name });
  atEnd(() => ask('DELETE', `/volumes/${made.volumeID}`).catch(() => {}));
  const who = { authorization: `Bearer ${made.token}` };
  const content = (method: string, rest: string, body?: unknown) =>
    ask(method, `/volumecontent/${made.volumeID}/${rest}`, body, who);
  await content('POST', 'dir?path=/d');
  await content('PUT', 'file?path=/d/f', 'text');
  return { volumeID: made.volumeID as string, content };
}

/** A snapshot of a sandbox of its own. */
async function snapshot({ ask, create, atEnd }: RestContext): Promise<{ sandboxID: string; snapshotID: string }> {
  const sandboxID = await create();
  const { snapshotID } = await ask('POST', `/sandboxes/${sandboxID}/snapshots`, {});
  atEnd(() => ask('DELETE', `/templates/${encodeURIComponent(snapshotID)}`).catch(() => {}));
  return { sandboxID, snapshotID };
}

const statusOf = async ({ ask }: RestContext, id: string): Promise<string> =>
  (await ask('GET', `/sandboxes/${id}`)).state;

async function timeout({ ask, create }: RestContext, verb: string, body: object, seconds: number): Promise<void> {
  const id = await create({ timeout: 60 });
  await ask('POST', `/sandboxes/${id}/${verb}`, body);
  const left = (Date.parse((await ask('GET', `/sandboxes/${id}`)).endAt) - Date.now()) / 1000;
  assert.ok(Math.abs(left - seconds) < 20, `${left} s left`);
}

async function created(context: RestContext, path: string, templateID = context.kind.base): Promise<void> {
  const made = await context.ask('POST', path, { templateID, timeout: 60 });
  context.atEnd(() => context.ask('DELETE', `/sandboxes/${made.sandboxID}`));
  assert.equal(await statusOf(context, made.sandboxID), 'running');
}

async function connected(context: RestContext, prefix: string): Promise<void> {
  const id = await context.create();
  await context.ask('POST', `/sandboxes/${id}/pause`, {});
  const { sandboxID } = await context.ask('POST', `${prefix}/sandboxes/${id}/connect`, { timeout: 120 });
  assert.equal(sandboxID, id);
  assert.equal(await statusOf(context, id), 'running');
}

const holds = (list: readonly object[], member: string, value: unknown): void =>
  assert.ok(
    list.some((one) => (one as Readonly<Record<string, unknown>>)[member] === value),
    `${member} ${value}`,
  );

const listed =
  (path: string): RestRow =>
  async ({ ask, create }) => {
    const id = await create();
    holds(await ask('GET', path), 'sandboxID', id);
  };

const templates =
  (path: string): RestRow =>
  async ({ ask, kind }) => {
    const found: { aliases: string[] }[] = await ask('GET', path);
    assert.ok(found.some(({ aliases }) => aliases.includes(kind.base)));
  };

/** Verbs that are not there yet are not in it: they are asked for one and all. */
export const REST_ROWS: Readonly<Record<string, RestRow>> = {
  'GET /health': async ({ status }) => assert.equal(await status('GET', '/health'), 200),
  'POST /sandboxes': (context) => created(context, '/sandboxes'),
  'POST /v2/sandboxes': (context) => created(context, '/v2/sandboxes'),
  'GET /sandboxes': listed('/sandboxes'),
  'GET /v2/sandboxes': listed('/v2/sandboxes'),
  'GET /sandboxes/metrics': async ({ ask, create }) => {
    const id = await create();
    const { sandboxes } = await ask('GET', `/sandboxes/metrics?sandbox_ids=${id}`);
    assert.ok(Object.keys(sandboxes).every((one) => one === id));
  },
  'GET /sandboxes/:sandboxID': async (context) =>
    assert.equal(await statusOf(context, await context.create()), 'running'),
  'DELETE /sandboxes/:sandboxID': async ({ ask, create, status }) => {
    const id = await create();
    await ask('DELETE', `/sandboxes/${id}`);
    assert.equal(await status('GET', `/sandboxes/${id}`), 404);
  },
  'PUT /sandboxes/:sandboxID/network': async (context) => {
    const id = await context.create();
    await context.ask('PUT', `/sandboxes/${id}/network`, { allow_internet_access: false });
    assert.equal((await context.ask('GET', `/sandboxes/${id}`)).allowInternetAccess, false);
  },
  'POST /sandboxes/:sandboxID/timeout': (context) => timeout(context, 'timeout', { timeout: 900 }, 900),
  'POST /sandboxes/:sandboxID/refreshes': (context) => timeout(context, 'refreshes', { duration: 900 }, 900),
  'POST /sandboxes/:sandboxID/pause': async (context) => {
    const id = await context.create();
    await context.ask('POST', `/sandboxes/${id}/pause`);
    assert.equal(await statusOf(context, id), 'paused');
  },
  'POST /sandboxes/:sandboxID/resume': async (context) => {
    const id = await context.create();
    await context.ask('POST', `/sandboxes/${id}/pause`);
    await context.ask('POST', `/sandboxes/${id}/resume`, { timeout: 120 });
    assert.equal(await statusOf(context, id), 'running');
  },
  'POST /sandboxes/:sandboxID/connect': (context) => connected(context, ''),
  'POST /v2/sandboxes/:sandboxID/connect': (context) => connected(context, '/v2'),
  'POST /sandboxes/:sandboxID/fork': async ({ ask, create, kind, status, atEnd }) => {
    const id = await create();
    if (!kind.ownKernel) return assert.equal(await status('POST', `/sandboxes/${id}/fork`), 501);
    const [made] = await ask('POST', `/sandboxes/${id}/fork`, {});
    atEnd(() => ask('DELETE', `/sandboxes/${made.sandbox.sandboxID}`));
    assert.notEqual(made.sandbox.sandboxID, id);
  },
  'POST /sandboxes/:sandboxID/rollback': async (context) => {
    const { sandboxID, snapshotID } = await snapshot(context);
    const back = await context.ask('POST', `/sandboxes/${sandboxID}/rollback`, { snapshotID });
    assert.equal(back.sandboxID, sandboxID);
  },
  'POST /sandboxes/:sandboxID/snapshots': async (context) => {
    const { snapshotID } = await snapshot(context);
    await created(context, '/v2/sandboxes', snapshotID);
  },
  'GET /snapshots': async (context) => {
    const { sandboxID, snapshotID } = await snapshot(context);
    const found = await context.ask('GET', `/snapshots?sandboxID=${sandboxID}`);
    assert.deepEqual(
      found.map((one: { snapshotID: string }) => one.snapshotID),
      [snapshotID],
    );
  },
  'GET /sandboxes/:sandboxID/metrics': async ({ ask, create }) => {
    assert.deepEqual(await ask('GET', `/sandboxes/${await create()}/metrics?end=1`), []);
  },
  'GET /sandboxes/:sandboxID/logs': async ({ ask, create }) => {
    const { logs } = await ask('GET', `/sandboxes/${await create()}/logs`);
    assert.match(logs[0].line, /created/);
  },
  'GET /v2/sandboxes/:sandboxID/logs': async ({ ask, create }) => {
    const { logs } = await ask('GET', `/v2/sandboxes/${await create()}/logs`);
    assert.equal(logs.at(-1).message, 'created');
  },
  'GET /events/sandboxes': async ({ ask, create }) => {
    const id = await create();
    holds(await ask('GET', '/events/sandboxes?limit=100'), 'sandbox_id', id);
  },
  'GET /events/sandboxes/:sandboxID': async ({ ask, create }) => {
    const id = await create();
    const [event] = await ask('GET', `/events/sandboxes/${id}`);
    assert.equal(event.type, 'sandbox.lifecycle.created');
  },
  'POST /events/webhooks': async (context) => assert.match(await hook(context), /\S/),
  'GET /events/webhooks': async (context) => {
    const id = await hook(context);
    holds(await context.ask('GET', '/events/webhooks'), 'id', id);
  },
  'GET /events/webhooks/:webhookID': async (context) => {
    const id = await hook(context);
    assert.equal((await context.ask('GET', `/events/webhooks/${id}`)).url, HOOK.url);
  },
  'PATCH /events/webhooks/:webhookID': async (context) => {
    const changed = await context.ask('PATCH', `/events/webhooks/${await hook(context)}`, { name: 'other' });
    assert.equal(changed.name, 'other');
  },
  'DELETE /events/webhooks/:webhookID': async (context) => {
    const id = await hook(context);
    await context.ask('DELETE', `/events/webhooks/${id}`);
    assert.equal(await context.status('GET', `/events/webhooks/${id}`), 404);
  },
  'GET /events/webhooks/:webhookID/deliveries': async (context) => {
    assert.deepEqual(await context.ask('GET', `/events/webhooks/${await hook(context)}/deliveries`), []);
  },
  'POST /events/webhooks/:webhookID/replay': async (context) => {
    const [event] = await context.ask('GET', `/events/sandboxes/${await context.create()}`);
    const id = await hook(context);
    const queued = await context.ask('POST', `/events/webhooks/${id}/replay`, { eventID: event.id });
    holds(await context.ask('GET', `/events/webhooks/${id}/deliveries`), 'id', queued.id);
  },
  'GET /templates': templates('/templates'),
  'GET /v2/templates': templates('/v2/templates'),
  'GET /templates/aliases/:alias': async ({ ask, kind }) => {
    assert.ok((await ask('GET', `/templates/aliases/${kind.base}`)).templateID);
  },
  'GET /templates/:templateID': async ({ ask, kind }) => {
    const { templateID } = await ask('GET', `/templates/aliases/${kind.base}`);
    assert.ok((await ask('GET', `/templates/${templateID}`)).builds.length > 0);
  },
  'POST /v3/templates': async (context) => {
    const { buildID } = await waiting(context, 'rest-made');
    assert.match(buildID, /^[0-9a-f-]{36}$/);
  },
  'DELETE /templates/:templateID': async (context) => {
    const { templateID } = await waiting(context, 'rest-deleted');
    await context.ask('DELETE', `/templates/${templateID}`);
    assert.equal(await context.status('GET', `/templates/${templateID}`), 404);
  },
  'GET /templates/:templateID/files/:hash': async (context) => {
    const { templateID } = await waiting(context, 'rest-files');
    const link = await context.ask('GET', `/templates/${templateID}/files/${'a'.repeat(64)}`);
    assert.equal(link.present, false);
    assert.match(link.url, /^http/);
  },
  'POST /v2/templates/:templateID/builds/:buildID': async (context) => {
    const { templateID, buildID } = await waiting(context, 'rest-started');
    await context.ask('POST', `/v2/templates/${templateID}/builds/${buildID}`, {
      fromTemplate: 'none-such',
      steps: [],
    });
    const { status } = await context.ask('GET', `/templates/${templateID}/builds/${buildID}/status`);
    assert.ok(['building', 'error', 'waiting'].includes(status), status);
  },
  'GET /templates/:templateID/builds/:buildID/status': async (context) => {
    const { templateID, buildID } = await waiting(context, 'rest-status');
    const { status } = await context.ask('GET', `/templates/${templateID}/builds/${buildID}/status`);
    assert.equal(status, 'waiting');
  },
  'GET /templates/:templateID/builds/:buildID/logs': async (context) => {
    const { templateID, buildID } = await waiting(context, 'rest-logs');
    const { logs } = await context.ask('GET', `/templates/${templateID}/builds/${buildID}/logs`);
    assert.ok(Array.isArray(logs));
  },
  'PATCH /v2/templates/:templateID': async (context) => {
    const { templateID } = await waiting(context, 'rest-public');
    assert.deepEqual(await context.ask('PATCH', `/v2/templates/${templateID}`, { public: true }), {
      names: ['rest-public'],
    });
  },
  'PATCH /templates/:templateID': async (context) => {
    const { templateID } = await waiting(context, 'rest-public-too');
    assert.deepEqual(await context.ask('PATCH', `/templates/${templateID}`, { public: true }), {});
  },
  'GET /secrets': async (context) => {
    const { secretID } = await secret(context, 'rest-listed');
    holds(await context.ask('GET', '/secrets'), 'secretID', secretID);
  },
  'POST /secrets': async (context) => assert.equal((await secret(context, 'rest-made')).currentVersion, 1),
  'GET /secrets/:secretID': async (context) => {
    const made = await secret(context, 'rest-told');
    assert.deepEqual(await context.ask('GET', '/secrets/rest-told'), made);
  },
  'POST /secrets/:secretID': async (context) => {
    const { secretID } = await secret(context, 'rest-changed');
    assert.equal((await context.ask('POST', `/secrets/${secretID}`, { value: 'new' })).currentVersion, 2);
  },
  'DELETE /secrets/:secretID': async (context) => {
    const { secretID } = await secret(context, 'rest-ended');
    await context.ask('DELETE', `/secrets/${secretID}`);
    assert.equal(await context.status('GET', `/secrets/${secretID}`), 404);
  },
  'GET /volumes': async (context) => {
    const { volumeID } = await volume(context, 'rest-listed');
    holds(await context.ask('GET', '/volumes'), 'volumeID', volumeID);
  },
  'POST /volumes': async (context) => assert.match((await volume(context, 'rest-made')).volumeID, /^[0-9a-f-]{36}$/),
  'GET /volumes/:volumeID': async (context) => {
    const { volumeID } = await volume(context, 'rest-told');
    assert.equal((await context.ask('GET', `/volumes/${volumeID}`)).name, 'rest-told');
  },
  'DELETE /volumes/:volumeID': async (context) => {
    const { volumeID } = await volume(context, 'rest-ended');
    await context.ask('DELETE', `/volumes/${volumeID}`);
    assert.equal(await context.status('GET', `/volumes/${volumeID}`), 404);
  },
  'GET /volumecontent/:volumeID/path': async (context) => {
    const { content } = await volume(context, 'rest-stat');
    assert.equal((await content('GET', 'path?path=/d/f')).type, 'file');
  },
  'PATCH /volumecontent/:volumeID/path': async (context) => {
    const { content } = await volume(context, 'rest-changed');
    assert.equal((await content('PATCH', 'path?path=/d/f', { mode: 0o600 })).mode, 0o600);
  },
  'DELETE /volumecontent/:volumeID/path': async (context) => {
    const { content } = await volume(context, 'rest-removed');
    await content('DELETE', 'path?path=/d');
    await assert.rejects(content('GET', 'path?path=/d'), /404.*path_not_found/);
  },
  'GET /volumecontent/:volumeID/dir': async (context) => {
    const { content } = await volume(context, 'rest-dir');
    assert.equal((await content('GET', 'dir?path=/&depth=2')).length, 2);
  },
  'POST /volumecontent/:volumeID/dir': async (context) => {
    const { content } = await volume(context, 'rest-dir-made');
    assert.equal((await content('POST', 'dir?path=/x/y&force=true')).path, '/x/y');
  },
  'GET /volumecontent/:volumeID/file': async (context) => {
    const { content } = await volume(context, 'rest-read');
    assert.equal(await content('GET', 'file?path=/d/f'), '"text"');
  },
  'PUT /volumecontent/:volumeID/file': async (context) => {
    const { content } = await volume(context, 'rest-written');
    assert.equal((await content('PUT', 'file?path=/new', 1)).size, 1);
  },
  'GET /teams': async ({ ask, asHolder, teamID }) =>
    holds(await ask('GET', '/teams', undefined, asHolder), 'teamID', teamID),
  'GET /teams/:teamID/metrics': async ({ ask, teamID }) => {
    assert.ok(Array.isArray(await ask('GET', `/teams/${teamID}/metrics`)));
  },
  'GET /teams/:teamID/metrics/max': async ({ ask, teamID }) => {
    assert.ok((await ask('GET', `/teams/${teamID}/metrics/max?metric=concurrent_sandboxes`)).value >= 0);
  },
  'GET /api-keys': async ({ ask, asHolder, teamID }) => {
    const who = { ...asHolder, 'x-team-id': teamID };
    const { id } = await ask('POST', '/api-keys', { name: 'listed' }, who);
    holds(await ask('GET', '/api-keys', undefined, who), 'id', id);
  },
  'POST /api-keys': async ({ ask, asHolder, teamID }) => {
    const { key } = await ask('POST', '/api-keys', { name: 'made' }, { ...asHolder, 'x-team-id': teamID });
    assert.ok(Array.isArray(await ask('GET', '/v2/sandboxes', undefined, { 'x-api-key': key })));
  },
  'PATCH /api-keys/:keyID': async ({ ask, asHolder, teamID }) => {
    const who = { ...asHolder, 'x-team-id': teamID };
    const { id } = await ask('POST', '/api-keys', { name: 'old' }, who);
    assert.equal((await ask('PATCH', `/api-keys/${id}`, { name: 'new' }, who)).name, 'new');
  },
  'DELETE /api-keys/:keyID': async ({ ask, asHolder, teamID }) => {
    const who = { ...asHolder, 'x-team-id': teamID };
    const { id, key } = await ask('POST', '/api-keys', { name: 'ended' }, who);
    await ask('DELETE', `/api-keys/${id}`, undefined, who);
    await assert.rejects(ask('GET', '/v2/sandboxes', undefined, { 'x-api-key': key }), /401/);
  },
  'POST /access-tokens': async ({ ask, asHolder }) => {
    const { token } = await ask('POST', '/access-tokens', { name: 'made' }, asHolder);
    assert.ok((await ask('GET', '/teams', undefined, { authorization: `Bearer ${token}` })).length > 0);
  },
  'DELETE /access-tokens/:tokenID': async ({ ask, asHolder }) => {
    const { id, token } = await ask('POST', '/access-tokens', { name: 'ended' }, asHolder);
    await ask('DELETE', `/access-tokens/${id}`, undefined, asHolder);
    await assert.rejects(ask('GET', '/teams', undefined, { authorization: `Bearer ${token}` }), /401/);
  },
  'POST /admin/teams/:teamID/api-keys': async ({ ask, asAdmin, other }) => {
    const { key } = await ask('POST', `/admin/teams/${other.teamID}/api-keys`, { name: 'made' }, asAdmin);
    assert.deepEqual(await ask('GET', '/v2/sandboxes', undefined, { 'x-api-key': key }), []);
  },
  'DELETE /admin/teams/:teamID/api-keys/:keyID': async ({ ask, asAdmin, other }) => {
    const keys = `/admin/teams/${other.teamID}/api-keys`;
    const { id, key } = await ask('POST', keys, { name: 'ended' }, asAdmin);
    await ask('DELETE', `${keys}/${id}`, undefined, asAdmin);
    await assert.rejects(ask('GET', '/v2/sandboxes', undefined, { 'x-api-key': key }), /401/);
  },
  'GET /nodes': async ({ ask, asAdmin }) => holds(await ask('GET', '/nodes', undefined, asAdmin), 'status', 'ready'),
  'GET /nodes/:nodeID': async ({ ask, asAdmin }) => {
    const [{ id }] = await ask('GET', '/nodes', undefined, asAdmin);
    assert.ok((await ask('GET', `/nodes/${id}`, undefined, asAdmin)).cachedBuilds.length > 0);
  },
  'POST /nodes/:nodeID': async ({ ask, asAdmin, kind, atEnd }) => {
    const [{ id }] = await ask('GET', '/nodes', undefined, asAdmin);
    atEnd(() => ask('POST', `/nodes/${id}`, { status: 'ready' }, asAdmin));
    await ask('POST', `/nodes/${id}`, { status: 'draining' }, asAdmin);
    await assert.rejects(ask('POST', '/v2/sandboxes', { templateID: kind.base }), /503/);
  },
  'POST /admin/teams/:teamID/sandboxes/kill': async ({ ask, asAdmin, other, kind }) => {
    await ask('POST', '/v2/sandboxes', { templateID: kind.base, timeout: 60 }, { 'x-api-key': other.key });
    const killed = await ask('POST', `/admin/teams/${other.teamID}/sandboxes/kill`, undefined, asAdmin);
    assert.deepEqual(killed, { killedCount: 1, failedCount: 0 });
  },
  'POST /admin/teams/:teamID/builds/cancel': async ({ ask, asAdmin, other }) => {
    const asOther = { 'x-api-key': other.key };
    const { templateID, buildID } = await ask('POST', '/v3/templates', { name: 'to-cancel' }, asOther);
    const cancel = (): Promise<unknown> =>
      ask('POST', `/admin/teams/${other.teamID}/builds/cancel`, undefined, asAdmin);
    assert.deepEqual(await cancel(), { cancelledCount: 1, failedCount: 0 });
    const { status } = await ask('GET', `/templates/${templateID}/builds/${buildID}/status`, undefined, asOther);
    assert.equal(status, 'error');
    assert.deepEqual(await cancel(), { cancelledCount: 0, failedCount: 0 });
  },
  'GET /admin/sandboxes/running-counts': async ({ ask, asAdmin, create, teamID }) => {
    await create();
    assert.ok((await ask('GET', '/admin/sandboxes/running-counts', undefined, asAdmin))[teamID] >= 1);
  },
};
