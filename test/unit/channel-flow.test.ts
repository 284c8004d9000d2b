import assert from 'node:assert/strict';
import { duplexPair } from 'node:stream';
import test from 'node:test';
import { serve } from '../../guest/agent/session.ts';
import type { AgentStream } from '../../guest/agent/stream.ts';
import type { TransportEvents } from '../../guest/agent/transport.ts';
import { connectAgent } from '../../src/channel/client.ts';
import { INITIAL_WINDOW, KIND } from '../../src/channel/protocol.ts';

/** The agent's session in this process; `onOpen` answers every request. */
async function connected(onOpen: (stream: AgentStream) => void) {
  const [host, agentSide] = duplexPair();
  let events: TransportEvents | undefined;
  serve(
    (given) => {
      events = given;
      return {
        send: (bytes) => void agentSide.write(bytes),
        dropQueued: () => {},
        flushed: async () => {},
        connected: () => true,
      };
    },
    (_request, stream) => onOpen(stream),
  );
  agentSide.on('data', (chunk: Buffer) => events!.onBytes(chunk));
  return connectAgent(host, { deadlineMs: 5_000 });
}

/** Sends back what it is given, holding no more than a window. */
function echo(stream: AgentStream): void {
  stream.onData = (bytes) => {
    if (stream.data(KIND.RAW, bytes)) stream.consumed(bytes.length);
    else void stream.drained().then(() => stream.consumed(bytes.length));
  };
  stream.onEnd = () => void stream.drained().then(() => stream.end());
  stream.reply({});
}

test('1 000 interleaved streams each get their own bytes back', async () => {
  const client = await connected(echo);
  await Promise.all(
    Array.from({ length: 1_000 }, async (_, n) => {
      const socket = await client.dial(80);
      const sent = Buffer.alloc(1 + ((n * 37) % 3_000), n % 251);
      void (async () => {
        for (let at = 0; at < sent.length; at += 500) await socket.write(sent.subarray(at, at + 500));
        socket.end();
      })();
      const parts: Uint8Array[] = [];
      for await (const part of socket.input) parts.push(part);
      assert.deepEqual(Buffer.concat(parts), sent);
    }),
  );
  // Every stream is over on both sides: as many again can be opened.
  const again = await Promise.all(Array.from({ length: 1_024 }, () => client.dial(80)));
  assert.equal(again.length, 1_024);
  client.close();
});

test('megabytes go both ways through one stream without mixing', async () => {
  const client = await connected(echo);
  const socket = await client.dial(80);
  const total = 8 << 20;
  void (async () => {
    const block = Buffer.alloc(100_000);
    for (let at = 0; at < total; at += block.length) {
      const piece = Buffer.from(block.subarray(0, Math.min(block.length, total - at)));
      for (let i = 0; i < piece.length; i += 4_096) piece[i] = (at + i) % 253;
      await socket.write(piece);
    }
    socket.end();
  })();
  let at = 0;
  let wrong = 0;
  for await (const part of socket.input) {
    for (let i = 0; i < part.length; i++) {
      const within = (at + i) % 100_000;
      const want = within % 4_096 === 0 ? (at + i) % 253 : 0;
      if (part[i] !== want) wrong++;
    }
    at += part.length;
  }
  assert.equal(at, total);
  assert.equal(wrong, 0);
  client.close();
});

test('a consumer that does not read holds the sender at the window, and others go on', async () => {
  let sent = 0;
  let blocked = false;
  const client = await connected((stream) => {
    stream.reply({});
    const pour = (): void => {
      while (sent < 10 << 20) {
        sent += 10_000;
        if (stream.data(KIND.RAW, Buffer.alloc(10_000))) continue;
        blocked = true;
        return;
      }
      stream.end();
    };
    stream.onDrain = pour;
    if (sent === 0) pour();
    else stream.end();
  });
  const slow = await client.dial(80);
  while (!blocked) await new Promise(setImmediate);
  const held = sent;
  assert.ok(held <= INITIAL_WINDOW + 10_000, `${held} bytes were sent`);
  await client.ping();
  await new Promise(setImmediate);
  assert.equal(sent, held);
  let read = 0;
  for await (const part of slow.input) read += part.length;
  assert.equal(read, sent);
  assert.ok(sent >= 10 << 20);
  client.close();
});

test('a guest that does not read holds the writer, and the wait can be aborted', async () => {
  let inner: AgentStream | undefined;
  let received = 0;
  const client = await connected((stream) => {
    inner = stream;
    stream.onData = (bytes) => {
      received += bytes.length;
    };
    stream.reply({ pid: 3 });
  });
  const process = await client.spawn({ cmd: 'x', args: [], stdin: true });
  const controller = new AbortController();
  const write = process.writeStdin(Buffer.alloc(1 << 20), controller.signal);
  while (received < INITIAL_WINDOW - 10_000) await new Promise(setImmediate);
  await new Promise(setImmediate);
  assert.ok(received <= INITIAL_WINDOW);
  controller.abort(new Error('enough'));
  await assert.rejects(write, /enough/);
  const before = received;
  const next = process.writeStdin(Buffer.alloc(10));
  for (let given = 0; given + 60_000 < before; given += 60_000) inner!.consumed(60_000);
  await next;
  client.close();
});

test('a stream let go by the host is forgotten on both sides', async () => {
  const streams: AgentStream[] = [];
  const client = await connected((stream) => {
    streams.push(stream);
    stream.reply({ pid: 3 });
  });
  for (let n = 0; n < 3_000; n++) {
    const process = await client.spawn({ cmd: 'x', args: [], stdin: true });
    process.detach();
  }
  await client.ping().catch(() => {});
  assert.ok(streams.slice(0, 3_000).every((stream) => stream.closed));
  client.close();
});

test('a request of 300 KB and an answer of 900 KB pass in parts', async () => {
  const info = {
    pid: 4,
    cmd: 'x'.repeat(900_000),
    args: [],
    env: {},
    cwd: '/',
    user: 'u',
    pty: false,
    stdin: false,
    service: false,
  };
  const client = await connected((stream) => {
    stream.reply(info);
    stream.end();
  });
  const process = await client.attach({ tag: 't'.repeat(300_000) });
  assert.equal(process.info?.cmd.length, 900_000);
  await assert.rejects(client.attach({ tag: 't'.repeat(1_100_000) }), /more than 1048576/);
  client.close();
});
