/** Webhooks: made, told, signed, tried again, given up, told again; at least once whatever ends, and never where they may not. */
import assert from 'node:assert/strict';
import { createHash, createHmac } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { createServer, type IncomingHttpHeaders } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { lifecycleEvent } from '../../src/contract/e2b/activity-responses.ts';
import type { NodeApi } from '../../src/contract/node-api.ts';
import { type ControlStore, openControlStore } from '../../src/control/control-store.ts';
import { type PostmanOptions, startPostman } from '../../src/control/postman.ts';
import { createWebhookAddresses } from '../../src/control/webhook-addresses.ts';
import { silentLog } from '../../src/telemetry/log.ts';
import { createFakeNode, serveAPI } from '../helpers/fake-node.ts';
import { until } from '../helpers/until.ts';

const addresses = createWebhookAddresses(['127.0.0.1']);
const ALL = ['created', 'killed'].map((kind) => `sandbox.lifecycle.${kind}`);

interface Told {
  readonly path: string;
  readonly headers: IncomingHttpHeaders;
  readonly body: string;
  // biome-ignore lint/suspicious/noExplicitAny: checked against the contract's schema
  readonly event: any;
}

/** Somebody who wants to know. `answer` decides what is said to each, by how many there were before. */
async function receiver(t: TestContext, answer: (count: number) => number | 'never' | 'cut' = () => 200) {
  const told: Told[] = [];
  const server = createServer((req, res) => {
    const chunks: Buffer[] = [];
    req.on('data', (chunk: Buffer) => chunks.push(chunk));
    req.on('end', () => {
      const body = Buffer.concat(chunks).toString();
      const how = answer(told.length);
      told.push({ path: req.url ?? '', headers: req.headers, body, event: lifecycleEvent.parse(JSON.parse(body)) });
      if (how === 'cut') req.socket.destroy();
      else if (how !== 'never') {
        if (how >= 300 && how < 400) res.setHeader('location', '/elsewhere');
        res.writeHead(how).end('thanks');
      }
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.after(() => {
    server.closeAllConnections();
    server.close();
  });
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  return { told, url };
}

async function rig(t: TestContext, options: Partial<PostmanOptions> = {}) {
  const node = createFakeNode();
  const api = await serveAPI(node, { webhookAddresses: addresses });
  const postman = startPostman({
    node,
    store: api.store,
    addresses,
    log: silentLog,
    retryMs: [20, 20, 20],
    ...options,
  });
  t.after(async () => {
    await postman.close();
    await api.close();
  });
  const hook = async (url: string, more: object = {}) => {
    const answer = await api.call('POST', '/events/webhooks', { body: { name: 'mine', url, events: ALL, ...more } });
    assert.equal(answer.status, 201, answer.text);
    return answer.json;
  };
  const create = async (): Promise<string> =>
    (await api.call('POST', '/v2/sandboxes', { body: { templateID: 'base', metadata: { of: 'mine' } } })).json
      .sandboxID;
  const kill = (id: string) => api.call('DELETE', `/sandboxes/${id}`);
  const deliveries = async (id: string) => (await api.call('GET', `/events/webhooks/${id}/deliveries?limit=100`)).json;
  return { node, api, postman, hook, create, kill, deliveries };
}

test('made, listed, changed, deleted; its secret is shown once; another team has none of it', async (t) => {
  const { api, hook } = await rig(t);
  const { signatureSecret, ...made } = await hook('http://127.0.0.1:9/x');
  assert.match(signatureSecret, /^whsec_[0-9a-f]{48}$/);
  assert.equal(
    (await hook('http://127.0.0.1:9/y', { signatureSecret: 'a secret of mine' })).signatureSecret,
    undefined,
  );
  const path = `/events/webhooks/${made.id}`;
  assert.deepEqual((await api.call('GET', path)).json, made);
  assert.equal((await api.call('GET', '/events/webhooks')).json.length, 2);
  const change = { enabled: false, events: ['sandbox.lifecycle.paused'] };
  const changed = { ...made, ...change };
  assert.deepEqual((await api.call('PATCH', path, { body: change })).json, changed);
  assert.deepEqual((await api.call('GET', path)).json, changed);
  const stranger = api.store.keys.create({ teamID: api.store.teams.create('other').teamID, name: 'x' }).key;
  assert.deepEqual((await api.call('GET', '/events/webhooks', { key: stranger })).json, []);
  for (const [method, at, body] of [
    ['GET', path, undefined],
    ['PATCH', path, { name: 'x' }],
    ['DELETE', path, undefined],
    ['GET', `${path}/deliveries`, undefined],
    ['POST', `${path}/replay`, { eventID: made.id }],
  ] as const)
    assert.equal((await api.call(method, at, { key: stranger, body })).status, 404, `${method} ${at}`);
  assert.equal((await api.call('DELETE', path)).status, 204);
  assert.equal((await api.call('DELETE', path)).status, 404);
  for (const body of [
    {},
    { name: 'x', url: 'http://127.0.0.1', events: [] },
    { name: 'x', url: 'http://127.0.0.1', events: ['x'] },
    { name: '', url: 'http://127.0.0.1', events: ALL },
    { name: 'x', url: 'http://10.0.0.1', events: ALL },
    { name: 'x', url: 'http://169.254.169.254/latest', events: ALL },
    { name: 'x', url: 'ftp://example.com', events: ALL },
    { name: 'x', url: 'http://127.0.0.1', events: ALL, signatureSecret: 'short' },
  ])
    assert.equal((await api.call('POST', '/events/webhooks', { body })).status, 400, JSON.stringify(body));
  assert.equal(
    (
      await api.call('PATCH', `/events/webhooks/${(await hook('http://127.0.0.1')).id}`, {
        body: { url: 'http://10.0.0.1' },
      })
    ).status,
    400,
  );
});

test('told of what it wants from its making on, in E2B’s form, signed in both ways', async (t) => {
  const { hook, create, kill, deliveries, api } = await rig(t);
  await create();
  const { told, url } = await receiver(t);
  const secret = 'a secret of mine';
  const { id } = await hook(`${url}/hook?x=1`, { signatureSecret: secret });
  const sandboxID = await create();
  await kill(sandboxID);
  await until('both are told', () => told.length === 2);
  assert.deepEqual(
    told.map(({ event }) => [event.type, event.event_label, event.sandbox_id]),
    [
      ['sandbox.lifecycle.created', 'create', sandboxID],
      ['sandbox.lifecycle.killed', 'kill', sandboxID],
    ],
  );
  const [{ headers, body, event, path }] = told as [Told];
  assert.equal(path, '/hook?x=1');
  assert.equal(event.version, 'v2');
  assert.equal(event.sandbox_team_id, api.teamID);
  assert.deepEqual(event.event_data, { sandbox_metadata: { of: 'mine' } });
  assert.equal(headers['content-type'], 'application/json');
  assert.equal(headers['coppice-signature'], `sha256=${createHmac('sha256', secret).update(body).digest('hex')}`);
  const e2b = createHash('sha256')
    .update(secret + body)
    .digest('base64')
    .replace(/=+$/, '');
  assert.equal(headers['e2b-signature'], e2b);
  assert.equal(headers['e2b-signature-version'], 'v1');
  assert.equal(headers['e2b-webhook-id'], id);
  await until('that is kept', async () =>
    (await deliveries(id)).every((one: { state: string }) => one.state === 'delivered'),
  );
  const [killed, created] = await deliveries(id);
  assert.equal(headers['e2b-delivery-id'], created.id);
  assert.deepEqual([killed.status, killed.attempts, killed.error], [200, 1, null]);
  assert.deepEqual(
    (await api.call('GET', '/events/sandboxes?limit=1')).json,
    [told[1]!.event],
    'the list says the same',
  );
});

test('only what it asked for, and nothing while it is off; what is off is not told later', async (t) => {
  const { hook, create, kill, api } = await rig(t);
  const { told, url } = await receiver(t);
  const { id } = await hook(url, { events: ['sandbox.lifecycle.killed'] });
  const first = await create();
  await kill(first);
  await until('told', () => told.length === 1);
  assert.equal(told[0]!.event.type, 'sandbox.lifecycle.killed');
  await api.call('PATCH', `/events/webhooks/${id}`, { body: { enabled: false } });
  await kill(await create());
  await until('seen', () => api.store.webhooks.all()[0]!.seen === 4);
  await api.call('PATCH', `/events/webhooks/${id}`, { body: { enabled: true } });
  const last = await create();
  await kill(last);
  await until('told again', () => told.length === 2);
  await sleep(30);
  assert.deepEqual(
    told.map(({ event }) => event.sandbox_id),
    [first, last],
  );
});

test('what fails is tried again: an error, a redirect, a cut, silence; the same delivery each time', async (t) => {
  const { hook, create, deliveries } = await rig(t, { retryMs: [10, 10, 10, 10, 10], answerMs: 100 });
  const answers = [500, 302, 'cut', 'never', 204] as const;
  const { told, url } = await receiver(t, (count) => answers[count] ?? 200);
  const { id } = await hook(url);
  await create();
  await until('it is told at last', async () => (await deliveries(id))[0]?.state === 'delivered');
  assert.equal(told.length, 5);
  assert.equal(new Set(told.map(({ headers }) => headers['e2b-delivery-id'])).size, 1);
  assert.equal(new Set(told.map(({ body }) => body)).size, 1);
  assert.ok(
    told.every(({ path }) => path === '/'),
    'no redirect is followed',
  );
  const [delivery] = await deliveries(id);
  assert.deepEqual([delivery.attempts, delivery.status, delivery.error], [5, 204, null]);
});

test('given up after so many attempts, and told again when somebody asks for it', async (t) => {
  const { hook, create, deliveries, api } = await rig(t, { retryMs: [5, 5] });
  let well = false;
  const { told, url } = await receiver(t, () => (well ? 200 : 503));
  const { id } = await hook(url);
  await create();
  await until('it is dead', async () => (await deliveries(id))[0]?.state === 'dead');
  const [dead] = await deliveries(id);
  assert.deepEqual([dead.attempts, dead.status, dead.error], [3, 503, 'answered 503']);
  await sleep(50);
  assert.equal(told.length, 3);
  well = true;
  const replay = (eventID: string) => api.call('POST', `/events/webhooks/${id}/replay`, { body: { eventID } });
  const answer = await replay(dead.eventID);
  assert.equal(answer.status, 201);
  await until('it is told', () => told.length === 4);
  assert.equal(told[3]!.event.id, dead.eventID);
  assert.equal(told[3]!.headers['e2b-delivery-id'], answer.json.id);
  assert.equal((await replay(crypto.randomUUID())).status, 404);
  assert.equal((await replay('x')).status, 400);
});

test('a name that leads where it may not is not connected to', async (t) => {
  const { told, url } = await receiver(t);
  const strict = createWebhookAddresses([]);
  const { hook, create, deliveries } = await rig(t, { addresses: strict, retryMs: [] });
  const byName = await hook(url.replace('127.0.0.1', 'localhost'));
  const byAddress = await hook(url);
  await create();
  for (const { id } of [byName, byAddress])
    await until('it is dead', async () => (await deliveries(id))[0]?.state === 'dead');
  assert.match((await deliveries(byName.id))[0].error, /no address that is allowed/);
  assert.match((await deliveries(byAddress.id))[0].error, /not a public address/);
  assert.equal(told.length, 0);
});

test('one that never answers holds up no other', async (t) => {
  const { hook, create, deliveries } = await rig(t, { answerMs: 10_000 });
  const silent = await receiver(t, () => 'never');
  const { told, url } = await receiver(t);
  const { id } = await hook(silent.url);
  await hook(url);
  for (let count = 0; count < 5; count++) await create();
  await until('the other is told', () => told.length === 5);
  assert.equal(silent.told.length, 1, 'one at a time');
  assert.equal((await deliveries(id)).length, 5);
});

test('where there is no webhook the node is asked nothing', async (t) => {
  const node = createFakeNode();
  const store = openControlStore(':memory:');
  let asked = 0;
  const counting: Pick<NodeApi, 'listEvents'> = {
    listEvents: (query, signal) => {
      asked++;
      return node.listEvents(query, signal);
    },
  };
  const postman = startPostman({ node: counting, store, addresses, log: silentLog });
  t.after(async () => {
    await postman.close();
    store.close();
  });
  await sleep(30);
  assert.equal(asked, 0);
  store.webhooks.create(
    store.teams.default.teamID,
    { name: 'x', url: 'http://127.0.0.1:9', kinds: ['created'], enabled: true },
    0,
  );
  await until('it is asked', () => asked === 1);
  await sleep(30);
  assert.equal(asked, 1, 'and waits');
});

test('ends and beginnings: what was queued, under way or not yet looked at is told', async (t) => {
  const folder = await mkdtemp(join(tmpdir(), 'webhooks-'));
  const file = join(folder, 'control.db');
  const node = createFakeNode();
  let away = true;
  const { told, url } = await receiver(t, () => (away ? 'never' : 200));
  const start = (store: ControlStore) =>
    startPostman({ node, store, addresses, log: silentLog, retryMs: [5, 5, 5, 5, 5, 5], answerMs: 10_000 });
  let store = openControlStore(file);
  const { teamID } = store.teams.default;
  store.webhooks.create(teamID, { name: 'x', url, kinds: ['created'], enabled: true }, 0);
  let postman = start(store);
  const request = {
    teamID,
    template: 'base',
    timeoutSeconds: 60,
    secure: true,
    metadata: {},
    envVars: {},
    network: {},
  };
  const create = async () => (await node.createSandbox(request)).sandbox.sandboxID;
  const ids = [await create(), await create()];
  await until('one is under way', () => told.length === 1);
  await postman.close();
  store.close();
  ids.push(await create());
  away = false;
  store = openControlStore(file);
  postman = start(store);
  await until('all are told', () => told.length === 4);
  assert.deepEqual(
    told.slice(1).map(({ event }) => event.sandbox_id),
    ids,
  );
  assert.equal(told[0]!.body, told[1]!.body, 'the one that was under way, again');
  assert.deepEqual(told[0]!.headers['e2b-delivery-id'], told[1]!.headers['e2b-delivery-id']);
  await postman.close();
  store.close();
  await rm(folder, { recursive: true, force: true });
});

test('a node that does not answer is asked again; one that begins anew is followed from there', async (t) => {
  const store = openControlStore(':memory:');
  const { told, url } = await receiver(t);
  let node = createFakeNode();
  let fails = 1;
  const failing: Pick<NodeApi, 'listEvents'> = {
    listEvents: (query, signal) => {
      if (fails-- > 0) return Promise.reject(new Error('away'));
      return node.listEvents({ ...query, waitMs: 20 }, signal);
    },
  };
  const { teamID } = store.teams.default;
  store.webhooks.create(teamID, { name: 'x', url, kinds: ['created'], enabled: true }, 50);
  const postman = startPostman({ node: failing, store, addresses, log: silentLog });
  t.after(async () => {
    await postman.close();
    store.close();
  });
  await until('its count is the node’s', () => store.webhooks.all()[0]!.seen === 0);
  node = createFakeNode();
  const request = {
    teamID,
    template: 'base',
    timeoutSeconds: 60,
    secure: true,
    metadata: {},
    envVars: {},
    network: {},
  };
  await node.createSandbox(request);
  await until('told', () => told.length === 1);
});
