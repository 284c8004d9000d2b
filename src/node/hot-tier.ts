/** The hot tier: for each template, machines that were made before anybody asked, parked. Snapshots have none. */
import type { Log } from '../telemetry/log.ts';
import type { Fleet } from './fleet.ts';
import type { Member } from './member.ts';
import { environment, type ReadyTemplate } from './nursery.ts';
import { Pool } from './pool.ts';
import type { Rows } from './rows.ts';

export interface HotTierOptions {
  readonly fleet: Fleet;
  readonly rows: Rows;
  /** Entries per template at rest, and at most. */
  readonly size: { readonly least: number; readonly most: number };
  readonly log: Log;
}

/** Answers of a fresh clone until they take no longer than they ever will: emulated code is translated as it runs. */
const REHEARSALS = 6;

export class HotTier {
  readonly #options: HotTierOptions;
  readonly #pools = new Map<string, Pool<Member>>();

  constructor(options: HotTierOptions) {
    this.#options = options;
  }

  /** Begins to fill. */
  start(templates: readonly ReadyTemplate[]): void {
    const { fleet, size, log } = this.#options;
    for (const template of templates) {
      this.#pools.set(
        template.templateID,
        new Pool<Member>({
          name: template.aliases[0] ?? template.templateID,
          grow: (signal) => this.#grow(template, signal),
          drop: (member) => fleet.bury(member, 'no longer needed'),
          room: () => fleet.fits(template),
          ...size,
          log,
        }),
      );
    }
    this.refill();
  }

  get started(): boolean {
    return this.#pools.size > 0;
  }

  get size(): number {
    return [...this.#pools.values()].reduce((sum, pool) => sum + pool.size, 0);
  }

  get target(): number {
    return [...this.#pools.values()].reduce((sum, pool) => sum + pool.target, 0);
  }

  /** undefined: no hot tier is kept of it. */
  of(templateID: string): Pool<Member> | undefined {
    return this.#pools.get(templateID);
  }

  refill(): void {
    for (const pool of this.#pools.values()) pool.refill();
  }

  /** An entry died while it was parked. */
  forget(member: Member): void {
    for (const pool of this.#pools.values()) if (pool.forget(member)) pool.refill();
  }

  /** An idle entry of another template gives way to a sandbox that somebody wants now. False: there is none. */
  async shedOne(except: Pool<Member> | undefined): Promise<boolean> {
    for (const pool of this.#pools.values()) if (pool !== except && (await pool.shed())) return true;
    return false;
  }

  /** Resolves when each template has `count` entries, or when memory does not allow it. */
  async filled(count: number, signal?: AbortSignal): Promise<void> {
    for (const pool of this.#pools.values()) await pool.filled(count, signal);
  }

  abandon(): void {
    for (const pool of this.#pools.values()) pool.abandon();
  }

  async close(): Promise<void> {
    await Promise.all([...this.#pools.values()].map((pool) => pool.close()));
  }

  async #grow(template: ReadyTemplate, signal: AbortSignal): Promise<Member> {
    const { fleet, rows } = this.#options;
    const env = (id: string): Record<string, string> => environment(template, id, {});
    const member = await fleet.grow(template, { signal, allowInternet: true, env, forPool: true });
    try {
      // A rehearsal: what the claim will ask of it has then been done once.
      const agent = await member.agent();
      await agent.identity({ env: env(member.id) }, signal);
      for (let count = 0; count < REHEARSALS; count++) await agent.ping(signal);
      // Parked, it sends nothing; a claim that wants no internet takes its grant back before it wakes.
      await member.machine.park();
      if (!rows.move(member.id, 'preparing', 'hot')) throw new Error('the row of a growing entry changed');
    } catch (error) {
      await fleet.bury(member, 'growth failed');
      throw error;
    }
    return member;
  }
}
