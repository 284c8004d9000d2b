/** Frames of the channel: encoding, and decoding of a byte stream cut anywhere. The format is in protocol.ts. */
import { HEADER_BYTES, MAGIC, MAX_PAYLOAD } from './protocol.ts';

/** The peer's bytes are not frames. */
export class FrameError extends Error {
  override readonly name = 'FrameError';
}

/** `payload` may alias the chunk it arrived in; copy it to keep it. */
export type OnFrame = (type: number, kind: number, stream: number, payload: Buffer) => void;

const NO_PAYLOAD = Buffer.alloc(0);

export function writeHeader(
  target: Buffer,
  offset: number,
  type: number,
  kind: number,
  stream: number,
  length: number,
): void {
  target[offset] = MAGIC;
  target[offset + 1] = type;
  target[offset + 2] = kind;
  target[offset + 3] = 0;
  target.writeUInt32LE(stream, offset + 4);
  target.writeUInt32LE(length, offset + 8);
}

/** A frame in one buffer; the payload is copied. At most MAX_PAYLOAD bytes of it. */
export function encodeFrame(type: number, stream: number, payload: Uint8Array = NO_PAYLOAD, kind = 0): Buffer {
  if (payload.length > MAX_PAYLOAD) throw new RangeError(`payload of ${payload.length} bytes`);
  const frame = Buffer.allocUnsafe(HEADER_BYTES + payload.length);
  writeHeader(frame, 0, type, kind, stream, payload.length);
  frame.set(payload, HEADER_BYTES);
  return frame;
}

/**
 * Incremental decoder. Holds at most one header and one payload, whatever it is fed. A payload that lies in one chunk is
 * handed on without a copy. `push` throws FrameError on a broken header; the decoder is of no use after that.
 */
export class FrameDecoder {
  readonly #onFrame: OnFrame;
  readonly #header = Buffer.alloc(HEADER_BYTES);
  #headerFill = 0;
  #payload: Buffer | undefined;
  #payloadFill = 0;
  #stopped = false;

  constructor(onFrame: OnFrame) {
    this.#onFrame = onFrame;
  }

  /** True at a frame's edge. */
  get idle(): boolean {
    return this.#headerFill === 0;
  }

  /** No frame is handed on from here, also when called from within `onFrame`. */
  stop(): void {
    this.#stopped = true;
    this.#payload = undefined;
  }

  push(chunk: Buffer): void {
    let at = 0;
    while (at < chunk.length && !this.#stopped) {
      if (this.#payload) {
        at += this.#fillPayload(this.#payload, chunk, at);
        continue;
      }
      if (this.#headerFill === 0) {
        while (at < chunk.length && chunk[at] === 0) at++;
        if (at === chunk.length) return;
        if (chunk.length - at >= HEADER_BYTES) {
          const length = checkedLength(chunk, at);
          const start = at + HEADER_BYTES;
          if (chunk.length - start >= length) {
            this.#onFrame(
              chunk[at + 1]!,
              chunk[at + 2]!,
              chunk.readUInt32LE(at + 4),
              length === 0 ? NO_PAYLOAD : chunk.subarray(start, start + length),
            );
            at = start + length;
            continue;
          }
        }
      }
      const taken = Math.min(HEADER_BYTES - this.#headerFill, chunk.length - at);
      chunk.copy(this.#header, this.#headerFill, at, at + taken);
      this.#headerFill += taken;
      at += taken;
      if (this.#header[0] !== MAGIC) throw new FrameError('no frame begins here');
      if (this.#headerFill < HEADER_BYTES) return;
      this.#payload = Buffer.allocUnsafeSlow(checkedLength(this.#header, 0));
      this.#payloadFill = 0;
      if (this.#payload.length === 0) this.#emit(this.#payload);
    }
  }

  #fillPayload(payload: Buffer, chunk: Buffer, at: number): number {
    const taken = Math.min(payload.length - this.#payloadFill, chunk.length - at);
    chunk.copy(payload, this.#payloadFill, at, at + taken);
    this.#payloadFill += taken;
    if (this.#payloadFill === payload.length) this.#emit(payload);
    return taken;
  }

  #emit(payload: Buffer): void {
    this.#payload = undefined;
    this.#headerFill = 0;
    this.#onFrame(this.#header[1]!, this.#header[2]!, this.#header.readUInt32LE(4), payload);
  }
}

function checkedLength(bytes: Buffer, at: number): number {
  if (bytes[at] !== MAGIC) throw new FrameError('no frame begins here');
  if (bytes[at + 3] !== 0) throw new FrameError('reserved header byte is set');
  const length = bytes.readUInt32LE(at + 8);
  if (length > MAX_PAYLOAD) throw new FrameError(`frame of ${length} bytes, more than ${MAX_PAYLOAD}`);
  return length;
}
