/** WebSocket and raw upgrades to a port of the sandbox. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer } from 'node:http';
import { connect } from 'node:net';
import { type Duplex, duplexPair } from 'node:stream';
import test from 'node:test';
import { WebSocket, WebSocketServer } from 'ws';
import { ENVD_PORT } from '../../src/contract/node-api.ts';
import { joinSockets } from '../../src/contract/traffic/splice.ts';
import { guest, ID, send, sendRaw, startRig, to, until } from '../helpers/traffic-rig.ts';

const HEAD = (path: string, ...fields: string[]): string =>
  [`GET ${path} HTTP/1.1`, 'Host: localhost', 'Connection: Upgrade', 'Upgrade: raw', ...fields, '', ''].join('\r\n');

test('a WebSocket: text, large binary, subprotocol, orderly close', { timeout: 15_000 }, async (t) => {
  const rig = await startRig(t);
  const server = createServer();
  const sockets = new WebSocketServer({ server, handleProtocols: () => 'chat', perMessageDeflate: true });
  let closedWith = 0;
  sockets.on('connection', (socket, req) => {
    socket.send(String(req.headers.host));
    socket.on('message', (data, binary) => socket.send(data, { binary }));
    socket.on('close', (code) => {
      closedWith = code;
    });
  });
  const port = await guest(t, server);
  t.after(() => sockets.close());
  const socket = new WebSocket(`ws://127.0.0.1:${rig.port}/sandbox/${ID}/${port}/chat`, 'chat');
  const [hello] = await once(socket, 'message');
  assert.equal(String(hello), `127.0.0.1:${rig.port}`);
  assert.equal(socket.protocol, 'chat');
  const big = Buffer.alloc(3 * 1024 * 1024, 7);
  socket.send(big);
  const [back, binary] = await once(socket, 'message');
  assert.ok(binary && big.equals(back));
  socket.close(4001, 'bye');
  await once(socket, 'close');
  await until(() => closedWith === 4001, 'the sandbox to see the close');
  await until(() => rig.tracked.size === 0, 'nothing tracked');
});

test('raw bytes after the handshake, early bytes included, half-closes passed on', { timeout: 10_000 }, async (t) => {
  const rig = await startRig(t);
  const server = createServer();
  server.on('upgrade', (_req, socket, head) => {
    socket.write('HTTP/1.1 101 Fine\r\nConnection: Upgrade\r\nUpgrade: raw\r\nX-A: \xe9\r\n\r\nearly;', 'latin1');
    const chunks: Buffer[] = [head];
    socket.on('data', (chunk: Buffer) => chunks.push(chunk));
    // Answers only when the client has ended its side.
    socket.on('end', () => socket.end(`got ${Buffer.concat(chunks)}`));
  });
  const port = await guest(t, server);
  const socket = connect({ port: rig.port, host: '127.0.0.1', allowHalfOpen: true });
  socket.write(`${HEAD(`/sandbox/${ID}/${port}/x`)}first;`);
  const chunks: Buffer[] = [];
  socket.on('data', (chunk: Buffer) => chunks.push(chunk));
  await until(() => Buffer.concat(chunks).includes('early;'), 'the handshake');
  socket.end('last');
  await once(socket, 'end');
  const text = Buffer.concat(chunks).toString('latin1');
  assert.match(text, /^HTTP\/1\.1 101 Fine\r\n/);
  assert.match(text, /X-A: \xe9\r\n/);
  assert.ok(text.endsWith('\r\n\r\nearly;got first;last'), text);
});

test('a server that declines is heard, framed anew', async (t) => {
  const rig = await startRig(t);
  const server = createServer();
  server.on('upgrade', (_req, socket) => {
    socket.end('HTTP/1.1 403 No\r\nTransfer-Encoding: chunked\r\nX-Why: 1\r\n\r\n3\r\nno!\r\n0\r\n\r\n');
  });
  const port = await guest(t, server);
  const text = await sendRaw(rig.port, HEAD(`/sandbox/${ID}/${port}/`));
  assert.match(text, /^HTTP\/1\.1 403 No\r\n/);
  assert.match(text, /X-Why: 1\r\n/);
  assert.ok(!/transfer-encoding/i.test(text));
  assert.ok(text.endsWith('\r\n\r\nno!'), text);
});

test('refusals: dead sandbox, closed port, envd, the API, a body', async (t) => {
  const rig = await startRig(t);
  assert.match(
    await sendRaw(rig.port, HEAD('/sandbox/iunknown/80/')),
    /^HTTP\/1\.1 502 [\s\S]*"The sandbox was not found"/,
  );
  assert.match(await sendRaw(rig.port, HEAD(`/sandbox/${ID}/1/`)), /^HTTP\/1\.1 502 [\s\S]*port is not open/);
  assert.match(await sendRaw(rig.port, HEAD(`/sandbox/${ID}/${ENVD_PORT}/`)), /^HTTP\/1\.1 400 /);
  assert.match(await sendRaw(rig.port, HEAD('/sandboxes')), /^HTTP\/1\.1 404 [\s\S]*"code":404/);
  assert.match(await sendRaw(rig.port, HEAD('/sandbox/x/0/')), /^HTTP\/1\.1 400 /);
  assert.match(await sendRaw(rig.port, HEAD(`/sandbox/${ID}/80/`, 'Content-Length: 1')), /^HTTP\/1\.1 400 /);
  await rig.stopNode();
  assert.match(await sendRaw(rig.port, HEAD(`/sandbox/${ID}/80/`)), /^HTTP\/1\.1 502 [\s\S]*node is not available/);
});

test('h2c is declined by serving the request as HTTP/1.1', async (t) => {
  const rig = await startRig(t);
  const port = await guest(
    t,
    createServer((req, res) => {
      res.write(`${req.method} ${req.headers.upgrade ?? '-'} `);
      req.pipe(res);
    }),
  );
  const fields = { Connection: 'Upgrade, HTTP2-Settings', Upgrade: 'h2c', 'HTTP2-Settings': 'AAMAAABk' };
  const answer = await send(rig, { method: 'POST', headers: { ...to(port), ...fields } }, 'body');
  assert.deepEqual([answer.status, answer.body], [200, 'POST - body']);
  assert.equal(JSON.parse((await send(rig, { path: '/v', headers: fields })).body).name, 'api');
});

test('a client that is cut reaches the sandbox, and the other way round', { timeout: 10_000 }, async (t) => {
  const rig = await startRig(t);
  const server = createServer();
  const peers: Duplex[] = [];
  server.on('upgrade', (_req, socket) => {
    socket.on('error', () => {});
    socket.on('end', () => socket.end());
    socket.write('HTTP/1.1 101 Fine\r\nConnection: Upgrade\r\nUpgrade: raw\r\n\r\n');
    socket.resume();
    peers.push(socket);
  });
  const port = await guest(t, server);
  const open = async () => {
    const socket = connect(rig.port, '127.0.0.1');
    socket.on('error', () => {});
    socket.write(HEAD(`/sandbox/${ID}/${port}/`));
    await once(socket, 'data');
    return socket;
  };
  const first = await open();
  first.resetAndDestroy();
  await until(() => peers[0]!.destroyed, 'the sandbox side to close');
  const second = await open();
  const closed = once(second, 'close');
  peers[1]!.destroy();
  second.resume();
  await closed;
  await until(() => rig.tracked.size === 0, 'nothing tracked');
});

test('a pair of which one side has ended lives on bytes, and is cut when they stop', async () => {
  const [client, near] = duplexPair();
  const [far, sandbox] = duplexPair();
  joinSockets(near, far, 60);
  client.end('bye');
  client.resume();
  sandbox.resume();
  await once(sandbox, 'end');
  for (let i = 0; i < 6; i++) {
    sandbox.write('x');
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  assert.ok(!far.destroyed && !near.destroyed);
  const hold = setInterval(() => {}, 1_000);
  await until(() => far.destroyed && near.destroyed, 'the cut', 2_000);
  clearInterval(hold);
});
