/** process.stdout and process.stderr of user code. */
import { Writable } from 'node:stream';
import { StringDecoder } from 'node:string_decoder';
import { tell } from './channel.ts';

class PrintStream extends Writable {
  readonly isTTY = false;
  readonly fd: number;
  readonly #kind: 'stdout' | 'stderr';
  readonly #decoder = new StringDecoder('utf8');

  constructor(kind: 'stdout' | 'stderr') {
    super({ decodeStrings: false, highWaterMark: 1 << 20, emitClose: false });
    this.#kind = kind;
    this.fd = kind === 'stdout' ? 1 : 2;
  }

  override _write(chunk: string | Buffer, _encoding: BufferEncoding, done: () => void): void {
    const text = typeof chunk === 'string' ? chunk : this.#decoder.write(chunk);
    if (text !== '') tell({ type: this.#kind, text });
    done();
  }

  /** Never: like the standard streams of Node. */
  override _destroy(error: Error | null, done: (error: Error | null) => void): void {
    done(error);
  }
}

/** Ahead of the first use of `console`, which looks its streams up once. */
export function replaceStreams(): void {
  for (const kind of ['stdout', 'stderr'] as const) {
    const stream = new PrintStream(kind);
    Object.defineProperty(process, kind, { get: () => stream, configurable: true, enumerable: true });
  }
}
