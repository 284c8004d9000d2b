import assert from 'node:assert/strict';
import test from 'node:test';
import fc from 'fast-check';
import { Decoder } from '../../guest/agent/wire.ts';
import { encodeFrame, FrameDecoder, FrameError } from '../../src/channel/frames.ts';
import { FRAME, HEADER_BYTES, MAX_PAYLOAD, NONCE_BYTES } from '../../src/channel/protocol.ts';

type Seen = [number, number, number, string];
const frames = fc.array(
  fc.record({
    type: fc.integer({ min: 3, max: 255 }),
    kind: fc.integer({ min: 0, max: 255 }),
    stream: fc.integer({ min: 0, max: 0xffffffff }),
    payload: fc.uint8Array({ maxLength: 300 }),
    padding: fc.integer({ min: 0, max: 20 }),
  }),
  { maxLength: 20 },
);

function cut(bytes: Buffer, sizes: readonly number[]): Buffer[] {
  const pieces: Buffer[] = [];
  let at = 0;
  for (let turn = 0; at < bytes.length; turn++) {
    const size = sizes[turn % sizes.length] ?? 1;
    pieces.push(bytes.subarray(at, at + size));
    at += size;
  }
  return pieces;
}

for (const [side, make] of [
  ['host', (on: (seen: Seen) => void) => new FrameDecoder((t, k, s, p) => on([t, k, s, p.toString('hex')]))],
  ['agent', (on: (seen: Seen) => void) => new Decoder((t, k, s, p) => on([t, k, s, p.toString('hex')]))],
] as const) {
  test(`the ${side}'s decoder gives back what was encoded, however the bytes are cut`, () => {
    fc.assert(
      fc.property(
        frames,
        fc.array(fc.integer({ min: 1, max: 400 }), { minLength: 1, maxLength: 30 }),
        (list, sizes) => {
          const seen: Seen[] = [];
          const decoder = make((frame) => seen.push(frame));
          const bytes = Buffer.concat(
            list.flatMap((f) => [Buffer.alloc(f.padding), encodeFrame(f.type, f.stream, f.payload, f.kind)]),
          );
          for (const piece of cut(bytes, sizes)) decoder.push(piece);
          assert.deepEqual(
            seen,
            list.map((f) => [f.type, f.kind, f.stream, Buffer.from(f.payload).toString('hex')]),
          );
        },
      ),
      { numRuns: 300 },
    );
  });
}

test('a payload of the greatest length passes, a longer one is refused on both sides', () => {
  const seen: number[] = [];
  const decoder = new FrameDecoder((_type, _kind, _stream, payload) => seen.push(payload.length));
  decoder.push(encodeFrame(FRAME.DATA, 1, Buffer.alloc(MAX_PAYLOAD)));
  assert.deepEqual(seen, [MAX_PAYLOAD]);
  assert.throws(() => encodeFrame(FRAME.DATA, 1, Buffer.alloc(MAX_PAYLOAD + 1)), RangeError);
  const header = encodeFrame(FRAME.DATA, 1);
  header.writeUInt32LE(MAX_PAYLOAD + 1, 8);
  assert.throws(() => decoder.push(header), FrameError);
});

test('random bytes end the host decoder with FrameError or are held back, and never yield more than they hold', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 2_000 }), (bytes) => {
      let out = 0;
      const decoder = new FrameDecoder((_type, _kind, _stream, payload) => {
        out += payload.length + HEADER_BYTES;
      });
      try {
        decoder.push(Buffer.from(bytes));
      } catch (error) {
        assert.ok(error instanceof FrameError);
      }
      assert.ok(out <= bytes.length);
    }),
    { numRuns: 500 },
  );
});

test('a stopped decoder hands on nothing more, also from within a frame', () => {
  let count = 0;
  const decoder = new FrameDecoder(() => {
    count++;
    decoder.stop();
  });
  decoder.push(Buffer.concat([encodeFrame(FRAME.END, 1), encodeFrame(FRAME.END, 1)]));
  decoder.push(encodeFrame(FRAME.END, 1));
  assert.equal(count, 1);
});

test('the agent finds the next HELLO behind any garbage', () => {
  fc.assert(
    fc.property(
      fc.uint8Array({ minLength: 1, maxLength: 500 }),
      fc.uint8Array({ minLength: NONCE_BYTES, maxLength: NONCE_BYTES }),
      fc.integer({ min: 1, max: 64 }),
      (garbage, nonce, size) => {
        const seen: string[] = [];
        const decoder = new Decoder((type, _kind, _stream, payload) => {
          if (type === FRAME.HELLO) seen.push(payload.toString('hex'));
        });
        // Beginning with a byte that is no frame: from there on only HELLO counts.
        const bytes = Buffer.concat([Buffer.from([0x55]), Buffer.from(garbage), encodeFrame(FRAME.HELLO, 0, nonce)]);
        for (const piece of cut(bytes, [size])) decoder.push(piece);
        assert.deepEqual(seen, [Buffer.from(nonce).toString('hex')]);
      },
    ),
    { numRuns: 300 },
  );
});
