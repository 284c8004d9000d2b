/** One session over a byte stream: the greeting with its nonce, streams by number, and the end. Trusts nothing it reads. */
import { randomBytes } from 'node:crypto';
import type { Duplex } from 'node:stream';
import type { Log } from '../telemetry/log.ts';
import { AgentError } from './agent.ts';
import { encodeFrame, FrameDecoder, writeHeader } from './frames.ts';
import type { AgentHello, AgentRequest } from './protocol.ts';
import { FRAME, HEADER_BYTES, MAGIC, MAX_JSON, MAX_PAYLOAD, MAX_STREAMS, MORE, NONCE_BYTES } from './protocol.ts';
import { ChannelStream, ProtocolError, parseJSON, type StreamPort } from './stream.ts';

export interface SessionOptions {
  readonly log?: Log;
  readonly signal?: AbortSignal;
  /** Time for the agent to answer HELLO, ms. */
  readonly deadlineMs: number;
  /** True: the session before may have been cut in the middle of a frame; the agent's decoder is brought to an edge first. */
  readonly resync?: boolean;
}

/** Bytes of an older session that are thrown away before its successor is given up. */
const MAX_DISCARDED = 64 * 1024 * 1024;
/** Up to this many bytes, header and payload go out as one buffer. */
const COPY_UP_TO = 8_192;
/** Header and nonce of HELLO_ACK, matched as one. */
const GREETING_RUN = HEADER_BYTES + NONCE_BYTES;
const HELLO_TEXT_LIMIT = 4_096;

export class ChannelSession implements StreamPort {
  /** Resolves with the reason when the session is over. */
  readonly closed: Promise<Error>;
  readonly #resolveClosed: (reason: Error) => void;
  readonly #duplex: Duplex;
  readonly #log: Log | undefined;
  readonly #nonce = randomBytes(NONCE_BYTES);
  readonly #decoder: FrameDecoder;
  readonly #streams = new Map<number, ChannelStream>();
  readonly #draining = new Set<ChannelStream>();
  #nextID = 1;
  #writable = true;
  #reason: Error | undefined;
  /** Tail of what was read before HELLO_ACK, while it is looked for. */
  #hunting: Buffer | undefined = Buffer.alloc(0);
  #discarded = 0;
  #greeted: ((hello: AgentHello) => void) | undefined;

  /** Sends HELLO and resolves when the agent has answered it. Rejects with AgentError `unavailable`, or the signal's reason. */
  static async open(duplex: Duplex, options: SessionOptions): Promise<{ session: ChannelSession; hello: AgentHello }> {
    options.signal?.throwIfAborted();
    if (duplex.destroyed) throw new AgentError('unavailable', 'the channel is closed');
    const session = new ChannelSession(duplex, options.log);
    const { promise, resolve, reject } = Promise.withResolvers<AgentHello>();
    session.#greeted = resolve;
    const onAbort = (): void => session.close(options.signal?.reason);
    options.signal?.addEventListener('abort', onAbort, { once: true });
    const timer = setTimeout(
      () => session.close(new AgentError('unavailable', `the agent did not answer within ${options.deadlineMs} ms`)),
      options.deadlineMs,
    );
    void session.closed.then(reject);
    if (options.resync) session.#duplex.write(Buffer.alloc(MAX_PAYLOAD + HEADER_BYTES));
    session.sendFrame(FRAME.HELLO, 0, session.#nonce);
    try {
      return { session, hello: await promise };
    } finally {
      clearTimeout(timer);
      options.signal?.removeEventListener('abort', onAbort);
    }
  }

  private constructor(duplex: Duplex, log: Log | undefined) {
    this.#duplex = duplex;
    this.#log = log;
    const { promise, resolve } = Promise.withResolvers<Error>();
    this.closed = promise;
    this.#resolveClosed = resolve;
    this.#decoder = new FrameDecoder((type, kind, stream, payload) => this.#onFrame(type, kind, stream, payload));
    duplex.on('error', (cause) => this.close(new AgentError('unavailable', 'the channel failed', { cause })));
    duplex.on('close', () => this.close(new AgentError('unavailable', 'the channel was closed')));
    duplex.on('end', () => this.close(new AgentError('unavailable', 'the sandbox closed the channel')));
    duplex.on('drain', () => this.#onDrain());
    duplex.on('data', (chunk: Buffer) => this.#onData(chunk));
  }

  get writable(): boolean {
    return this.#writable;
  }

  get streamCount(): number {
    return this.#streams.size;
  }

  /** Sends OPEN, with END in the same write when nothing will be sent on the stream. Throws AgentError. */
  openStream(
    request: AgentRequest,
    options: { readonly sends?: boolean; readonly maxReply?: number } = {},
  ): ChannelStream {
    if (this.#reason) throw unavailable(this.#reason);
    if (this.#streams.size >= MAX_STREAMS)
      throw new AgentError('resource_exhausted', `more than ${MAX_STREAMS} operations at once in one sandbox`);
    const json = Buffer.from(JSON.stringify(request));
    if (json.length > MAX_JSON)
      throw new AgentError('invalid_argument', `the request is ${json.length} bytes, more than ${MAX_JSON}`);
    const stream = new ChannelStream(this.#nextID++, this, options.maxReply);
    this.#streams.set(stream.id, stream);
    let at = 0;
    for (; json.length - at > MAX_PAYLOAD; at += MAX_PAYLOAD)
      this.sendFrame(FRAME.OPEN, stream.id, json.subarray(at, at + MAX_PAYLOAD), MORE);
    if (options.sends) {
      this.sendFrame(FRAME.OPEN, stream.id, json.subarray(at));
      return stream;
    }
    const last = json.length - at;
    const frames = Buffer.allocUnsafe(HEADER_BYTES + last + HEADER_BYTES);
    writeHeader(frames, 0, FRAME.OPEN, 0, stream.id, last);
    json.copy(frames, HEADER_BYTES, at);
    writeHeader(frames, HEADER_BYTES + last, FRAME.END, 0, stream.id, 0);
    stream.markEnded();
    this.#write(frames);
    return stream;
  }

  sendFrame(type: number, stream: number, payload?: Uint8Array, kind = 0): void {
    if (this.#reason) return;
    if (!payload || payload.length <= COPY_UP_TO) {
      this.#write(encodeFrame(type, stream, payload, kind));
      return;
    }
    const header = Buffer.allocUnsafe(HEADER_BYTES);
    writeHeader(header, 0, type, kind, stream, payload.length);
    this.#duplex.cork();
    this.#write(header);
    this.#write(payload);
    this.#duplex.uncork();
  }

  awaitDrain(stream: ChannelStream): void {
    this.#draining.add(stream);
  }

  forget(stream: ChannelStream): void {
    this.#streams.delete(stream.id);
    this.#draining.delete(stream);
  }

  /** Ends the session and the byte stream; every open stream fails `unavailable`. Idempotent. */
  close(reason: Error = new AgentError('unavailable', 'the channel was closed')): void {
    if (this.#reason) return;
    this.#reason = reason;
    this.#decoder.stop();
    this.#hunting = undefined;
    const failure = unavailable(reason);
    for (const stream of this.#streams.values()) stream.fail(failure);
    this.#streams.clear();
    this.#draining.clear();
    this.#duplex.destroy();
    this.#resolveClosed(reason);
  }

  #write(bytes: Uint8Array): void {
    if (!this.#duplex.write(bytes)) this.#writable = false;
  }

  #onDrain(): void {
    this.#writable = true;
    const waiting = [...this.#draining];
    this.#draining.clear();
    for (const stream of waiting) stream.pump();
  }

  #onData(chunk: Buffer): void {
    if (this.#reason) return;
    try {
      if (this.#hunting) this.#hunt(this.#hunting, chunk);
      else this.#decoder.push(chunk);
    } catch (error) {
      this.#break(error as Error);
    }
  }

  /** Discards up to HELLO_ACK with this session's nonce; what follows it goes to the decoder. Copies next to nothing. */
  #hunt(tail: Buffer, chunk: Buffer): void {
    const joint = tail.length === 0 ? tail : Buffer.concat([tail, chunk.subarray(0, GREETING_RUN - 1)]);
    for (const bytes of [joint, chunk]) {
      const at = this.#findGreeting(bytes);
      if (at < 0) continue;
      this.#hunting = undefined;
      this.#decoder.push(bytes.subarray(at));
      if (bytes === joint) this.#decoder.push(chunk.subarray(GREETING_RUN - 1));
      return;
    }
    this.#discarded += chunk.length;
    if (this.#discarded > MAX_DISCARDED) throw new ProtocolError(`no greeting in ${this.#discarded} bytes`);
    const kept = joint.length > 0 && chunk.length < GREETING_RUN ? joint : chunk;
    this.#hunting = Buffer.from(kept.subarray(Math.max(0, kept.length - GREETING_RUN + 1)));
  }

  #findGreeting(bytes: Buffer): number {
    for (let from = HEADER_BYTES; ; ) {
      const at = bytes.indexOf(this.#nonce, from);
      if (at < 0) return -1;
      if (isHelloAck(bytes, at - HEADER_BYTES)) return at - HEADER_BYTES;
      from = at + 1;
    }
  }

  #onFrame(type: number, kind: number, id: number, payload: Buffer): void {
    const greeted = this.#greeted;
    if (greeted) {
      // The first frame is the one that the hunt has matched.
      this.#greeted = undefined;
      greeted(helloOf(payload.subarray(NONCE_BYTES)));
      return;
    }
    const stream = this.#streams.get(id);
    if (!stream) throw new ProtocolError(`a frame of type ${type} for stream ${id}, which is not open`);
    stream.onFrame(type, kind, payload);
  }

  #break(error: Error): void {
    this.#log?.warn({ error }, 'channel broken by the sandbox');
    this.close(new AgentError('unavailable', `the sandbox broke the channel: ${error.message}`, { cause: error }));
  }
}

function unavailable(reason: Error): AgentError {
  if (reason instanceof AgentError && reason.code === 'unavailable') return reason;
  return new AgentError('unavailable', 'the channel is closed', { cause: reason });
}

function isHelloAck(bytes: Buffer, at: number): boolean {
  return (
    bytes[at] === MAGIC &&
    bytes[at + 1] === FRAME.HELLO_ACK &&
    bytes[at + 2] === 0 &&
    bytes[at + 3] === 0 &&
    bytes.readUInt32LE(at + 4) === 0 &&
    bytes.readUInt32LE(at + 8) >= NONCE_BYTES &&
    bytes.readUInt32LE(at + 8) <= NONCE_BYTES + HELLO_TEXT_LIMIT
  );
}

function helloOf(payload: Buffer): AgentHello {
  const value = parseJSON(payload.toString()) as Partial<Record<keyof AgentHello, unknown>> | null;
  if (
    typeof value?.version !== 'string' ||
    value.version.length > 64 ||
    !Number.isSafeInteger(value.pid) ||
    typeof value.clockMs !== 'number'
  )
    throw new ProtocolError('a greeting of a wrong shape');
  return { version: value.version, pid: value.pid as number, clockMs: value.clockMs };
}
