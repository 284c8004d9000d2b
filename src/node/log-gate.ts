/** How much one sandbox may say: some at once, and so much a second from then on. What it says beyond that is counted. */

/** Lines, and bytes, at once. */
const LINES = 2_000;
const BYTES = 2 ** 20;
/** And a second. */
const LINES_A_SECOND = 100;
const BYTES_A_SECOND = 64 * 1024;

export class LogGate {
  #lines = LINES;
  #bytes = BYTES;
  #atMs = 0;
  #missed = 0;

  /** `missed`: those that did not pass since the last that did. `full`: nothing passes now. */
  take(bytes: number, nowMs: number, full = false): { readonly passes: boolean; readonly missed: number } {
    const seconds = Math.max(0, nowMs - this.#atMs) / 1000;
    this.#atMs = nowMs;
    this.#lines = Math.min(LINES, this.#lines + seconds * LINES_A_SECOND);
    this.#bytes = Math.min(BYTES, this.#bytes + seconds * BYTES_A_SECOND);
    if (full || this.#lines < 1 || this.#bytes < bytes) {
      this.#missed++;
      return { passes: false, missed: this.#missed };
    }
    this.#lines--;
    this.#bytes -= bytes;
    const missed = this.#missed;
    this.#missed = 0;
    return { passes: true, missed };
  }
}
