/** Domain mode from the client's side: a whole edge over TLS, a node in memory, envd of the host; names, wire, SDK. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createServer } from 'node:http';
import { request } from 'node:https';
import { type AddressInfo, connect as connectTcp, createServer as createTcpServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import { connect, type TLSSocket } from 'node:tls';
import { createApi } from '../../src/api/create-api.ts';
import { answerClientError } from '../../src/api/errors.ts';
import type { NodeApi } from '../../src/contract/node-api.ts';
import { openControlStore } from '../../src/control/control-store.ts';
import { authorityIn, ensureAuthority } from '../../src/edge/authority.ts';
import { readCertificate } from '../../src/edge/certificate.ts';
import { createListener } from '../../src/edge/listener.ts';
import { createEdge } from '../../src/edge/proxy.ts';
import { createEnvd } from '../../src/envd/envd.ts';
import { createTrafficServer, type TrafficTarget } from '../../src/node/traffic/server.ts';
import { silentLog } from '../../src/telemetry/log.ts';
import { runDomainClient } from '../helpers/domain-client.ts';
import { createFakeNode } from '../helpers/fake-node.ts';
import { startHostAgent } from '../helpers/host-agent.ts';
import { fakeAgent, guest } from '../helpers/traffic-rig.ts';

const DOMAIN = 'sbx.example';

interface World {
  readonly port: number;
  readonly apiKey: string;
  readonly folder: string;
  readonly authority: string;
  readonly renew: ReturnType<typeof createListener>['renew'];
}

/** What control is, and behind it one envd for all sandboxes, whose ports are those of the host's loopback. */
async function startWorld(t: TestContext): Promise<World> {
  const folder = mkdtempSync(join(tmpdir(), 'domain-'));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  const tls = join(folder, 'tls');
  await ensureAuthority(tls, [DOMAIN]);
  const { authority, leaf } = authorityIn(tls);
  const host = await startHostAgent();
  const dialled = fakeAgent();
  const targets = new Map<string, TrafficTarget>();
  const fake = createFakeNode();
  const node: NodeApi = {
    ...fake,
    createSandbox: async (asked, signal) => {
      const made = await fake.createSandbox(asked, signal);
      const { sandboxID, templateID, envdAccessToken: accessToken } = made.sandbox;
      const agent = () => host.client;
      const sandbox = { sandboxID, templateID, accessToken, agent, env: {}, defaultUser: 'user' };
      const envd = createEnvd(sandbox, { log: silentLog });
      const interpreter = { handle: (_req: unknown, res: { end(): void }) => res.end() };
      targets.set(sandboxID, { sandboxID, envd, interpreter, agent: () => dialled.client, track: () => () => {} });
      return made;
    },
    killSandbox: async (teamID, sandboxID) => {
      await fake.killSandbox(teamID, sandboxID);
      targets.delete(sandboxID);
    },
  };
  const traffic = createTrafficServer({
    lookup: (id) => targets.get(id),
    findBySignature: () => undefined,
    log: silentLog,
  });
  const trafficSocket = join(folder, 'traffic.sock');
  traffic.server.listen(trafficSocket);
  const store = openControlStore(':memory:', { flushIntervalMs: 0 });
  const { key } = store.keys.create({ teamID: store.teams.default.teamID, name: 'test' });
  const { server, renew } = createListener({ log: silentLog, certificate: readCertificate(leaf, [DOMAIN]) });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  const api = createApi({ node, store, log: silentLog, domain: `${DOMAIN}:${port}` });
  const edge = createEdge({ api, trafficSocket, domains: [DOMAIN], log: silentLog });
  edge.attach(server);
  server.on('clientError', answerClientError);
  t.after(async () => {
    edge.close();
    server.closeAllConnections();
    server.close();
    await traffic.close();
    await api.close();
    store.close();
    await host.stop();
  });
  return { port, apiKey: key, folder: tls, authority, renew };
}

async function freePort(): Promise<number> {
  const server = createTcpServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, 'close');
  return port;
}

test('the official SDK in its plain configuration, and everything under the names that it gives', async (t) => {
  const world = await startWorld(t);
  const E2B_DOMAIN = `${DOMAIN}:${world.port}`;
  const port = await freePort();
  const env = { E2B_DOMAIN, E2B_API_KEY: world.apiKey, NODE_EXTRA_CA_CERTS: world.authority };
  const seen = await runDomainClient(env, 'base', port);
  const host = `${port}-${seen.sandboxId}.${E2B_DOMAIN}`;
  assert.equal(seen.host, host);
  assert.equal(seen.stdout, 'hello\n');
  assert.equal(seen.file, 'signed');
  assert.match(seen.downloadUrl, new RegExp(`^https://49983-${seen.sandboxId}\\.${DOMAIN}:${world.port}/files\\?`));
  assert.deepEqual(seen.served, { host, proto: 'https' });
  assert.ok(seen.gapMs > 250, 'nothing is buffered');
  assert.deepEqual(seen.said, ['one', 'two é']);
  assert.equal(seen.closed.status, 502);
  assert.match(seen.closed.type, /^text\/html/);
  assert.match(seen.closed.text, new RegExp(`${seen.sandboxId}.*no service running on port ${port + 1}`));
  assert.equal(seen.listed, 1);
  assert.equal(seen.byHeaders, 200);
  assert.deepEqual([seen.killed, seen.runningAfter], [true, false]);
  assert.equal(seen.dead.status, 502);
  assert.match(seen.dead.text, /The sandbox was not found/);
});

/** One request over TLS by name, without any resolver. */
async function get(world: World, name: string, headers: Record<string, string> = {}): Promise<[number, string]> {
  const sent = request({
    host: '127.0.0.1',
    port: world.port,
    servername: name,
    ca: readFileSync(world.authority),
    agent: false,
    headers: { Host: `${name}:${world.port}`, ...headers },
  }).end();
  const [answer] = (await once(sent, 'response')) as [AsyncIterable<Buffer> & { statusCode: number }];
  let text = '';
  for await (const chunk of answer) text += chunk;
  return [answer.statusCode, text];
}

test('each name is what it says, and the API answers under its own', async (t) => {
  const world = await startWorld(t);
  const key = { 'X-API-Key': world.apiKey };
  assert.deepEqual(await get(world, `api.${DOMAIN}`), [404, '{"code":404,"message":"route not found"}']);
  assert.equal((await get(world, `api.${DOMAIN}`, key))[0], 404);
  const unknown = `i${'0'.repeat(20)}`;
  const notFound = `{"sandboxId":"${unknown}","message":"The sandbox was not found","code":502}`;
  for (const suffix of ['', '-6532622b', '-anything'])
    assert.deepEqual(await get(world, `3000-${unknown}${suffix}.${DOMAIN}`, key), [502, notFound]);
  const headers = { 'E2b-Sandbox-Id': unknown, 'E2b-Sandbox-Port': '3000' };
  assert.deepEqual(await get(world, `sandbox.${DOMAIN}`, headers), [502, notFound]);
  assert.equal((await get(world, `sandbox.${DOMAIN}`, { 'E2b-Sandbox-Id': unknown }))[0], 400);
  assert.equal((await get(world, `api.${DOMAIN}`, headers))[0], 404, 'the API does not look at them');
});

async function handshake(world: World, options: object): Promise<TLSSocket | string> {
  const socket = connect({
    host: '127.0.0.1',
    port: world.port,
    servername: `api.${DOMAIN}`,
    ca: readFileSync(world.authority),
    ...options,
  });
  try {
    await once(socket, 'secureConnect');
    return socket;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code ?? String(error);
  }
}

test('TLS 1.2 and 1.3 and HTTP/1.1; nothing older, nothing else, no plain HTTP', async (t) => {
  const world = await startWorld(t);
  for (const version of ['TLSv1.2', 'TLSv1.3'] as const) {
    const socket = await handshake(world, {
      minVersion: version,
      maxVersion: version,
      ALPNProtocols: ['h2', 'http/1.1'],
    });
    assert.ok(typeof socket !== 'string', String(socket));
    assert.deepEqual([socket.getProtocol(), socket.alpnProtocol], [version, 'http/1.1']);
    socket.destroy();
  }
  const old = { minVersion: 'TLSv1', maxVersion: 'TLSv1.1', ciphers: 'DEFAULT@SECLEVEL=0' };
  assert.match(String(await handshake(world, old)), /ALERT_PROTOCOL_VERSION|UNSUPPORTED/);
  assert.match(String(await handshake(world, { ALPNProtocols: ['h2'] })), /NO_APPLICATION_PROTOCOL/);
  const plain = connectTcp(world.port, '127.0.0.1');
  plain.on('error', () => {});
  plain.write(`GET / HTTP/1.1\r\nHost: api.${DOMAIN}\r\n\r\n`);
  let answer = '';
  plain.on('data', (chunk: Buffer) => {
    answer += chunk.toString('latin1');
  });
  await once(plain, 'close');
  assert.ok(!answer.includes('HTTP/'));
});

test('a new certificate is for new connections, and open ones go on', async (t) => {
  const world = await startWorld(t);
  const before = await handshake(world, {});
  assert.ok(typeof before !== 'string');
  const next = mkdtempSync(join(tmpdir(), 'domain-'));
  t.after(() => rmSync(next, { recursive: true, force: true }));
  await ensureAuthority(next, [DOMAIN]);
  const { authority, leaf } = authorityIn(next);
  world.renew(readCertificate(leaf, [DOMAIN]));
  assert.match(String(await handshake(world, {})), /UNABLE_TO|SELF_SIGNED/);
  const after = await handshake(world, { ca: readFileSync(authority) });
  assert.ok(typeof after !== 'string');
  after.destroy();
  before.write(`GET /nowhere HTTP/1.1\r\nHost: api.${DOMAIN}\r\nConnection: close\r\n\r\n`);
  const [answer] = (await once(before, 'data')) as [Buffer];
  assert.match(answer.toString(), /^HTTP\/1\.1 404 /);
  before.destroy();
});

test('half-closes of an upgraded connection pass through TLS', { timeout: 10_000 }, async (t) => {
  const world = await startWorld(t);
  const server = createServer();
  server.on('upgrade', (_req, socket, head) => {
    socket.write('HTTP/1.1 101 Fine\r\nConnection: Upgrade\r\nUpgrade: raw\r\n\r\n');
    const chunks: Buffer[] = [head];
    socket.on('data', (chunk: Buffer) => chunks.push(chunk));
    socket.on('end', () => socket.end(`got ${Buffer.concat(chunks)}`));
  });
  const port = await guest(t, server);
  const api = request({
    host: '127.0.0.1',
    port: world.port,
    servername: `api.${DOMAIN}`,
    ca: readFileSync(world.authority),
    method: 'POST',
    path: '/v2/sandboxes',
    headers: { Host: `api.${DOMAIN}`, 'X-API-Key': world.apiKey, 'Content-Type': 'application/json' },
  });
  api.end('{"templateID":"base"}');
  const [made] = (await once(api, 'response')) as [AsyncIterable<Buffer>];
  let text = '';
  for await (const chunk of made) text += chunk;
  const { sandboxID, domain } = JSON.parse(text) as { sandboxID: string; domain: string };
  assert.equal(domain, `${DOMAIN}:${world.port}`, 'clients are told where the sandboxes are');
  const name = `${port}-${sandboxID}.${DOMAIN}`;
  const socket = await handshake(world, { servername: name, allowHalfOpen: true });
  assert.ok(typeof socket !== 'string');
  socket.write(`GET / HTTP/1.1\r\nHost: ${name}\r\nConnection: Upgrade\r\nUpgrade: raw\r\n\r\nfirst;`);
  const [head] = (await once(socket, 'data')) as [Buffer];
  assert.match(head.toString(), /^HTTP\/1\.1 101 /);
  socket.end('last');
  let got = '';
  for await (const chunk of socket) got += chunk;
  assert.equal(got, 'got first;last');
});
