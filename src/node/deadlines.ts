/** One timer for all deadlines. The truth is the row; this only wakes at the right moment. */

/** Longest setTimeout that does not overflow to zero. */
const LONGEST_WAIT_MS = 2 ** 31 - 1;

export class Deadlines {
  readonly #onDue: (id: string) => void;
  readonly #due = new Map<string, number>();
  #timer: NodeJS.Timeout | undefined;
  #timerAt = Number.POSITIVE_INFINITY;

  /** `onDue` is called once per deadline, never before it. */
  constructor(onDue: (id: string) => void) {
    this.#onDue = onDue;
  }

  /** `atMs`: milliseconds since the epoch. */
  set(id: string, atMs: number): void {
    this.#due.set(id, atMs);
    if (atMs < this.#timerAt) this.#arm(atMs);
  }

  delete(id: string): void {
    this.#due.delete(id);
  }

  stop(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#due.clear();
  }

  #arm(atMs: number): void {
    clearTimeout(this.#timer);
    this.#timerAt = atMs;
    this.#timer = setTimeout(() => this.#fire(), Math.min(Math.max(0, atMs - Date.now()), LONGEST_WAIT_MS));
    this.#timer.unref();
  }

  #fire(): void {
    const now = Date.now();
    this.#timerAt = Number.POSITIVE_INFINITY;
    let next = Number.POSITIVE_INFINITY;
    for (const [id, atMs] of [...this.#due]) {
      if (atMs <= now) {
        this.#due.delete(id);
        this.#onDue(id);
      } else if (atMs < next) next = atMs;
    }
    if (Number.isFinite(next)) this.#arm(next);
  }
}
