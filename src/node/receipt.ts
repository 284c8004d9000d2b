/** Times the stages of one verb; the receipt goes back to the client as Server-Timing and into the log. */
import type { Receipt } from '../contract/node-api.ts';

export class ReceiptClock {
  readonly #verb: string;
  readonly #begun = performance.now();
  readonly #stages: { name: string; ms: number }[] = [];
  #last = this.#begun;
  #path: 'hot' | 'cold' | undefined;

  constructor(verb: string) {
    this.#verb = verb;
  }

  /** Ends the stage that has run since the one before. */
  stage(name: string): void {
    const now = performance.now();
    this.#stages.push({ name, ms: round(now - this.#last) });
    this.#last = now;
  }

  path(path: 'hot' | 'cold'): void {
    this.#path = path;
  }

  finish(): Receipt {
    return {
      verb: this.#verb,
      ...(this.#path ? { path: this.#path } : {}),
      totalMs: round(performance.now() - this.#begun),
      stages: this.#stages,
    };
  }
}

/** Microsecond resolution; more digits are noise. */
function round(ms: number): number {
  return Math.round(ms * 1000) / 1000;
}
