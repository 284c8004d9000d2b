/** The whole path with the real agent and channel: edge, node, channel, agent, port. */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { createServer, request } from 'node:http';
import test, { after, before } from 'node:test';
import { WebSocket, WebSocketServer } from 'ws';
import { type HostAgent, startHostAgent } from '../helpers/host-agent.ts';
import { guest, ID, send, startRig, to, until } from '../helpers/traffic-rig.ts';

let agent: HostAgent;
before(async () => {
  agent = await startHostAgent();
});
after(() => agent.stop());

const MB = 1024 * 1024;

test('requests, 20 MB each way, closed ports, a WebSocket', { timeout: 20_000 }, async (t) => {
  const rig = await startRig(t, { client: agent.client });
  const server = createServer((req, res) => {
    const hash = createHash('sha256');
    req.on('data', (chunk: Buffer) => hash.update(chunk));
    req.on('end', () => {
      if (req.method === 'GET') res.end(Buffer.alloc(20 * MB, 5));
      else res.end(hash.digest('hex'));
    });
  });
  const sockets = new WebSocketServer({ server });
  sockets.on('connection', (socket) => socket.on('message', (data, binary) => socket.send(data, { binary })));
  const port = await guest(t, server);
  t.after(() => sockets.close());

  const down = await send(rig, { headers: to(port) });
  assert.equal(down.body.length, 20 * MB);
  const body = Buffer.alloc(20 * MB, 9);
  const up = await send(rig, { method: 'PUT', headers: to(port) }, body);
  assert.equal(up.body, createHash('sha256').update(body).digest('hex'));
  for (let i = 0; i < 50; i++) {
    const answer = await send(rig, { method: 'POST', headers: to(port) }, `body ${i}`);
    assert.equal(answer.body, createHash('sha256').update(`body ${i}`).digest('hex'));
  }
  const closed = await send(rig, { headers: to(1) });
  assert.equal(closed.status, 502);
  assert.match(closed.body, /port is not open/);

  const socket = new WebSocket(`ws://127.0.0.1:${rig.port}/sandbox/${ID}/${port}/`);
  await once(socket, 'open');
  const big = Buffer.alloc(2 * MB, 1);
  socket.send(big);
  const [back] = await once(socket, 'message');
  assert.ok(big.equals(back));
  socket.close();
  await once(socket, 'close');
  await until(() => rig.tracked.size === 0, 'nothing tracked');
});

test('a client that does not read stops the port, and the channel still serves others', {
  timeout: 20_000,
}, async (t) => {
  const rig = await startRig(t, { client: agent.client });
  let made = 0;
  const port = await guest(
    t,
    createServer((req, res) => {
      if (req.url === '/small') {
        res.end('small');
        return;
      }
      const more = (): void => {
        while (!res.destroyed && made < 200 * MB) {
          made += 65_536;
          if (!res.write(Buffer.alloc(65_536))) {
            res.once('drain', more);
            return;
          }
        }
      };
      more();
    }),
  );
  const req = request({ port: rig.port, host: '127.0.0.1', headers: to(port), agent: false }).end();
  const [res] = await once(req, 'response');
  res.on('error', () => {});
  let last = -1;
  let quiet = 0;
  await until(() => {
    quiet = made === last ? quiet + 1 : 0;
    last = made;
    return quiet > 40;
  }, 'the port to stall');
  assert.ok(made < 40 * MB, `${made / MB} MB`);
  for (let i = 0; i < 20; i++) assert.equal((await send(rig, { path: '/small', headers: to(port) })).body, 'small');
  req.destroy();
  await until(() => rig.tracked.size === 0, 'nothing tracked');
});

test('a client that goes away closes the connection inside the sandbox', { timeout: 10_000 }, async (t) => {
  const rig = await startRig(t, { client: agent.client });
  const began = Promise.withResolvers<void>();
  const gone = Promise.withResolvers<void>();
  const port = await guest(
    t,
    createServer((_req, res) => {
      res.on('close', () => gone.resolve());
      began.resolve();
    }),
  );
  const req = request({ port: rig.port, host: '127.0.0.1', headers: to(port), agent: false });
  req.on('error', () => {});
  req.end();
  await began.promise;
  req.destroy();
  await gone.promise;
});

test('a session that ends cuts what is open; the next one serves', { timeout: 15_000 }, async (t) => {
  const first = agent.client;
  const rig = await startRig(t, { client: first });
  const port = await guest(
    t,
    createServer((req, res) => {
      if (req.url === '/stream') res.write('x');
      else res.end('ok');
    }),
  );
  const req = request({ port: rig.port, host: '127.0.0.1', path: '/stream', headers: to(port), agent: false }).end();
  const [res] = await once(req, 'response');
  const broken = once(res, 'error');
  res.resume();
  first.close(new Error('restored'));
  await broken;
  assert.equal((await send(rig, { headers: to(port) })).status, 502);
  const again = await startRig(t, { client: await agent.reconnect() });
  assert.equal((await send(again, { headers: to(port) })).body, 'ok');
});
