import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import net, { type AddressInfo } from 'node:net';
import test, { after, before } from 'node:test';
import type { AgentError } from '../../src/channel/agent.ts';
import { type HostAgent, startHostAgent } from '../helpers/host-agent.ts';

let agent: HostAgent;
before(async () => {
  agent = await startHostAgent();
});
after(() => agent.stop());

async function listening(
  t: test.TestContext,
  onSocket: (socket: net.Socket) => void,
  host = '127.0.0.1',
): Promise<number> {
  const sockets = new Set<net.Socket>();
  const server = net.createServer({ allowHalfOpen: true }, (socket) => {
    sockets.add(socket);
    socket.on('error', () => {});
    onSocket(socket);
  });
  await new Promise<void>((resolve) => server.listen(0, host, resolve));
  t.after(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  return (server.address() as AddressInfo).port;
}

async function all(input: AsyncIterable<Uint8Array>): Promise<Buffer> {
  const parts: Uint8Array[] = [];
  for await (const part of input) parts.push(part);
  return Buffer.concat(parts);
}

test('what is written comes back from an echo server, after a half-close too', async (t) => {
  const port = await listening(t, (socket) => socket.pipe(socket));
  const sent = randomBytes(3_000_000);
  const socket = await agent.client.dial(port);
  const back = all(socket.input);
  await socket.write(sent);
  socket.end();
  assert.deepEqual(await back, sent);
});

test('a port that listens on ::1 only is reached', async (t) => {
  let port: number;
  try {
    port = await listening(t, (socket) => socket.end('six'), '::1');
  } catch {
    t.skip('this host has no IPv6 loopback');
    return;
  }
  const socket = await agent.client.dial(port);
  assert.equal((await all(socket.input)).toString(), 'six');
  socket.end();
});

test('a closed port is unavailable, a number that is no port is refused', async (t) => {
  const port = await listening(t, () => {});
  const taken = net.createServer();
  await new Promise<void>((resolve) => taken.listen(0, '127.0.0.1', resolve));
  const closed = (taken.address() as AddressInfo).port;
  await new Promise((resolve) => taken.close(resolve));
  await assert.rejects(agent.client.dial(closed), (error: AgentError) => error.code === 'unavailable');
  for (const number of [0, 65_536, -1, 1.5])
    await assert.rejects(agent.client.dial(number), (error: AgentError) => error.code === 'invalid_argument');
  (await agent.client.dial(port)).destroy();
});

test('destroy closes the connection in the sandbox', async (t) => {
  const { promise, resolve } = Promise.withResolvers<void>();
  const port = await listening(t, (socket) => socket.on('end', resolve).resume());
  const socket = await agent.client.dial(port);
  socket.destroy();
  await promise;
});

test('a server that does not read holds the writer; one that pours is held by a reader that does not', async (t) => {
  let poured = 0;
  const pouring = await listening(t, (socket) => {
    const pour = (): void => {
      while (poured < 100_000_000) {
        poured += 100_000;
        if (!socket.write(Buffer.alloc(100_000))) return;
      }
    };
    socket.on('drain', pour);
    pour();
  });
  const deaf = await listening(t, (socket) => socket.pause());
  const reader = await agent.client.dial(pouring);
  const writer = await agent.client.dial(deaf);
  let written = 0;
  const writing = (async () => {
    for (; written < 100_000_000; written += 100_000) await writer.write(Buffer.alloc(100_000));
  })();
  writing.catch(() => {});
  // Both come to rest well below what was offered.
  let before = -1;
  while (before !== poured + written) {
    before = poured + written;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  assert.ok(poured < 50_000_000 && written < 50_000_000, `${poured} poured, ${written} written`);
  await agent.client.ping();
  reader.destroy();
  writer.destroy();
  await assert.rejects(writing);
});
