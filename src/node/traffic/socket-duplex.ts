/** A stream to a port of the sandbox, dressed as the kind of socket that node:http drives. */
import { Duplex } from 'node:stream';
import type { AgentSocket } from '../../channel/agent.ts';

/** Bytes held on each side before the producer is asked to wait. */
const HIGH_WATER_MARK = 65_536;

export interface SocketDuplexOptions {
  /** False (for HTTP): when the sandbox ends its side, ours ends too, so that a pool never keeps a dead connection. */
  readonly allowHalfOpen: boolean;
}

/**
 * Duplex over an AgentSocket. One read and one write are in flight at a time, so backpressure reaches the guest through
 * the channel's credit. Has the parts of net.Socket that node:http calls; keep-alive probes and Nagle mean nothing here.
 */
export class SocketDuplex extends Duplex {
  readonly #socket: AgentSocket;
  readonly #input: AsyncIterator<Uint8Array>;
  #reading = false;
  #timer: NodeJS.Timeout | undefined;
  /** Idle milliseconds until `timeout` is emitted; 0 = never. http.Agent compares it. */
  timeout = 0;
  readonly connecting = false;

  constructor(socket: AgentSocket, options: SocketDuplexOptions) {
    super({ allowHalfOpen: options.allowHalfOpen, highWaterMark: HIGH_WATER_MARK, autoDestroy: true });
    this.#socket = socket;
    this.#input = socket.input[Symbol.asyncIterator]();
  }

  override _read(): void {
    if (this.#reading) return;
    this.#reading = true;
    void this.#pull();
  }

  async #pull(): Promise<void> {
    try {
      for (;;) {
        const { done, value } = await this.#input.next();
        if (this.destroyed) return;
        this.#touch();
        if (done) {
          this.push(null);
          return;
        }
        if (value.byteLength === 0) continue;
        this.#reading = false;
        this.push(Buffer.from(value.buffer, value.byteOffset, value.byteLength));
        return;
      }
    } catch (error) {
      this.destroy(asReset(error));
    }
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, callback: (error?: Error | null) => void): void {
    this.#send(chunk, callback);
  }

  override _writev(
    chunks: { chunk: Buffer; encoding: BufferEncoding }[],
    callback: (error?: Error | null) => void,
  ): void {
    this.#send(Buffer.concat(chunks.map(({ chunk }) => chunk)), callback);
  }

  #send(bytes: Buffer, callback: (error?: Error | null) => void): void {
    this.#touch();
    this.#socket.write(bytes).then(
      () => {
        this.#touch();
        callback();
      },
      (error: unknown) => callback(asReset(error)),
    );
  }

  override _final(callback: (error?: Error | null) => void): void {
    try {
      this.#socket.end();
      callback();
    } catch (error) {
      callback(asReset(error));
    }
  }

  override _destroy(error: Error | null, callback: (error?: Error | null) => void): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#socket.destroy();
    callback(error);
  }

  /** As net.Socket: emits `timeout` after `ms` without traffic; the listener decides. */
  setTimeout(ms: number, listener?: () => void): this {
    this.timeout = ms;
    clearTimeout(this.#timer);
    this.#timer = undefined;
    if (ms > 0 && !this.destroyed) {
      this.#timer = setTimeout(() => this.emit('timeout'), ms);
      this.#timer.unref();
    }
    if (listener) {
      if (ms > 0) this.once('timeout', listener);
      else this.off('timeout', listener);
    }
    return this;
  }

  #touch(): void {
    this.#timer?.refresh();
  }

  /** Ends after what was written has been sent, then destroys. */
  destroySoon(): void {
    if (this.writable) this.end();
    if (this.writableFinished) this.destroy();
    else this.once('finish', () => this.destroy());
  }

  setNoDelay(): this {
    return this;
  }

  setKeepAlive(): this {
    return this;
  }

  ref(): this {
    return this;
  }

  unref(): this {
    return this;
  }
}

/** node:http and the retry rule know a broken peer by ECONNRESET. */
function asReset(error: unknown): NodeJS.ErrnoException {
  const cause = error instanceof Error ? error : new Error(String(error));
  return Object.assign(new Error(`the stream to the sandbox broke: ${cause.message}`, { cause }), {
    code: 'ECONNRESET',
  });
}
