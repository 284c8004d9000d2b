/** Times the stages of one verb; the receipt goes back to the client as Server-Timing and into the log. */
import type { Receipt } from '../contract/node-api.ts';

export class ReceiptClock {
  readonly #verb: string;
  readonly #begun = performance.now();
  readonly #stages: { name: string; ms: number }[] = [];
  #last = this.#begun;
  #path: Receipt['path'];
  #pauseMs: number | undefined;

  constructor(verb: string) {
    this.#verb = verb;
  }

  /** Ends the stage that has run since the one before. */
  stage(name: string): void {
    const now = performance.now();
    this.#stages.push({ name, ms: round(now - this.#last) });
    this.#last = now;
  }

  path(path: NonNullable<Receipt['path']>): void {
    this.#path = path;
  }

  /** How long nothing of a machine ran. */
  paused(ms: number): void {
    this.#pauseMs = round(ms);
  }

  finish(): Receipt {
    return {
      verb: this.#verb,
      ...(this.#path ? { path: this.#path } : {}),
      totalMs: round(performance.now() - this.#begun),
      stages: this.#stages,
      ...(this.#pauseMs === undefined ? {} : { pauseMs: this.#pauseMs }),
    };
  }
}

/** Microsecond resolution; more digits are noise. */
function round(ms: number): number {
  return Math.round(ms * 1000) / 1000;
}
