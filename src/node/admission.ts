/**
 * Says no before the host does. Every machine is counted with its worst case (all of its memory dirtied, plus the VMM),
 * because a clone that was cheap at hand-out is not when its owner fills it.
 */
import { totalmem } from 'node:os';
import { CoppiceError } from '../contract/errors.ts';

/** MiB that a VMM holds beside its guest's memory, measured (docs/performance.md), rounded up. */
const VMM_OVERHEAD_MB = 64;
/** Part of the host's memory that sandboxes may claim together; the rest is for the host, page cache and Coppice. */
const SHARE_OF_HOST = 0.85;

export class Admission {
  readonly #budgetMB: number;
  readonly #held = new Map<string, number>();
  #heldMB = 0;

  /** `budgetMB`: sum of worst cases allowed; default a share of the host's memory. */
  constructor(budgetMB: number = Math.floor((totalmem() / 2 ** 20) * SHARE_OF_HOST)) {
    this.#budgetMB = budgetMB;
  }

  get freeMB(): number {
    return this.#budgetMB - this.#heldMB;
  }

  fits(memoryMB: number): boolean {
    return memoryMB + VMM_OVERHEAD_MB <= this.freeMB;
  }

  /** Takes the room for one machine, or throws `capacity`. */
  take(id: string, memoryMB: number): void {
    if (!this.fits(memoryMB)) {
      throw new CoppiceError(
        'capacity',
        `no room for a sandbox of ${memoryMB} MiB: ${Math.max(0, this.freeMB)} of ${this.#budgetMB} MiB left`,
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
    const worstCase = memoryMB + VMM_OVERHEAD_MB;
    this.#held.set(id, worstCase);
    this.#heldMB += worstCase;
  }
}
