/** Reads an endless stream piece by piece: exact lengths, of which none is held in memory beyond what was asked for. */

export class ByteReader {
  readonly #source: AsyncIterator<Uint8Array>;
  #chunk: Uint8Array = new Uint8Array();

  constructor(source: AsyncIterable<Uint8Array>) {
    this.#source = source[Symbol.asyncIterator]();
  }

  /** Exactly `bytes`, or undefined at the end of the stream; fewer are left: the rest, which is shorter. */
  async take(bytes: number): Promise<Buffer | undefined> {
    const parts: Uint8Array[] = [];
    let missing = bytes;
    while (missing > 0) {
      const part = await this.#some(missing);
      if (part === undefined) break;
      parts.push(part);
      missing -= part.length;
    }
    if (parts.length === 0 && bytes > 0) return undefined;
    const [only] = parts;
    if (parts.length === 1) return Buffer.from(only!.buffer, only!.byteOffset, only!.length);
    return Buffer.concat(parts);
  }

  /** At most `bytes` (at least 1), as they come; undefined at the end of the stream. */
  async #some(bytes: number): Promise<Uint8Array | undefined> {
    while (this.#chunk.length === 0) {
      const next = await this.#source.next();
      if (next.done === true) return undefined;
      this.#chunk = next.value;
    }
    const part = this.#chunk.subarray(0, bytes);
    this.#chunk = this.#chunk.subarray(part.length);
    return part;
  }

  /** The next `bytes` as they come; a stream that ends before yields fewer. */
  async *stream(bytes: number): AsyncGenerator<Uint8Array> {
    for (let missing = bytes; missing > 0; ) {
      const part = await this.#some(missing);
      if (part === undefined) return;
      missing -= part.length;
      yield part;
    }
  }

  /** How many bytes were there to be passed over. */
  async skip(bytes: number): Promise<number> {
    let skipped = 0;
    while (skipped < bytes) {
      const part = await this.#some(bytes - skipped);
      if (part === undefined) break;
      skipped += part.length;
    }
    return skipped;
  }

  /** Lets go of the source. */
  async close(): Promise<void> {
    await this.#source.return?.();
  }
}
