/**
 * Places for machines that are to come: an id with its row, its users and its network, made ahead of demand, one of each
 * kind of isolation. Making one takes two processes in the network's namespace, which a growth need not wait for.
 */
import type { Isolation } from '../isolation/backend.ts';
import type { Attachment } from '../network/fabric.ts';
import type { Log } from '../telemetry/log.ts';

export interface Berth {
  readonly id: string;
  readonly uid: number | undefined;
  readonly generation: string;
  /** Allowed the internet. undefined: this host gives machines no network. */
  readonly attachment: Attachment | undefined;
}

export interface BerthsOptions {
  readonly make: (kind: Isolation) => Promise<Berth>;
  readonly drop: (berth: Berth) => Promise<void>;
  readonly log: Log;
}

/** Whoever took one is at work just then, and so is what comes right after. */
const QUIET_MS = 400;

export class Berths {
  readonly #options: BerthsOptions;
  readonly #ready = new Map<Isolation, Berth>();
  readonly #making = new Map<Isolation, Promise<void>>();
  readonly #timers = new Map<Isolation, NodeJS.Timeout>();
  #closed = false;

  constructor(options: BerthsOptions) {
    this.#options = options;
  }

  /** One that is ready, if any. The next is made when nobody has asked for a while. */
  take(kind: Isolation): Berth | undefined {
    const berth = this.#ready.get(kind);
    this.#ready.delete(kind);
    clearTimeout(this.#timers.get(kind));
    if (!this.#closed) this.#timers.set(kind, setTimeout(() => this.#fill(kind), QUIET_MS).unref());
    return berth;
  }

  /** No more are made; those that are there stay as they are. */
  abandon(): void {
    this.#closed = true;
    for (const timer of this.#timers.values()) clearTimeout(timer);
  }

  /** Stops making them and drops those that are there. */
  async close(): Promise<void> {
    this.abandon();
    await Promise.all(this.#making.values());
    const berths = [...this.#ready.values()];
    this.#ready.clear();
    await Promise.all(berths.map((berth) => this.#options.drop(berth)));
  }

  #fill(kind: Isolation): void {
    if (this.#closed || this.#ready.has(kind) || this.#making.has(kind)) return;
    const { make, log } = this.#options;
    const making = make(kind)
      .then((berth) => void this.#ready.set(kind, berth))
      .catch((error: unknown) => {
        // The next growth makes its own, and says why it cannot.
        if (!this.#closed) log.warn({ error, isolation: kind }, 'no place could be made ahead of demand');
      })
      .finally(() => this.#making.delete(kind));
    this.#making.set(kind, making);
  }
}
