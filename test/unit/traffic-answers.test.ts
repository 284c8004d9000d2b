/** Who answers what when a request cannot reach a port; in-process ports; tokens; limits. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer, request } from 'node:http';
import { connect, createServer as createTcpServer } from 'node:net';
import test from 'node:test';
import { ENVD_PORT, INTERPRETER_PORT } from '../../src/contract/node-api.ts';
import { guest, ID, send, sendRaw, startRig, to, until } from '../helpers/traffic-rig.ts';

const BROWSER = { 'User-Agent': 'Mozilla/5.0 (X11)', Accept: 'text/html,*/*' };

/** A port on which nothing listens. */
async function closedPort(): Promise<number> {
  const server = createTcpServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as { port: number };
  server.close();
  await once(server, 'close');
  return port;
}

test('the API, envd, the interpreter and signed links each get theirs', async (t) => {
  const rig = await startRig(t);
  const name = async (path: string, headers: Record<string, string> = {}): Promise<string> =>
    JSON.parse((await send(rig, { path, headers })).body).name;
  assert.equal(await name('/health'), 'api');
  assert.equal(await name('/health', to(ENVD_PORT)), 'envd');
  assert.equal(await name('/execute', to(INTERPRETER_PORT)), 'interpreter');
  assert.equal(await name('/files?path=a&signature=v1_good'), 'envd');
  assert.equal(await name('/x', { Host: `${ENVD_PORT}-${ID}-6532622b.coppice.test` }), 'envd');
  const wrong = await send(rig, { path: '/files?path=a&signature=v1_bad' });
  assert.equal(wrong.status, 401);
  assert.deepEqual(JSON.parse(wrong.body), { message: 'invalid signature', code: 401 });
});

test('a forged marker from a client never reaches the node', async (t) => {
  const rig = await startRig(t);
  const answer = await send(rig, {
    path: '/files?path=a&signature=v1_good',
    headers: { 'x-coppice-sandbox': 'other', 'X-COPPICE-PORT': '1', Connection: 'x-coppice-signed' },
  });
  const got = JSON.parse(answer.body);
  assert.equal(got.headers['x-coppice-sandbox'], undefined);
  assert.equal(got.headers['x-coppice-signed'], '1');
});

test('an unknown or dead sandbox is 502 at once', async (t) => {
  const rig = await startRig(t);
  for (const port of [ENVD_PORT, INTERPRETER_PORT, 3000]) {
    const began = performance.now();
    const answer = await send(rig, { path: '/health', headers: to(port, 'iunknown') });
    assert.ok(performance.now() - began < 500);
    assert.equal(answer.status, 502);
    assert.equal(answer.headers['content-type'], 'application/json');
    assert.equal(answer.body, '{"sandboxId":"iunknown","message":"The sandbox was not found","code":502}');
  }
  rig.kill();
  const dead = await send(rig, { path: '/health', headers: to(ENVD_PORT) });
  assert.equal(dead.status, 502);
});

test('a closed port is tried for a moment, then named', async (t) => {
  const rig = await startRig(t);
  const port = await closedPort();
  const began = performance.now();
  const answer = await send(rig, { headers: to(port) });
  const took = performance.now() - began;
  assert.equal(answer.status, 502);
  assert.equal(
    answer.body,
    `{"sandboxId":"${ID}","message":"The sandbox is running but port is not open","port":${port},"code":502}`,
  );
  assert.ok(rig.dials.length >= 4, `${rig.dials.length} dials`);
  assert.ok(took < 2_500, `${took} ms`);
  const page = await send(rig, { headers: { ...to(port), ...BROWSER } });
  assert.equal(page.status, 502);
  assert.match(page.headers['content-type'] ?? '', /^text\/html/);
  assert.ok(page.body.includes(`no service running on port ${port}`) && page.body.includes(ID));
  const json = await send(rig, { headers: { ...to(port), ...BROWSER, Accept: 'application/json' } });
  assert.equal(json.headers['content-type'], 'application/json');
});

test('a server that comes up while the request waits is reached, body and all', async (t) => {
  const rig = await startRig(t);
  const port = await closedPort();
  const pending = send(rig, { method: 'POST', headers: to(port) }, 'payload');
  await until(() => rig.dials.length >= 2, 'the first dials to fail');
  const server = createServer((req, res) => req.pipe(res)).listen(port, '127.0.0.1');
  t.after(() => {
    server.closeAllConnections();
    server.close();
  });
  const answer = await pending;
  assert.deepEqual([answer.status, answer.body], [200, 'payload']);
});

test('a client that gives up ends the dialling', async (t) => {
  const rig = await startRig(t);
  const port = await closedPort();
  const socket = connect(rig.port, '127.0.0.1');
  socket.write(`GET /sandbox/${ID}/${port}/ HTTP/1.1\r\nHost: localhost\r\n\r\n`);
  await until(() => rig.dials.length >= 1, 'a dial');
  socket.destroy();
  await until(() => rig.tracked.size === 0, 'the exchange to end', 800);
  const dials = rig.dials.length;
  await new Promise((resolve) => setTimeout(resolve, 400));
  assert.ok(rig.dials.length <= dials + 1);
});

test("the control plane's paths of envd are not for clients", async (t) => {
  const rig = await startRig(t);
  for (const path of ['/init', '/freeze', '/unfreeze', '/collapse', '/fsfreeze', '/fsthaw', '/init?x=1']) {
    const answer = await send(rig, { method: 'POST', path, headers: to(ENVD_PORT) }, '{}');
    assert.equal(answer.status, 404, path);
    assert.match(answer.body, /reserved for the E2B control plane/);
  }
  assert.equal((await send(rig, { path: '/initial', headers: to(ENVD_PORT) })).status, 200);
});

test('a traffic token guards every port but that of envd', async (t) => {
  const rig = await startRig(t, { token: 'secret' });
  const port = await guest(
    t,
    createServer((_req, res) => res.end('in')),
  );
  const missing = await send(rig, { headers: to(port) });
  assert.equal(missing.status, 403);
  assert.deepEqual(JSON.parse(missing.body), {
    sandboxId: ID,
    message: "Sandbox is secured with traffic access token. Token header 'e2b-traffic-access-token' is missing",
    code: 403,
  });
  const wrong = await send(rig, { headers: { ...to(INTERPRETER_PORT), 'e2b-traffic-access-token': 'secre' } });
  assert.equal(wrong.status, 403);
  assert.match(wrong.body, /Provided token in header 'e2b-traffic-access-token' is invalid/);
  const page = await send(rig, { headers: { ...to(port), ...BROWSER } });
  assert.match(page.body, /Missing Traffic Access Token/);
  assert.equal((await send(rig, { headers: { ...to(port), 'e2b-traffic-access-token': 'secret' } })).body, 'in');
  assert.equal((await send(rig, { headers: to(ENVD_PORT) })).status, 200);
});

test('when the node is away: 502 with the id; when it is back: no spurious 502', async (t) => {
  const rig = await startRig(t);
  assert.equal((await send(rig, { headers: to(ENVD_PORT) })).status, 200);
  await rig.stopNode();
  const away = await send(rig, { method: 'POST', headers: to(ENVD_PORT) }, 'x');
  assert.equal(away.status, 502);
  assert.deepEqual(JSON.parse(away.body), { sandboxId: ID, message: 'The node is not available', code: 502 });
  await rig.startNode();
  for (let i = 0; i < 20; i++)
    assert.equal(
      (await send(rig, { method: i % 2 ? 'GET' : 'POST', headers: to(ENVD_PORT) }, i % 2 ? undefined : 'x')).status,
      200,
    );
});

test('a handler that throws is a 500; one that breaks off is a cut', async (t) => {
  const rig = await startRig(t, {
    envd: async (req, res) => {
      if (req.url === '/late') {
        res.writeHead(200);
        res.write('x');
      }
      throw new Error('secret detail');
    },
  });
  const answer = await send(rig, { headers: to(ENVD_PORT) });
  assert.equal(answer.status, 500);
  assert.ok(!answer.body.includes('secret'));
  await assert.rejects(send(rig, { path: '/late', headers: to(ENVD_PORT) }), { code: 'ECONNRESET' });
});

test('refused requests: bad headers, bad paths, absolute targets', async (t) => {
  const rig = await startRig(t);
  const one = await send(rig, { headers: { 'E2b-Sandbox-Id': ID } });
  assert.equal(one.status, 400);
  assert.equal(JSON.parse(one.body).code, 400);
  assert.equal((await send(rig, { path: '/sandbox/../x' })).status, 400);
  assert.match(
    await sendRaw(rig.port, 'GET http://x/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n'),
    /^HTTP\/1\.1 400 /,
  );
  assert.match(
    await sendRaw(
      rig.port,
      `GET / HTTP/1.1\r\nHost: localhost\r\nHost: 80-${ID}.coppice.test\r\nConnection: close\r\n\r\n`,
    ),
    /^HTTP\/1\.1 400 /,
  );
});

test('too many at once is 429, and room comes back', async (t) => {
  const held: (() => void)[] = [];
  const rig = await startRig(t, { maxActive: 3, envd: (_req, res) => void held.push(() => res.end('ok')) });
  const waiting = [1, 2, 3].map(() => send(rig, { headers: to(ENVD_PORT) }));
  await until(() => held.length === 3, 'three held');
  assert.equal((await send(rig, { headers: to(ENVD_PORT) })).status, 429);
  for (const release of held.splice(0)) release();
  assert.deepEqual(
    (await Promise.all(waiting)).map(({ status }) => status),
    [200, 200, 200],
  );
  const after = send(rig, { headers: to(ENVD_PORT) });
  await until(() => held.length === 1, 'room again');
  held[0]!();
  assert.equal((await after).status, 200);
});

test('the node bounds what one sandbox may hold', { timeout: 15_000 }, async (t) => {
  const held: (() => void)[] = [];
  const rig = await startRig(t, { envd: (_req, res) => void held.push(() => res.end('ok')) });
  const statuses: number[] = [];
  const requests = Array.from({ length: 520 }, () => {
    const req = request({ port: rig.port, host: '127.0.0.1', headers: to(ENVD_PORT), agent: false }, (res) => {
      statuses.push(res.statusCode ?? 0);
      res.resume();
    });
    req.on('error', () => {});
    req.end();
    return req;
  });
  await until(() => held.length + statuses.length === 520, 'all to be held or refused', 10_000);
  assert.equal(held.length, 512);
  assert.deepEqual(new Set(statuses), new Set([429]));
  for (const req of requests) req.destroy();
  await until(() => rig.tracked.size === 0, 'all to leave');
});

test('a sandbox whose channel is down for a moment is 503, not gone', async (t) => {
  const rig = await startRig(t);
  const port = await guest(
    t,
    createServer((_req, res) => res.end('ok')),
  );
  rig.setChannel(false);
  const answer = await send(rig, { headers: to(port) });
  assert.equal(answer.status, 503);
  assert.equal(JSON.parse(answer.body).sandboxId, ID);
  const head = `GET /sandbox/${ID}/${port}/ HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: raw\r\n\r\n`;
  assert.match(await sendRaw(rig.port, head), /^HTTP\/1\.1 503 /);
  assert.equal((await send(rig, { headers: to(ENVD_PORT) })).status, 200);
  rig.setChannel(true);
  assert.equal((await send(rig, { headers: to(port) })).status, 200);
});
