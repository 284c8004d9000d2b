/**
 * Places for machines that are to come, made ahead of demand: an id with its row, its users and its network, which take two
 * processes in the network's namespace, and where the backend can, a shell: all of a machine but its state. One waits for
 * each place at rest, and as many more as were lately taken.
 */
import { setImmediate as turn } from 'node:timers/promises';
import type { Isolation, Shell } from '../isolation/backend.ts';
import type { Attachment } from '../network/fabric.ts';
import type { Log } from '../telemetry/log.ts';
import type { ReadyTemplate } from './nursery.ts';
import { Pool } from './pool.ts';

export interface Berth {
  readonly id: string;
  readonly uid: number | undefined;
  readonly generation: string;
  /** Allowed the internet. undefined: this host gives machines no network. */
  readonly attachment: Attachment | undefined;
  readonly shell?: Shell | undefined;
}

/** What a berth is for: a kind of isolation, and where there are shells the golden checkpoint that they lie on. */
export interface Place {
  readonly kind: Isolation;
  readonly base?: ReadyTemplate;
}

export interface BerthsOptions {
  readonly make: (place: Place, signal: AbortSignal) => Promise<Berth>;
  readonly drop: (berth: Berth) => Promise<void>;
  /** False: memory for one more is not there now. */
  readonly room: (place: Place) => boolean;
  /** Of one place, under demand. */
  readonly most: number;
  readonly log: Log;
}

/** Whoever took one is at work just then, and so is what comes right after. */
const QUIET_MS = 400;

export class Berths {
  readonly #options: BerthsOptions;
  readonly #pools = new Map<string, Pool<Berth>>();
  readonly #timers = new Map<string, NodeJS.Timeout>();
  #closed = false;

  constructor(options: BerthsOptions) {
    this.#options = options;
  }

  /** One that is ready, if any. The next is made when nobody has asked for a while. */
  take(place: Place): Berth | undefined {
    if (this.#closed) return undefined;
    const key = place.base?.buildID ?? place.kind;
    const pool = this.#pools.get(key) ?? this.#open(key, place);
    this.#refillLater(key, pool);
    return pool.take();
  }

  #refillLater(key: string, pool: Pool<Berth>): void {
    if (this.#closed) return;
    clearTimeout(this.#timers.get(key));
    this.#timers.set(key, setTimeout(() => pool.refill(), QUIET_MS).unref());
  }

  get size(): number {
    return [...this.#pools.values()].reduce((sum, pool) => sum + pool.size, 0);
  }

  /** Gives up what lately was in demand and no longer is. */
  async trim(): Promise<void> {
    for (const pool of this.#pools.values()) await pool.trim();
  }

  /** No more are made; those that are there stay as they are. */
  abandon(): void {
    this.#stop();
    for (const pool of this.#pools.values()) pool.abandon();
  }

  /** Stops making them and drops those that are there. */
  async close(): Promise<void> {
    this.#stop();
    await Promise.all([...this.#pools.values()].map((pool) => pool.close()));
  }

  #stop(): void {
    this.#closed = true;
    for (const timer of this.#timers.values()) clearTimeout(timer);
  }

  #open(key: string, place: Place): Pool<Berth> {
    const { make, drop, room, most, log } = this.#options;
    const pool = new Pool<Berth>({
      name: `places of ${place.base?.aliases[0] ?? place.kind}`,
      grow: async (signal) => {
        const berth = await make(place, signal);
        // A VMM that ends while it waits is nobody's loss; its place is given up, and another made. It may end before it waits.
        void berth.shell?.exited.then(turn).then(async () => {
          if (!pool.forget((one) => one === berth)) return;
          this.#refillLater(key, pool);
          await drop(berth);
        });
        return berth;
      },
      drop,
      room: () => room(place),
      least: 1,
      most,
      log,
    });
    this.#pools.set(key, pool);
    return pool;
  }
}
