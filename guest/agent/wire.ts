/** Frames on the agent's side. On bytes that are no frame it looks for the next HELLO, as the host may have been replaced. */
import { FRAME, HEADER_BYTES, MAGIC, MAX_PAYLOAD, NONCE_BYTES } from '../../src/channel/protocol.ts';

export type OnFrame = (type: number, kind: number, stream: number, payload: Buffer) => void;

const NOTHING = Buffer.alloc(0);
const HELLO_HEADER = header(FRAME.HELLO, 0, 0, NONCE_BYTES);

export function header(type: number, kind: number, stream: number, length: number): Buffer {
  const bytes = Buffer.allocUnsafe(HEADER_BYTES);
  bytes[0] = MAGIC;
  bytes[1] = type;
  bytes[2] = kind;
  bytes[3] = 0;
  bytes.writeUInt32LE(stream, 4);
  bytes.writeUInt32LE(length, 8);
  return bytes;
}

/** Payloads handed on are copies: the caller's read buffer can be used again. */
export class Decoder {
  readonly #onFrame: OnFrame;
  #head = Buffer.alloc(HEADER_BYTES);
  #headFill = 0;
  #payload: Buffer | undefined;
  #payloadFill = 0;
  #hunting = false;
  #tail = NOTHING;

  constructor(onFrame: OnFrame) {
    this.#onFrame = onFrame;
  }

  /** A new connection: whatever was half read is gone. */
  reset(): void {
    this.#headFill = 0;
    this.#payload = undefined;
    this.#hunting = false;
    this.#tail = NOTHING;
  }

  push(chunk: Buffer): void {
    let at = 0;
    while (at < chunk.length) {
      if (this.#hunting) {
        const rest = this.#hunt(chunk.subarray(at));
        if (!rest) return;
        chunk = rest;
        at = 0;
      }
      if (this.#payload) {
        const taken = chunk.copy(this.#payload, this.#payloadFill, at);
        at += taken;
        this.#payloadFill += taken;
        if (this.#payloadFill === this.#payload.length) this.#emit(this.#payload);
        continue;
      }
      if (this.#headFill === 0) {
        while (at < chunk.length && chunk[at] === 0) at++;
        if (at === chunk.length) return;
      }
      const taken = chunk.copy(
        this.#head,
        this.#headFill,
        at,
        Math.min(chunk.length, at + HEADER_BYTES - this.#headFill),
      );
      at += taken;
      this.#headFill += taken;
      if (this.#head[0] === MAGIC && this.#headFill < HEADER_BYTES) return;
      const length = this.#head.readUInt32LE(8);
      if (this.#head[0] !== MAGIC || this.#head[3] !== 0 || length > MAX_PAYLOAD) {
        this.#tail = Buffer.from(this.#head.subarray(0, this.#headFill));
        this.#headFill = 0;
        this.#hunting = true;
        continue;
      }
      this.#payload = length === 0 ? NOTHING : Buffer.allocUnsafeSlow(length);
      this.#payloadFill = 0;
      if (length === 0) this.#emit(NOTHING);
    }
  }

  /** Bytes from the next HELLO on, or undefined when it has not come yet. */
  #hunt(chunk: Buffer): Buffer | undefined {
    const bytes = this.#tail.length === 0 ? chunk : Buffer.concat([this.#tail, chunk]);
    const at = bytes.indexOf(HELLO_HEADER);
    if (at < 0) {
      this.#tail = Buffer.from(bytes.subarray(Math.max(0, bytes.length - HEADER_BYTES + 1)));
      return undefined;
    }
    this.#hunting = false;
    this.#tail = NOTHING;
    return bytes.subarray(at);
  }

  #emit(payload: Buffer): void {
    this.#payload = undefined;
    this.#headFill = 0;
    this.#onFrame(this.#head[1]!, this.#head[2]!, this.#head.readUInt32LE(4), payload);
  }
}
