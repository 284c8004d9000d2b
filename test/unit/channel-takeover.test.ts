import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { type Duplex, duplexPair, PassThrough } from 'node:stream';
import test from 'node:test';
import { answer, serve } from '../../guest/agent/session.ts';
import type { AgentStream } from '../../guest/agent/stream.ts';
import type { TransportEvents } from '../../guest/agent/transport.ts';
import { AgentError } from '../../src/channel/agent.ts';
import { connectAgent } from '../../src/channel/client.ts';
import { encodeFrame } from '../../src/channel/frames.ts';
import { FRAME, KIND } from '../../src/channel/protocol.ts';

/**
 * The agent's session on a wire that outlives its hosts, as a virtio port does: bytes of one host may still be under way,
 * in both directions, when the next begins.
 */
function agentOnAWire() {
  const [wire, agentSide] = duplexPair();
  const streams: AgentStream[] = [];
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
    (request, stream) => {
      streams.push(stream);
      if (request.op === 'ping') answer(stream, {});
      else stream.reply({ pid: 5 });
    },
  );
  agentSide.on('data', (chunk: Buffer) => events!.onBytes(chunk));
  /** A host's end; destroying it leaves the wire as it is. */
  let plugged: Duplex | undefined;
  const plug = (): Duplex => {
    const [host, inner] = duplexPair();
    const onData = (chunk: Buffer): void => void inner.write(chunk);
    wire.on('data', onData);
    inner.on('data', (chunk: Buffer) => wire.write(chunk));
    inner.on('error', () => {});
    host.on('close', () => {
      wire.off('data', onData);
      if (plugged === host) wire.pause();
    });
    plugged = host;
    wire.resume();
    return host;
  };
  return { wire, plug, streams };
}

const settle = () => new Promise((resolve) => setImmediate(() => setImmediate(resolve)));

test('a second session on the same wire ends the first, whose streams the agent forgets', async () => {
  const { plug, streams } = agentOnAWire();
  const first = await connectAgent(plug(), { deadlineMs: 5_000 });
  await first.spawn({ cmd: 'x', args: [], stdin: true });
  first.close();
  const second = await connectAgent(plug(), { deadlineMs: 5_000 });
  assert.equal(streams[0]!.closed, true);
  await second.ping();
  second.close();
});

test('old bytes that the agent had sent are discarded, cut anywhere', async () => {
  for (const cutAt of [0, 1, 11, 12, 27, 28, 100]) {
    const { wire, plug, streams } = agentOnAWire();
    const first = await connectAgent(plug(), { deadlineMs: 5_000 });
    await first.spawn({ cmd: 'x', args: [], stdin: true });
    first.close();
    await settle();
    // What the old session still has under way, beginning in the middle of a frame.
    const old = Buffer.concat([encodeFrame(FRAME.DATA, 1, randomBytes(200), KIND.STDOUT)]).subarray(cutAt);
    streams[0]!.data(KIND.STDOUT, randomBytes(5_000));
    wire.unshift(old);
    const second = await connectAgent(plug(), { deadlineMs: 5_000 });
    await second.ping();
    second.close();
  }
});

test('a host cut in the middle of a frame is taken over with resync, at every cut', async () => {
  const frame = encodeFrame(FRAME.DATA, 1, randomBytes(3_000), KIND.RAW);
  for (const cutAt of [1, 5, 11, 12, 13, 1_000, 3_011]) {
    const { wire, plug } = agentOnAWire();
    const first = await connectAgent(plug(), { deadlineMs: 5_000 });
    await first.spawn({ cmd: 'x', args: [], stdin: true });
    wire.write(frame.subarray(0, cutAt));
    first.close();
    const second = await connectAgent(plug(), { deadlineMs: 5_000, resync: true });
    await second.ping();
    second.close();
  }
});

test('without resync, HELLO falls into the cut frame, and the host says so at its deadline', async () => {
  const { wire, plug } = agentOnAWire();
  const first = await connectAgent(plug(), { deadlineMs: 5_000 });
  wire.write(encodeFrame(FRAME.DATA, 1, randomBytes(3_000)).subarray(0, 100));
  first.close();
  await assert.rejects(
    connectAgent(plug(), { deadlineMs: 50 }),
    (error: AgentError) => error instanceof AgentError && error.code === 'unavailable',
  );
});

test('an older greeting in the old bytes is not mistaken for this one', async () => {
  const { wire, plug } = agentOnAWire();
  const stale = Buffer.concat([randomBytes(16), Buffer.from('{"version":"old","pid":9,"clockMs":0}')]);
  wire.unshift(encodeFrame(FRAME.HELLO_ACK, 0, stale));
  const client = await connectAgent(plug(), { deadlineMs: 5_000 });
  assert.equal(client.hello.pid, process.pid);
  client.close();
});

test('the greeting is found though it comes one byte at a time', async () => {
  const { plug } = agentOnAWire();
  const inner = plug();
  const slow = new PassThrough();
  inner.on('data', (chunk: Buffer) => {
    for (const byte of chunk) slow.write(Buffer.from([byte]));
  });
  const { Duplex } = await import('node:stream');
  const client = await connectAgent(Duplex.from({ readable: slow, writable: inner }), { deadlineMs: 5_000 });
  await client.ping();
  client.close();
});
