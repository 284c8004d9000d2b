/**
 * The hot tier of one template: machines restored, addressed, probed and parked ahead of demand. Knows nothing of what an
 * entry is; it decides only how many to keep, and gives each away at most once (the durable half of that promise is the
 * row's claim).
 */
import type { Log } from '../telemetry/log.ts';

export interface PoolOptions<Entry> {
  readonly name: string;
  /** Makes one entry, parked and ready. */
  readonly grow: (signal: AbortSignal) => Promise<Entry>;
  /** Ends an entry that nobody will claim. */
  readonly drop: (entry: Entry) => Promise<void>;
  /** False: memory for one more is not there now. */
  readonly room: () => boolean;
  /** Entries kept when nothing happens, and never more than `most`. */
  readonly least: number;
  readonly most: number;
  readonly log: Log;
}

/** Claims in this window are what the next window is expected to bring. */
const DEMAND_WINDOW_MS = 30_000;
/** After a claim, while there is another entry. */
const QUIET_MS = 200;
/** After a failed growth, doubling up to the last. */
const RETRY_MS = [250, 1_000, 5_000, 30_000];

export class Pool<Entry> {
  readonly #options: PoolOptions<Entry>;
  readonly #ready: Entry[] = [];
  readonly #claims: number[] = [];
  readonly #abort = new AbortController();
  /** Whether it has made any. */
  #growing: Promise<boolean> | undefined;
  #held = 0;
  #failures = 0;
  #retry: NodeJS.Timeout | undefined;
  #quiet: NodeJS.Timeout | undefined;

  constructor(options: PoolOptions<Entry>) {
    this.#options = options;
  }

  get size(): number {
    return this.#ready.length;
  }

  /** What the tier is filled to now: the resting size plus what was claimed in the last window. */
  get target(): number {
    const since = performance.now() - DEMAND_WINDOW_MS;
    while (this.#claims.length > 0 && this.#claims[0]! < since) this.#claims.shift();
    return Math.min(this.#options.most, this.#options.least + this.#claims.length);
  }

  /** One entry, or undefined on a miss. Counts as demand either way. */
  take(): Entry | undefined {
    this.#claims.push(performance.now());
    if (this.#claims.length > this.#options.most) this.#claims.shift();
    return this.#ready.shift();
  }

  /**
   * No growth begins while a claim is in flight, nor right after it unless the tier is empty: growing costs the CPU that the
   * claim, and the first thing that its owner then does, need.
   */
  hold(): () => void {
    this.#held++;
    clearTimeout(this.#quiet);
    let held = true;
    return () => {
      if (!held) return;
      held = false;
      this.#held--;
      if (this.#held > 0) return;
      if (this.#ready.length === 0) setImmediate(() => this.refill());
      else this.#quiet = setTimeout(() => this.refill(), QUIET_MS).unref();
    };
  }

  /** Begins filling up to the target, one at a time. Returns at once. */
  refill(): void {
    if (this.#growing || this.#abort.signal.aborted || this.#retry) return;
    this.#growing = this.#fill().finally(() => {
      this.#growing = undefined;
    });
  }

  /** Resolves when the tier holds at least `count`, or when filling stopped short of it. */
  async filled(count: number, signal?: AbortSignal): Promise<boolean> {
    while (this.size < count && !signal?.aborted && !this.#abort.signal.aborted) {
      this.refill();
      if (!(await this.#growing)) return false;
    }
    return this.size >= count;
  }

  /** Gives up the oldest entry to make room for something else. */
  async shed(): Promise<boolean> {
    const entry = this.#ready.shift();
    if (!entry) return false;
    await this.#options.drop(entry);
    return true;
  }

  /** Drops what is beyond the target: the demand that it was made for is over. */
  async trim(): Promise<void> {
    const beyond = this.#growing ? [] : this.#ready.splice(this.target);
    await Promise.all(beyond.map((entry) => this.#options.drop(entry)));
  }

  /** Removes an entry that died while parked. */
  forget(which: (entry: Entry) => boolean): boolean {
    const index = this.#ready.findIndex(which);
    if (index >= 0) this.#ready.splice(index, 1);
    return index >= 0;
  }

  /** Stops growing and forgets every entry as it stands. */
  abandon(): void {
    this.#abort.abort();
    clearTimeout(this.#retry);
    clearTimeout(this.#quiet);
    this.#ready.length = 0;
  }

  /** Stops growing and drops every entry. */
  async close(): Promise<void> {
    this.#abort.abort();
    clearTimeout(this.#retry);
    clearTimeout(this.#quiet);
    await this.#growing;
    await Promise.all(this.#ready.splice(0).map((entry) => this.#options.drop(entry)));
  }

  async #fill(): Promise<boolean> {
    let made = false;
    while (
      this.#ready.length < this.target &&
      this.#held === 0 &&
      !this.#abort.signal.aborted &&
      this.#options.room()
    ) {
      try {
        const entry = await this.#options.grow(this.#abort.signal);
        if (this.#abort.signal.aborted) await this.#options.drop(entry);
        else this.#ready.push(entry);
        made = true;
        this.#failures = 0;
      } catch (error) {
        if (this.#abort.signal.aborted) return made;
        const wait = RETRY_MS[Math.min(this.#failures++, RETRY_MS.length - 1)]!;
        this.#options.log.warn(
          { error, template: this.#options.name, retryMs: wait },
          'a hot entry could not be grown',
        );
        this.#retry = setTimeout(() => {
          this.#retry = undefined;
          this.refill();
        }, wait);
        this.#retry.unref();
        return made;
      }
    }
    return made;
  }
}
