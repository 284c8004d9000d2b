/** The agent's end of one stream. */
import {
  type AgentFailure,
  FRAME,
  FRAME_COST,
  HEADER_BYTES,
  INITIAL_WINDOW,
  MAX_JSON,
  MAX_PAYLOAD,
  MORE,
} from '../../src/channel/protocol.ts';
import { header } from './wire.ts';

/** One frame fits one write of the virtio port. */
const PIECE = 32_768 - HEADER_BYTES;
const CREDIT_BATCH = INITIAL_WINDOW / 4;
const LEAST_PIECE = 4_096;

export interface StreamPort {
  send(bytes: Buffer): void;
  forget(id: number): void;
}

export class AgentStream {
  readonly id: number;
  /** DATA from the host. The handler calls `consumed` when it is done with the bytes. */
  onData: ((bytes: Buffer) => void) | undefined;
  /** END from the host. */
  onEnd: (() => void) | undefined;
  /** Everything that waited for credit has been sent. */
  onDrain: (() => void) | undefined;
  /** The stream is over, for whatever reason: RESET, a new session, or both sides ended. */
  onClose: (() => void) | undefined;

  readonly #port: StreamPort;
  #credit = INITIAL_WINDOW;
  #consumed = 0;
  #pending: { readonly type: number; readonly kind: number; readonly bytes: Buffer }[] = [];
  #offset = 0;
  #ending = false;
  #ended = false;
  #hostEnded = false;
  #closed = false;

  constructor(id: number, port: StreamPort) {
    this.id = id;
    this.#port = port;
  }

  get closed(): boolean {
    return this.#closed;
  }

  /** Frames wait for credit. */
  get blocked(): boolean {
    return this.#pending.length > 0;
  }

  get hostEnded(): boolean {
    return this.#hostEnded;
  }

  reply(value: unknown): void {
    if (this.#closed) return;
    const json = Buffer.from(JSON.stringify(value));
    if (json.length > MAX_JSON) {
      this.fail({ code: 'resource_exhausted', message: `the answer is ${json.length} bytes, more than ${MAX_JSON}` });
      return;
    }
    let at = 0;
    for (; json.length - at > MAX_PAYLOAD; at += MAX_PAYLOAD)
      this.#frame(FRAME.REPLY, MORE, json.subarray(at, at + MAX_PAYLOAD));
    this.#frame(FRAME.REPLY, 0, json.subarray(at));
  }

  /** False: some of it waits for credit, and the caller must hold back until `onDrain`. */
  data(kind: number, bytes: Buffer): boolean {
    return bytes.length === 0 ? !this.blocked : this.#queue(FRAME.DATA, kind, bytes);
  }

  /** JSON of at most MAX_PAYLOAD bytes. False: as for `data`. */
  event(value: unknown): boolean {
    return this.#queue(FRAME.EVENT, 0, Buffer.from(JSON.stringify(value)));
  }

  /** Resolves when nothing waits for credit, or the stream is over. */
  async drained(): Promise<void> {
    if (!this.blocked || this.#closed) return;
    const { promise, resolve } = Promise.withResolvers<void>();
    const onDrain = this.onDrain;
    const onClose = this.onClose;
    this.onDrain = resolve;
    this.onClose = () => {
      onClose?.();
      resolve();
    };
    await promise;
    this.onDrain = onDrain;
    this.onClose = onClose;
  }

  /** END, after what waits. */
  end(): void {
    this.#ending = true;
    this.#pump();
  }

  fail(failure: AgentFailure): void {
    if (this.#closed) return;
    const message = failure.message.slice(0, 2_048);
    this.#frame(FRAME.RESET, 0, Buffer.from(JSON.stringify({ code: failure.code, message })));
    this.close();
  }

  /** Gives credit back to the host for DATA of `length` bytes. */
  consumed(length: number): void {
    this.#consumed += length + FRAME_COST;
    if (this.#consumed < CREDIT_BATCH || this.#closed || this.#hostEnded) return;
    const credit = Buffer.allocUnsafe(4);
    credit.writeUInt32LE(this.#consumed);
    this.#consumed = 0;
    this.#frame(FRAME.WINDOW, 0, credit);
  }

  /** A frame from the host. */
  onFrame(type: number, payload: Buffer): void {
    if (type === FRAME.DATA) {
      if (this.onData) this.onData(payload);
      else this.consumed(payload.length);
    } else if (type === FRAME.WINDOW && payload.length === 4) {
      this.#credit += payload.readUInt32LE(0);
      this.#pump();
    } else if (type === FRAME.END) {
      this.#hostEnded = true;
      this.onEnd?.();
      if (this.#ended) this.close();
    } else if (type === FRAME.RESET) {
      this.#frame(FRAME.RESET, 0, Buffer.alloc(0));
      this.close();
    }
  }

  /** Forgets the stream without a word to the host. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#pending = [];
    this.#port.forget(this.id);
    this.onClose?.();
  }

  #queue(type: number, kind: number, bytes: Buffer): boolean {
    if (this.#closed || this.#ending) return true;
    this.#pending.push({ type, kind, bytes });
    if (this.#pending.length === 1) this.#pump();
    return !this.blocked;
  }

  #pump(): void {
    if (this.#closed) return;
    const waited = this.blocked;
    while (this.#pending.length > 0) {
      const { type, kind, bytes } = this.#pending[0]!;
      const left = bytes.length - this.#offset;
      // An event is one frame; data can be cut.
      const least = type === FRAME.EVENT ? left : Math.min(left, LEAST_PIECE);
      if (this.#credit < least + FRAME_COST) return;
      const size = type === FRAME.EVENT ? left : Math.min(left, this.#credit - FRAME_COST, PIECE);
      this.#credit -= size + FRAME_COST;
      this.#frame(type, kind, bytes.subarray(this.#offset, this.#offset + size));
      this.#offset += size;
      if (this.#offset < bytes.length) continue;
      this.#pending.shift();
      this.#offset = 0;
    }
    if (this.#ending && !this.#ended) {
      this.#ended = true;
      this.#frame(FRAME.END, 0, Buffer.alloc(0));
      if (this.#hostEnded) this.close();
    }
    if (waited) this.onDrain?.();
  }

  #frame(type: number, kind: number, payload: Buffer): void {
    this.#port.send(header(type, kind, this.id, payload.length));
    if (payload.length > 0) this.#port.send(payload);
  }
}
