/**
 * The node RPC's bytes: calls of one protobuf service, many at a time, over one stream that only two processes of ours
 * share. Frame: u32 length of what follows, u32 call id, u8 kind, u8 method (its place in the service; 0 unless REQUEST),
 * then the message in protobuf's binary form. Numbers are little endian.
 */
import type { DescMethodUnary } from '@bufbuild/protobuf';
import { NodeService } from '../gen/node_pb.js';

export const KIND = { REQUEST: 0, ANSWER: 1, FAILURE: 2, CANCEL: 3 } as const;

const LENGTH_BYTES = 4;
/** Call id, kind, method. */
const HEAD_BYTES = 6;

/** The service's methods in the order of node.proto, which both sides number them by. */
export const METHODS = NodeService.methods as readonly DescMethodUnary[];

export interface Frame {
  readonly call: number;
  readonly kind: number;
  readonly method: number;
  readonly payload: Uint8Array;
}

export function encodeFrame(call: number, kind: number, method: number, payload: Uint8Array): Buffer {
  const frame = Buffer.allocUnsafe(LENGTH_BYTES + HEAD_BYTES + payload.length);
  frame.writeUInt32LE(HEAD_BYTES + payload.length, 0);
  frame.writeUInt32LE(call, LENGTH_BYTES);
  frame[LENGTH_BYTES + 4] = kind;
  frame[LENGTH_BYTES + 5] = method;
  frame.set(payload, LENGTH_BYTES + HEAD_BYTES);
  return frame;
}

/** Takes a stream apart, cut anywhere. Throws RangeError on a frame longer than `maxPayload`, before it is held. */
export class FrameReader {
  readonly #maxPayload: number;
  #held: Buffer = Buffer.alloc(0);

  constructor(maxPayload: number) {
    this.#maxPayload = maxPayload;
  }

  *push(chunk: Buffer): Generator<Frame> {
    this.#held = this.#held.length === 0 ? chunk : Buffer.concat([this.#held, chunk]);
    while (this.#held.length >= LENGTH_BYTES) {
      const length = this.#held.readUInt32LE(0);
      if (length < HEAD_BYTES || length - HEAD_BYTES > this.#maxPayload)
        throw new RangeError(`frame of ${length} bytes`);
      if (this.#held.length < LENGTH_BYTES + length) return;
      const frame = this.#held.subarray(LENGTH_BYTES, LENGTH_BYTES + length);
      this.#held = this.#held.subarray(LENGTH_BYTES + length);
      yield { call: frame.readUInt32LE(0), kind: frame[4]!, method: frame[5]!, payload: frame.subarray(HEAD_BYTES) };
    }
  }
}
