/** When a sandbox ends, everything open to it ends at once: silent requests, streams, upgraded sockets, dials. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer, request } from 'node:http';
import { connect } from 'node:net';
import test from 'node:test';
import { WebSocket, WebSocketServer } from 'ws';
import { ENVD_PORT } from '../../src/contract/node-api.ts';
import { guest, ID, type Rig, send, startRig, to, until } from '../helpers/traffic-rig.ts';

async function cutDuring(t: Parameters<typeof startRig>[0], rig: Rig, port: number): Promise<void> {
  const silent = send(rig, { method: 'POST', path: '/silent', headers: to(port) }, 'x');
  const streaming = request({
    port: rig.port,
    host: '127.0.0.1',
    path: '/stream',
    headers: to(port),
    agent: false,
  }).end();
  const [res] = await once(streaming, 'response');
  const broken = once(res, 'error');
  await once(res, 'data');
  await until(() => rig.tracked.size === 2, 'both to be open');
  const began = performance.now();
  rig.kill();
  const answer = await silent;
  const [error] = await broken;
  assert.ok(performance.now() - began < 1_000);
  assert.equal(answer.status, 502);
  assert.equal(answer.body, `{"sandboxId":"${ID}","message":"The sandbox was not found","code":502}`);
  assert.equal(error.code, 'ECONNRESET');
  assert.equal((await send(rig, { path: '/health', headers: to(ENVD_PORT) })).status, 502);
  await until(() => rig.tracked.size === 0, 'nothing tracked');
  void t;
}

const handle: import('node:http').RequestListener = (req, res) => {
  if (req.url === '/stream') res.write('first');
};

test('requests to a port of the sandbox', { timeout: 10_000 }, async (t) => {
  const rig = await startRig(t);
  await cutDuring(t, rig, await guest(t, createServer(handle)));
  assert.equal(rig.agent.sockets.size, 0);
});

test('requests to envd', { timeout: 10_000 }, async (t) => {
  let closed = 0;
  const rig = await startRig(t, {
    envd: (req, res) => {
      res.on('close', () => closed++);
      handle(req, res as never);
    },
  });
  await cutDuring(t, rig, ENVD_PORT);
  await until(() => closed === 2, 'envd to see both close');
});

test('upgraded sockets', { timeout: 10_000 }, async (t) => {
  const rig = await startRig(t);
  const server = createServer();
  const sockets = new WebSocketServer({ server });
  sockets.on('connection', (socket) => socket.on('message', (data) => socket.send(data)));
  const port = await guest(t, server);
  t.after(() => sockets.close());
  const socket = new WebSocket(`ws://127.0.0.1:${rig.port}/`, { headers: to(port) });
  await once(socket, 'open');
  const closed = once(socket, 'close');
  const began = performance.now();
  rig.kill();
  const [code] = await closed;
  assert.equal(code, 1006);
  assert.ok(performance.now() - began < 1_000);
  await until(() => rig.tracked.size === 0, 'nothing tracked');
});

test('a request that is still being dialled', { timeout: 10_000 }, async (t) => {
  const rig = await startRig(t);
  const probe = createServer().listen(0, '127.0.0.1');
  await once(probe, 'listening');
  const { port } = probe.address() as { port: number };
  probe.close();
  await once(probe, 'close');
  const pending = send(rig, { headers: to(port) });
  await until(() => rig.dials.length >= 1, 'a dial');
  const began = performance.now();
  rig.kill();
  assert.equal((await pending).status, 502);
  assert.ok(performance.now() - began < 500);
});

test('a channel that dies by itself: new requests are told the sandbox is gone', { timeout: 10_000 }, async (t) => {
  const rig = await startRig(t);
  const port = await guest(
    t,
    createServer((_req, res) => res.end('ok')),
  );
  assert.equal((await send(rig, { headers: to(port) })).status, 200);
  rig.agent.die();
  const answer = await send(rig, { headers: to(port) });
  assert.equal(answer.status, 502);
  assert.match(answer.body, /The sandbox was not found/);
});

test('a node that is stopped cuts what is open, and the edge says so', { timeout: 10_000 }, async (t) => {
  const rig = await startRig(t);
  const port = await guest(t, createServer(handle));
  const silent = send(rig, { method: 'POST', headers: to(port) }, 'x');
  const upgraded = connect(rig.port, '127.0.0.1');
  upgraded.on('error', () => {});
  upgraded.write(
    `GET /sandbox/${ID}/${port}/ HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: raw\r\n\r\n`,
  );
  await until(() => rig.tracked.size === 2, 'both to be open');
  await rig.stopNode();
  const answer = await silent;
  assert.equal(answer.status, 502);
  assert.equal(JSON.parse(answer.body).sandboxId, ID);
  upgraded.resume();
  await once(upgraded, 'close');
});
