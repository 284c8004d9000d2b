/** Connections are reused, and a server that drops its idle ones never shows as a 502. */
import assert from 'node:assert/strict';
import { createServer } from 'node:http';
import { createServer as createTcpServer, type Socket } from 'node:net';
import test from 'node:test';
import { guest, send, startRig, to, until } from '../helpers/traffic-rig.ts';

test('a connection to a port is used again, for a short while', async (t) => {
  const rig = await startRig(t);
  const port = await guest(
    t,
    createServer((_req, res) => res.end('ok')),
  );
  for (let i = 0; i < 20; i++) assert.equal((await send(rig, { headers: to(port) })).status, 200);
  assert.equal(rig.dials.length, 1);
  await until(() => rig.agent.sockets.size === 0, 'the idle connection to be given up', 3_000);
  assert.equal((await send(rig, { method: 'POST', headers: to(port) }, 'x')).status, 200);
  assert.equal(rig.dials.length, 2);
});

test('no more than a few idle connections are kept', async (t) => {
  const rig = await startRig(t);
  let waiting = 0;
  const go = Promise.withResolvers<void>();
  const port = await guest(
    t,
    createServer(async (_req, res) => {
      waiting++;
      await go.promise;
      res.end('ok');
    }),
  );
  const all = Array.from({ length: 30 }, () => send(rig, { headers: to(port) }));
  await until(() => waiting === 30, 'thirty at once');
  go.resolve();
  for (const { status } of await Promise.all(all)) assert.equal(status, 200);
  await until(() => rig.agent.sockets.size <= 4, 'all but four to close', 900);
});

/** Answers each request with a keep-alive answer, then drops the connection without a word. */
function dropper(after: 'answer' | 'next'): { server: ReturnType<typeof createTcpServer>; served: string[] } {
  const served: string[] = [];
  const server = createTcpServer((socket: Socket) => {
    let requests = 0;
    socket.on('error', () => {});
    socket.on('data', (chunk) => {
      const line = chunk.toString('latin1').split('\r\n', 1)[0]!;
      if (!/HTTP\/1\.1$/.test(line)) return;
      if (after === 'next' && requests++ > 0) {
        socket.resetAndDestroy();
        return;
      }
      served.push(line);
      socket.write('HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok');
      if (after === 'answer') socket.end();
    });
  });
  return { server, served };
}

test('a server that closes after each answer without saying so', { timeout: 15_000 }, async (t) => {
  const rig = await startRig(t);
  const { server, served } = dropper('answer');
  const port = await guest(t, server);
  for (let i = 0; i < 150; i++) {
    const answer = await send(
      rig,
      { method: i % 3 === 0 ? 'POST' : 'GET', headers: to(port) },
      i % 3 === 0 ? 'x' : undefined,
    );
    assert.equal(answer.status, 200, `request ${i}`);
  }
  assert.equal(served.length, 150);
});

test('a used connection that resets: GET is sent again once, POST never', async (t) => {
  const rig = await startRig(t);
  const { server, served } = dropper('next');
  const port = await guest(t, server);
  for (let i = 0; i < 10; i++) assert.equal((await send(rig, { headers: to(port) })).status, 200, `GET ${i}`);
  const before = served.length;
  const answer = await send(rig, { method: 'POST', headers: to(port) }, 'x');
  // Either the connection was fresh, and the POST was served once, or it was not served and says so.
  assert.equal(served.length - before, answer.status === 200 ? 1 : 0);
});

test('a fresh connection that resets is not tried again', async (t) => {
  const rig = await startRig(t);
  let connections = 0;
  const port = await guest(
    t,
    createTcpServer((socket) => {
      connections++;
      socket.on('error', () => {});
      socket.once('data', () => socket.resetAndDestroy());
    }),
  );
  const answer = await send(rig, { headers: to(port) });
  assert.equal(answer.status, 502);
  assert.equal(connections, 1);
});
