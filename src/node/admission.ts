/**
 * Says no before the host does. A machine is counted with what it may come to hold, not with what it holds: a clone that
 * was cheap at hand-out is not when its owner fills it. What that is, its backend says.
 */
import { totalmem } from 'node:os';
import { CoppiceError } from '../contract/errors.ts';

/** Part of the host's memory that sandboxes may claim together; the rest is for the host, page cache and Coppice. */
const SHARE_OF_HOST = 0.85;

export class Admission {
  readonly #budgetMB: number;
  readonly #held = new Map<string, number>();
  #heldMB = 0;

  /** `budgetMB`: sum of counts allowed; default a share of the host's memory. */
  constructor(budgetMB: number = Math.floor((totalmem() / 2 ** 20) * SHARE_OF_HOST)) {
    this.#budgetMB = budgetMB;
  }

  get freeMB(): number {
    return this.#budgetMB - this.#heldMB;
  }

  fits(memoryMB: number): boolean {
    return memoryMB <= this.freeMB;
  }

  /** Takes the room for one machine, or throws `capacity`. */
  take(id: string, memoryMB: number): void {
    if (!this.fits(memoryMB)) {
      throw new CoppiceError(
        'capacity',
        `no room for a sandbox that counts as ${memoryMB} MiB: ${Math.max(0, this.freeMB)} of ${this.#budgetMB} MiB left`,
      );
    }
    this.#hold(id, memoryMB);
  }

  /** For a machine that already lives: counted even when it no longer fits. */
  adopt(id: string, memoryMB: number): void {
    this.#hold(id, memoryMB);
  }

  release(id: string): void {
    this.#heldMB -= this.#held.get(id) ?? 0;
    this.#held.delete(id);
  }

  #hold(id: string, memoryMB: number): void {
    this.release(id);
    this.#held.set(id, memoryMB);
    this.#heldMB += memoryMB;
  }
}
