/**
 * The hot tier: machines that were made before anybody asked, parked. Of each template some are always there; of a snapshot
 * as many as were lately asked for, until it is deleted.
 */
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
  /** By build: a machine of one is none of another. */
  readonly #pools = new Map<string, Pool<Member>>();
  #started = false;
  #closed = false;

  constructor(options: HotTierOptions) {
    this.#options = options;
  }

  /** Begins to fill. */
  start(templates: readonly ReadyTemplate[]): void {
    this.#started = true;
    for (const template of templates) this.#open(template, this.#options.size.least);
    this.refill();
  }

  /** Of a template, or of a snapshot, which has one from its first create on. undefined: no hot tier is kept. */
  poolOf(template: ReadyTemplate): Pool<Member> | undefined {
    if (this.#closed || !this.#started) return undefined;
    return this.#pools.get(template.buildID) ?? this.#open(template, 0);
  }

  /** What it was filled with is gone: every entry is dropped. */
  async drain(buildID: string): Promise<void> {
    const pool = this.#pools.get(buildID);
    this.#pools.delete(buildID);
    await pool?.close();
  }

  #open(template: ReadyTemplate, least: number): Pool<Member> {
    const { fleet, size, log } = this.#options;
    const pool = new Pool<Member>({
      name: template.aliases[0] ?? template.templateID,
      grow: (signal) => this.#grow(template, signal),
      drop: (member) => fleet.bury(member, 'no longer needed'),
      room: () => fleet.fits(template),
      least,
      most: size.most,
      log,
    });
    this.#pools.set(template.buildID, pool);
    return pool;
  }

  get started(): boolean {
    return this.#started;
  }

  get size(): number {
    return [...this.#pools.values()].reduce((sum, pool) => sum + pool.size, 0);
  }

  get target(): number {
    return [...this.#pools.values()].reduce((sum, pool) => sum + pool.target, 0);
  }

  /** How many are ready. */
  count(buildID: string): number {
    return this.#pools.get(buildID)?.size ?? 0;
  }

  refill(): void {
    for (const pool of this.#pools.values()) pool.refill();
  }

  /** Gives up what lately was in demand and no longer is. */
  async trim(): Promise<void> {
    for (const pool of this.#pools.values()) await pool.trim();
  }

  /** An entry died while it was parked. */
  forget(id: string): void {
    const dead = (member: Member): boolean => {
      if (member.id === id) member.end('its machine ended');
      return member.id === id;
    };
    for (const pool of this.#pools.values()) if (pool.forget(dead)) pool.refill();
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
    this.#closed = true;
    for (const pool of this.#pools.values()) pool.abandon();
  }

  async close(): Promise<void> {
    this.#closed = true;
    await Promise.all([...this.#pools.values()].map((pool) => pool.close()));
  }

  async #grow(template: ReadyTemplate, signal: AbortSignal): Promise<Member> {
    const { fleet, rows } = this.#options;
    const env = (id: string): Record<string, string> => environment(template, id, {});
    // What runs in a snapshot's, or in what a team has built, is its owner's, who has not said yet what it may reach.
    const allowInternet = template.buildID === template.baseID && template.owner === undefined;
    const member = await fleet.grow(template, { signal, allowInternet, env, forPool: true });
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
