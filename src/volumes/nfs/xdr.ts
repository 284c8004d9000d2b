/** XDR (RFC 4506), of which NFS is made: big-endian, everything in units of four bytes. What is read comes from a guest. */

/** The bytes are not what they should be. */
export class XdrError extends Error {}

const padding = (length: number): number => (4 - (length & 3)) & 3;

export class XdrReader {
  readonly #bytes: Buffer;
  #at = 0;

  constructor(bytes: Buffer) {
    this.#bytes = bytes;
  }

  uint(): number {
    return this.#bytes.readUInt32BE(this.#take(4));
  }

  hyper(): bigint {
    return this.#bytes.readBigUInt64BE(this.#take(8));
  }

  bool(): boolean {
    const value = this.uint();
    if (value > 1) throw new XdrError('not a boolean');
    return value === 1;
  }

  /** `length` bytes, of the reader's own memory. */
  fixed(length: number): Buffer {
    const start = this.#take(length + padding(length));
    return this.#bytes.subarray(start, start + length);
  }

  /** At most `most` bytes, of the reader's own memory. */
  opaque(most: number): Buffer {
    const length = this.uint();
    if (length > most) throw new XdrError(`${length} bytes where ${most} may be`);
    return this.fixed(length);
  }

  /** Throws unless everything has been read. */
  end(): void {
    if (this.#at !== this.#bytes.length) throw new XdrError('bytes are left over');
  }

  #take(length: number): number {
    const start = this.#at;
    if (length > this.#bytes.length - start) throw new XdrError('bytes are missing');
    this.#at = start + length;
    return start;
  }
}

const FIRST_BYTES = 256;

export class XdrWriter {
  #bytes = Buffer.allocUnsafe(FIRST_BYTES);
  #length = 0;

  get length(): number {
    return this.#length;
  }

  uint(value: number): this {
    const at = this.#grow(4);
    this.#bytes.writeUInt32BE(value >>> 0, at);
    return this;
  }

  hyper(value: bigint | number): this {
    const at = this.#grow(8);
    this.#bytes.writeBigUInt64BE(BigInt.asUintN(64, BigInt(value)), at);
    return this;
  }

  bool(value: boolean): this {
    return this.uint(value ? 1 : 0);
  }

  fixed(bytes: Uint8Array): this {
    const fill = padding(bytes.length);
    const at = this.#grow(bytes.length + fill);
    this.#bytes.set(bytes, at);
    this.#bytes.fill(0, at + bytes.length, at + bytes.length + fill);
    return this;
  }

  opaque(bytes: Uint8Array): this {
    return this.uint(bytes.length).fixed(bytes);
  }

  /** Takes back everything from `length` on. */
  cut(length: number): void {
    this.#length = length;
  }

  /** What was written, until more is. */
  bytes(): Buffer {
    return this.#bytes.subarray(0, this.#length);
  }

  #grow(by: number): number {
    const at = this.#length;
    this.#length += by;
    if (this.#length > this.#bytes.length) {
      const larger = Buffer.allocUnsafe(Math.max(this.#bytes.length * 2, this.#length));
      this.#bytes.copy(larger, 0, 0, at);
      this.#bytes = larger;
    }
    return at;
  }
}
