/** The host's end of one stream: its reply, what has arrived and is not yet taken, and what waits to be sent. */
import { AgentError } from './agent.ts';
import { FRAME, FRAME_COST, INITIAL_WINDOW, MAX_JSON, MAX_PAYLOAD, MORE } from './protocol.ts';

/** What a stream needs of its session. */
export interface StreamPort {
  /** False: the transport is full; the stream is pumped again when it has drained. */
  readonly writable: boolean;
  sendFrame(type: number, stream: number, payload?: Uint8Array, kind?: number): void;
  /** Calls `stream.pump()` after the transport has drained. */
  awaitDrain(stream: ChannelStream): void;
  /** The stream is over on both sides. */
  forget(stream: ChannelStream): void;
}

/** Broken protocol; ends the session. */
export class ProtocolError extends Error {
  override readonly name = 'ProtocolError';
}

/** `event`: bytes are JSON. Otherwise `kind` is a DataKind. */
export interface Arrival {
  readonly event: boolean;
  readonly kind: number;
  readonly bytes: Buffer;
}

interface Outgoing {
  readonly kind: number;
  readonly bytes: Uint8Array;
  offset: number;
  readonly resolve: () => void;
  readonly reject: (error: Error) => void;
}

/** Credit is given back in pieces of this size. */
const CREDIT_BATCH = INITIAL_WINDOW / 4;
/** A frame is not cut smaller than this for want of credit. */
const LEAST_PIECE = 4_096;
/** A REPLY of one frame, for every operation but those whose answer holds a list. */
const SMALL_REPLY = MAX_PAYLOAD;

export class ChannelStream {
  readonly id: number;
  /** Rejects with AgentError. Parsed JSON, of unknown shape. */
  readonly reply: Promise<unknown>;
  readonly #port: StreamPort;
  readonly #maxReply: number;
  #settleReply: { resolve(value: unknown): void; reject(error: Error): void } | undefined;
  #replyParts: Buffer[] = [];
  #replyBytes = 0;
  #replied = false;

  #queue: Arrival[] = [];
  #head = 0;
  #waiter: { resolve(arrival: Arrival | undefined): void; reject(error: Error): void } | undefined;
  #received = 0;
  #consumed = 0;

  #outgoing: Outgoing[] = [];
  #credit = INITIAL_WINDOW;
  #endQueued = false;
  #endSent = false;
  #endReceived = false;
  #resetSent = false;
  #failure: Error | undefined;

  constructor(id: number, port: StreamPort, maxReply: number = SMALL_REPLY) {
    this.id = id;
    this.#port = port;
    this.#maxReply = Math.min(maxReply, MAX_JSON);
    const { promise, resolve, reject } = Promise.withResolvers<unknown>();
    promise.catch(() => {});
    this.reply = promise;
    this.#settleReply = { resolve, reject };
  }

  /** Why nothing more can be sent; undefined while it lives. */
  get failure(): Error | undefined {
    return this.#failure;
  }

  /** The peer has sent END. */
  get ended(): boolean {
    return this.#endReceived;
  }

  /** The next thing that arrived, in order; undefined after END. Rejects when the stream or session failed. One caller at a time. */
  async take(): Promise<Arrival | undefined> {
    if (this.#head < this.#queue.length) {
      const arrival = this.#queue[this.#head]!;
      this.#queue[this.#head++] = undefined as never;
      if (this.#head === this.#queue.length || this.#head > 1_024) {
        this.#queue = this.#queue.slice(this.#head);
        this.#head = 0;
      }
      this.#consume(arrival.bytes.length);
      return arrival;
    }
    if (this.#endReceived && !this.#resetSent) return undefined;
    if (this.#failure) throw this.#failure;
    if (this.#waiter) throw new Error('the stream has a reader already');
    return new Promise((resolve, reject) => {
      this.#waiter = { resolve, reject };
    });
  }

  /** Resolves when every byte has been handed to the transport. The bytes must not be changed after the call. */
  send(kind: number, bytes: Uint8Array, signal?: AbortSignal): Promise<void> {
    if (this.#failure) return Promise.reject(this.#failure);
    if (this.#endQueued) return Promise.reject(new AgentError('failed_precondition', 'the stream was closed'));
    if (signal?.aborted) return Promise.reject(signal.reason);
    if (bytes.length === 0) return Promise.resolve();
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const item: Outgoing = { kind, bytes, offset: 0, resolve, reject };
    this.#outgoing.push(item);
    this.pump();
    if (!signal || !this.#outgoing.includes(item)) return promise;
    const onAbort = (): void => {
      const at = this.#outgoing.indexOf(item);
      if (at >= 0) this.#outgoing.splice(at, 1);
      reject(signal.reason);
      this.pump();
    };
    signal.addEventListener('abort', onAbort, { once: true });
    return promise.finally(() => signal.removeEventListener('abort', onAbort));
  }

  /** No more from this side, after what is queued. Idempotent. */
  end(): void {
    if (this.#failure || this.#endQueued) return;
    this.#endQueued = true;
    this.pump();
  }

  /** END was put on the wire together with OPEN. */
  markEnded(): void {
    this.#endQueued = true;
    this.#endSent = true;
  }

  /** Lets go of the stream at once: what has arrived is dropped, what waits to be sent fails with `reason`. Idempotent. */
  reset(reason: Error = new AgentError('failed_precondition', 'the stream was let go')): void {
    if (this.#failure) return;
    const over = this.#endReceived && this.#endSent;
    this.#queue = [];
    this.#head = 0;
    this.#die(reason);
    if (over) return;
    this.#resetSent = true;
    this.#port.sendFrame(FRAME.RESET, this.id);
  }

  pump(): void {
    while (this.#outgoing.length > 0) {
      if (!this.#port.writable) {
        this.#port.awaitDrain(this);
        return;
      }
      const item = this.#outgoing[0]!;
      const left = item.bytes.length - item.offset;
      if (this.#credit < Math.min(left, LEAST_PIECE) + FRAME_COST) return;
      const size = Math.min(left, this.#credit - FRAME_COST, MAX_PAYLOAD);
      this.#credit -= size + FRAME_COST;
      this.#port.sendFrame(FRAME.DATA, this.id, item.bytes.subarray(item.offset, item.offset + size), item.kind);
      item.offset += size;
      if (item.offset < item.bytes.length) continue;
      this.#outgoing.shift();
      item.resolve();
    }
    if (!this.#endQueued || this.#endSent) return;
    this.#endSent = true;
    this.#port.sendFrame(FRAME.END, this.id);
    if (this.#endReceived) this.#port.forget(this);
  }

  /** A frame for this stream. Throws ProtocolError when it has no place here. */
  onFrame(type: number, kind: number, payload: Buffer): void {
    if (type === FRAME.DATA || type === FRAME.EVENT) this.#onArrival(type === FRAME.EVENT, kind, payload);
    else if (type === FRAME.WINDOW) this.#onWindow(payload);
    else if (type === FRAME.REPLY) this.#onReply(kind, payload);
    else if (type === FRAME.END) this.#onEnd(payload);
    else if (type === FRAME.RESET) this.#onReset(payload);
    else throw new ProtocolError(`a frame of type ${type} on stream ${this.id}`);
  }

  /** The session is gone. What has arrived can still be taken. */
  fail(error: Error): void {
    if (!this.#failure) this.#die(error);
  }

  #onArrival(event: boolean, kind: number, payload: Buffer): void {
    if (this.#endReceived) throw new ProtocolError(`data after the end of stream ${this.id}`);
    if (!this.#replied) throw new ProtocolError(`data before the reply on stream ${this.id}`);
    if (payload.length === 0) throw new ProtocolError(`an empty frame on stream ${this.id}`);
    this.#received += payload.length + FRAME_COST;
    if (this.#received > INITIAL_WINDOW) throw new ProtocolError(`stream ${this.id} overran its window`);
    if (this.#failure) return;
    const waiter = this.#waiter;
    if (waiter) {
      this.#waiter = undefined;
      this.#consume(payload.length);
      waiter.resolve({ event, kind, bytes: payload });
      return;
    }
    // A small slice would keep a whole chunk alive for as long as nobody takes it.
    const bytes = payload.length * 2 < payload.buffer.byteLength ? copyOf(payload) : payload;
    this.#queue.push({ event, kind, bytes });
  }

  #consume(length: number): void {
    this.#consumed += length + FRAME_COST;
    if (this.#consumed < CREDIT_BATCH || this.#endReceived || this.#failure) return;
    const credit = Buffer.allocUnsafe(4);
    credit.writeUInt32LE(this.#consumed);
    this.#received -= this.#consumed;
    this.#consumed = 0;
    this.#port.sendFrame(FRAME.WINDOW, this.id, credit);
  }

  #onWindow(payload: Buffer): void {
    if (payload.length !== 4) throw new ProtocolError(`a window frame of ${payload.length} bytes`);
    const credit = payload.readUInt32LE(0);
    if (credit === 0 || this.#credit + credit > INITIAL_WINDOW)
      throw new ProtocolError(`credit of ${credit} bytes that were not used, on stream ${this.id}`);
    this.#credit += credit;
    if (!this.#failure) this.pump();
  }

  #onReply(kind: number, payload: Buffer): void {
    if (this.#endReceived || this.#replied) throw new ProtocolError(`a second reply on stream ${this.id}`);
    if (kind !== MORE) this.#replied = true;
    this.#replyBytes += payload.length;
    if (this.#replyBytes > this.#maxReply)
      throw new ProtocolError(`a reply of more than ${this.#maxReply} bytes on stream ${this.id}`);
    if (kind === MORE && payload.length === 0) throw new ProtocolError(`an empty part of a reply on stream ${this.id}`);
    if (this.#failure) return;
    if (kind === MORE) {
      this.#replyParts.push(copyOf(payload));
      return;
    }
    const text =
      this.#replyParts.length === 0 ? payload.toString() : Buffer.concat([...this.#replyParts, payload]).toString();
    // Parsed before anything is settled: what it throws must still find the reply waiting.
    const value = parseJSON(text);
    this.#replyParts = [];
    this.#settleReply?.resolve(value);
    this.#settleReply = undefined;
  }

  #onEnd(payload: Buffer): void {
    if (payload.length > 0 || this.#endReceived) throw new ProtocolError(`a misplaced END on stream ${this.id}`);
    if (!this.#replied) throw new ProtocolError(`END before the reply on stream ${this.id}`);
    this.#endReceived = true;
    if (this.#endSent) this.#port.forget(this);
    const waiter = this.#waiter;
    this.#waiter = undefined;
    waiter?.resolve(undefined);
  }

  #onReset(payload: Buffer): void {
    if (!this.#failure) this.#die(failureOf(payload));
    this.#port.forget(this);
  }

  #die(error: Error): void {
    this.#failure = error;
    this.#replyParts = [];
    this.#settleReply?.reject(error);
    this.#settleReply = undefined;
    const waiter = this.#waiter;
    this.#waiter = undefined;
    waiter?.reject(error);
    const outgoing = this.#outgoing;
    this.#outgoing = [];
    for (const item of outgoing) item.reject(error);
  }
}

function copyOf(bytes: Buffer): Buffer {
  const copy = Buffer.allocUnsafeSlow(bytes.length);
  copy.set(bytes);
  return copy;
}

export function parseJSON(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw new ProtocolError('not JSON where JSON belongs', { cause });
  }
}

const CODES: ReadonlySet<string> = new Set<AgentError['code']>([
  'invalid_argument',
  'not_found',
  'already_exists',
  'failed_precondition',
  'unauthenticated',
  'resource_exhausted',
  'unimplemented',
  'unavailable',
  'internal',
]);

function failureOf(payload: Buffer): AgentError {
  const value = parseJSON(payload.toString()) as { code?: unknown; message?: unknown } | null;
  if (typeof value?.code !== 'string' || !CODES.has(value.code) || typeof value.message !== 'string')
    throw new ProtocolError('a failure of a wrong shape');
  return new AgentError(value.code as AgentError['code'], value.message.slice(0, 4_096));
}
