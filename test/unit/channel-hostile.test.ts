import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { type Duplex, duplexPair } from 'node:stream';
import test from 'node:test';
import { AgentError } from '../../src/channel/agent.ts';
import { connectAgent } from '../../src/channel/client.ts';
import { encodeFrame, FrameDecoder } from '../../src/channel/frames.ts';
import { FRAME, HEADER_BYTES, INITIAL_WINDOW, KIND, MAX_PAYLOAD, MORE } from '../../src/channel/protocol.ts';

interface Guest {
  readonly wire: Duplex;
  send(type: number, stream: number, payload?: Uint8Array | string, kind?: number): void;
}

/** A guest that greets as it should, then does what `onOpen` says to every request. */
function guest(onOpen: (guest: Guest, stream: number, request: { op: string }) => void): Duplex {
  const [host, wire] = duplexPair();
  const self: Guest = {
    wire,
    send: (type, stream, payload = '', kind = 0) => {
      if (!wire.destroyed) wire.write(encodeFrame(type, stream, Buffer.from(payload), kind));
    },
  };
  const decoder = new FrameDecoder((type, _kind, stream, payload) => {
    if (type === FRAME.HELLO) {
      const hello = JSON.stringify({ version: 't', pid: 1, clockMs: 0 });
      self.send(FRAME.HELLO_ACK, 0, Buffer.concat([payload, Buffer.from(hello)]));
    } else if (type === FRAME.OPEN) onOpen(self, stream, JSON.parse(payload.toString()));
  });
  wire.on('data', (chunk) => decoder.push(chunk));
  wire.on('error', () => {});
  return host;
}

const connect = (wire: Duplex) => connectAgent(wire, { deadlineMs: 5_000 });
const isUnavailable = (error: unknown): boolean => error instanceof AgentError && error.code === 'unavailable';

/** What a guest may answer to a ping, and the words in the reason with which the session must end. */
const BREAKS: readonly (readonly [string, (guest: Guest, stream: number) => void, RegExp])[] = [
  ['an unknown type', (g, s) => g.send(77, s), /type 77/],
  ['a frame for a stream that never was', (g) => g.send(FRAME.DATA, 999, 'x'), /stream 999/],
  ['a request of its own', (g) => g.send(FRAME.OPEN, 2, '{}'), /stream 2/],
  ['a second greeting', (g) => g.send(FRAME.HELLO_ACK, 0, Buffer.alloc(40)), /stream 0/],
  ['a reply that is not JSON', (g, s) => g.send(FRAME.REPLY, s, '{'), /not JSON/],
  ['a reply that is no object', (g, s) => g.send(FRAME.REPLY, s, '7'), /wrong shape/],
  [
    'a reply nested 30 000 deep',
    (g, s) => g.send(FRAME.REPLY, s, '['.repeat(30_000) + ']'.repeat(30_000)),
    /wrong shape/,
  ],
  [
    'two replies',
    (g, s) =>
      g.wire.write(
        Buffer.concat([encodeFrame(FRAME.REPLY, s, Buffer.from('{}')), encodeFrame(FRAME.REPLY, s, Buffer.from('{}'))]),
      ),
    /second reply/,
  ],
  ['data before the reply', (g, s) => g.send(FRAME.DATA, s, 'x'), /before the reply/],
  ['END before the reply', (g, s) => g.send(FRAME.END, s), /before the reply/],
  ['a failure of a made-up code', (g, s) => g.send(FRAME.RESET, s, '{"code":"x","message":""}'), /wrong shape/],
  ['a failure without JSON', (g, s) => g.send(FRAME.RESET, s, 'oops'), /not JSON/],
  [
    'an endless reply',
    (g, s) => {
      for (let i = 0; i < 40; i++) g.send(FRAME.REPLY, s, 'x'.repeat(MAX_PAYLOAD), MORE);
    },
    /more than \d+ bytes/,
  ],
  ['an endless reply of empty parts', (g, s) => g.send(FRAME.REPLY, s, '', MORE), /empty part/],
  ['credit that was not used', (g, s) => g.send(FRAME.WINDOW, s, Buffer.from([1, 0, 0, 0])), /not used/],
  ['credit of nothing', (g, s) => g.send(FRAME.WINDOW, s, Buffer.alloc(4)), /not used/],
  ['credit of a wrong length', (g, s) => g.send(FRAME.WINDOW, s, 'ab'), /window frame/],
  ['bytes that are no frame', (g) => g.wire.write(Buffer.from('hello world, this is no frame')), /no frame/],
  [
    'a length over the limit',
    (g) => {
      const f = encodeFrame(FRAME.REPLY, 1);
      f.writeUInt32LE(0xffffffff, 8);
      g.wire.write(f);
    },
    /more than 65536/,
  ],
];

for (const [what, act, reason] of BREAKS) {
  test(`${what} breaks the session, saying so`, async () => {
    const client = await connect(guest((g, stream) => act(g, stream)));
    const first = client.ping();
    await assert.rejects(
      first.then(() => client.ping()),
      isUnavailable,
    );
    assert.match((await client.closed).message, reason);
    await assert.rejects(client.ping(), isUnavailable);
  });
}

test('a guest that overruns a window nobody reads is cut off at the window', async () => {
  let sent = 0;
  const client = await connect(
    guest((g, stream) => {
      g.send(FRAME.REPLY, stream, '{"pid":7}');
      for (let n = 0; n < 20; n++) {
        sent += 32_000;
        g.send(FRAME.DATA, stream, Buffer.alloc(32_000), KIND.STDOUT);
      }
    }),
  );
  await client.spawn({ cmd: 'x', args: [], stdin: false }).catch(() => {});
  assert.match((await client.closed).message, /overran its window/);
  assert.ok(sent > INITIAL_WINDOW);
});

test('tiny frames are charged for: 8 000 one-byte frames overrun a window that 262 144 bytes would not', async () => {
  const client = await connect(
    guest((g, stream) => {
      g.send(FRAME.REPLY, stream, '{"pid":7}');
      for (let n = 0; n < 8_000; n++) g.send(FRAME.DATA, stream, 'x', KIND.STDOUT);
    }),
  );
  await client.spawn({ cmd: 'x', args: [], stdin: false }).catch(() => {});
  assert.match((await client.closed).message, /overran its window/);
});

test('the window holds after the host has let go of a stream', async () => {
  let peer: Guest | undefined;
  const client = await connect(
    guest((g, stream) => {
      peer = g;
      g.send(FRAME.REPLY, stream, '{"pid":7}');
    }),
  );
  const process = await client.spawn({ cmd: 'x', args: [], stdin: false });
  process.detach();
  for (let n = 0; n < 10; n++) peer!.send(FRAME.DATA, 1, Buffer.alloc(32_000), KIND.STDOUT);
  assert.match((await client.closed).message, /overran its window/);
});

for (const [what, event, kind] of [
  ['an exit code out of range', { event: 'exit', exitCode: 1e9 }, -1],
  ['an event of another kind', { event: 'create', name: 'x' }, -1],
  ['output of an unknown kind', undefined, 9],
] as const) {
  test(`a process with ${what} breaks the session`, async () => {
    const client = await connect(
      guest((g, stream) => {
        g.send(FRAME.REPLY, stream, '{"pid":7}');
        if (event) g.send(FRAME.EVENT, stream, JSON.stringify(event));
        else g.send(FRAME.DATA, stream, 'x', kind);
      }),
    );
    const process = await client.spawn({ cmd: 'x', args: [], stdin: false });
    await assert.rejects(async () => {
      for await (const _ of process.output);
    }, isUnavailable);
    await client.closed;
  });
}

test('a listing without end is refused at 100 000 entries, and the session lives', async () => {
  const entry = {
    name: 'n',
    path: '/n',
    type: 'file',
    size: 0,
    mode: 0,
    permissions: '',
    owner: '',
    group: '',
    modifiedMs: 0,
  };
  const batch = JSON.stringify({ entries: Array.from({ length: 500 }, () => entry) });
  let credit = INITIAL_WINDOW;
  const [host, wire] = duplexPair();
  let listing = 0;
  const flood = (): void => {
    while (listing && credit >= batch.length + 32) {
      credit -= batch.length + 32;
      wire.write(encodeFrame(FRAME.EVENT, listing, Buffer.from(batch)));
    }
  };
  const decoder = new FrameDecoder((type, _kind, stream, payload) => {
    if (type === FRAME.HELLO)
      wire.write(
        encodeFrame(FRAME.HELLO_ACK, 0, Buffer.concat([payload, Buffer.from('{"version":"t","pid":1,"clockMs":0}')])),
      );
    else if (type === FRAME.OPEN) {
      wire.write(encodeFrame(FRAME.REPLY, stream, Buffer.from('{}')));
      if (JSON.parse(payload.toString()).op === 'list') listing = stream;
      else wire.write(encodeFrame(FRAME.END, stream));
      flood();
    } else if (type === FRAME.WINDOW) {
      credit += payload.readUInt32LE(0);
      flood();
    } else if (type === FRAME.RESET) {
      listing = 0;
      wire.write(encodeFrame(FRAME.RESET, stream));
    }
  });
  wire.on('data', (chunk) => decoder.push(chunk));
  const client = await connect(host);
  await assert.rejects(client.list('/', 9), (error: AgentError) => error.code === 'resource_exhausted');
  await client.ping();
  client.close();
});

test('a silent guest is given up at the deadline', async () => {
  const [host] = duplexPair();
  await assert.rejects(connectAgent(host, { deadlineMs: 50 }), /did not answer within 50 ms/);
  assert.ok(host.destroyed);
});

test('a guest that sends garbage for ever is given up without growing', async () => {
  const [host, wire] = duplexPair();
  let sent = 0;
  const block = randomBytes(1 << 20);
  const flood = (): void => {
    while (!wire.destroyed && !host.destroyed) {
      sent += block.length;
      if (!wire.write(block)) break;
    }
  };
  wire.on('drain', flood);
  wire.on('error', () => {});
  flood();
  const before = process.memoryUsage().rss;
  await assert.rejects(connectAgent(host, { deadlineMs: 15_000 }), /no greeting in|did not answer/);
  assert.ok(sent >= 64 << 20);
  assert.ok(process.memoryUsage().rss - before < 64 << 20, 'memory grew with the garbage');
});

test('a greeting with another nonce, or one cut short, is not taken', async () => {
  for (const reply of [
    encodeFrame(FRAME.HELLO_ACK, 0, randomBytes(60)),
    encodeFrame(FRAME.HELLO_ACK, 0, randomBytes(60)).subarray(0, HEADER_BYTES + 20),
  ]) {
    const [host, wire] = duplexPair();
    wire.once('data', () => wire.write(reply));
    await assert.rejects(connectAgent(host, { deadlineMs: 60 }), /did not answer/);
  }
});

test('a request that is never answered is given up at its own deadline, and the stream let go', async () => {
  const client = await connectAgent(
    guest(() => {}),
    { deadlineMs: 5_000, requestTimeoutMs: 40 },
  );
  // The session's own timer does not keep a process alive; this one does.
  const alive = setInterval(() => {}, 10);
  await assert.rejects(client.ping(), /did not answer within 40 ms/);
  clearInterval(alive);
  client.close();
});

test('an aborted wait rejects with the reason of the signal', async () => {
  const client = await connect(guest(() => {}));
  const reason = new Error('enough');
  const controller = new AbortController();
  const ping = client.ping(controller.signal);
  controller.abort(reason);
  await assert.rejects(ping, reason);
  await assert.rejects(client.ping(controller.signal), reason);
  client.close();
});

test('when the guest goes away, all that waits fails unavailable, and closed resolves', async () => {
  const wires: Guest[] = [];
  const client = await connect(guest((g) => void wires.push(g)));
  const waiting = [client.ping(), client.stat('/'), client.dial(80)];
  while (wires.length < 3) await new Promise(setImmediate);
  wires[0]!.wire.destroy();
  for (const wait of waiting) await assert.rejects(wait, isUnavailable);
  assert.ok((await client.closed) instanceof AgentError);
});

test('no more than 1 024 operations at once', async () => {
  const client = await connect(guest(() => {}));
  const waiting = Array.from({ length: 1_024 }, () => client.ping());
  await assert.rejects(client.ping(), (error: AgentError) => error.code === 'resource_exhausted');
  client.close();
  for (const result of await Promise.allSettled(waiting)) assert.equal(result.status, 'rejected');
});
