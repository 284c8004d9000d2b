/** Creates as this process has seen them since its start: how they ended, and which are at work. */
import { CoppiceError } from '../contract/errors.ts';

export interface Tally {
  readonly successes: number;
  /** Only what was the server's fault. */
  readonly failures: number;
  readonly atWork: number;
  /** Runs one create and counts it. */
  count<T>(create: () => Promise<T>): Promise<T>;
}

export function createTally(): Tally {
  return new Counts();
}

class Counts implements Tally {
  #successes = 0;
  #failures = 0;
  #atWork = 0;

  get successes(): number {
    return this.#successes;
  }

  get failures(): number {
    return this.#failures;
  }

  get atWork(): number {
    return this.#atWork;
  }

  async count<T>(create: () => Promise<T>): Promise<T> {
    this.#atWork++;
    try {
      const made = await create();
      this.#successes++;
      return made;
    } catch (error) {
      if (!(error instanceof CoppiceError) || error.status >= 500) this.#failures++;
      throw error;
    } finally {
      this.#atWork--;
    }
  }
}
