/** Lines out of chunks of bytes, none longer than a limit. */

class LineTooLong extends Error {
  override readonly name = 'LineTooLong';
}

export class LineSplitter {
  readonly #limit: number;
  #pieces: Uint8Array[] = [];
  #bytes = 0;

  /** `limit`: bytes of one line, without its end. */
  constructor(limit: number) {
    this.#limit = limit;
  }

  /** The lines that `chunk` completes. Throws LineTooLong; the splitter is then of no further use. */
  *push(chunk: Uint8Array): Generator<string> {
    let start = 0;
    while (start < chunk.byteLength) {
      const end = chunk.indexOf(0x0a, start);
      const piece = chunk.subarray(start, end === -1 ? undefined : end);
      this.#bytes += piece.byteLength;
      if (this.#bytes > this.#limit) throw new LineTooLong(`a line is longer than ${this.#limit} bytes`);
      // A copy: the chunk's memory belongs to the channel.
      if (end === -1) {
        this.#pieces.push(piece.slice());
        return;
      }
      const line = Buffer.concat([...this.#pieces, piece], this.#bytes).toString('utf8');
      this.#pieces = [];
      this.#bytes = 0;
      start = end + 1;
      yield line;
    }
  }
}
