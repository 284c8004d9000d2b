/**
 * Every machine of this process that is more than a row: grown, handed out, being ended. One place decides that a machine
 * is counted, watched and buried exactly once.
 */
import type { Machine } from '../isolation/backend.ts';
import type { Backends } from '../isolation/backends.ts';
import type { Log } from '../telemetry/log.ts';
import { Admission } from './admission.ts';
import { Deadlines } from './deadlines.ts';
import type { Member } from './member.ts';
import type { GrowthWish, Nursery, ReadyTemplate, Template } from './nursery.ts';
import type { Rows } from './rows.ts';

export interface FleetOptions {
  readonly backends: Backends;
  readonly nursery: Nursery;
  readonly rows: Rows;
  /** MiB that all machines may claim together; undefined: a share of the host's memory. */
  readonly memoryBudgetMB: number | undefined;
  /** A sandbox's time is up. */
  readonly onDue: (member: Member) => Promise<void>;
  /** A machine ended by itself, before its burial begins. */
  readonly onDeath: (member: Member) => void;
  readonly log: Log;
}

/** How often unused sessions are looked for. */
const REST_MS = 5_000;

export class Fleet {
  readonly #options: FleetOptions;
  readonly #admission: Admission;
  readonly #deadlines = new Deadlines((id) => void this.#due(id));
  /** Everything that lives, by id: the hot tier, sandboxes, paused ones. */
  readonly #members = new Map<string, Member>();
  /** Handed-out sandboxes, by id: what traffic may reach. */
  readonly #sandboxes = new Map<string, Member>();
  /** Sandboxes that are paused, or on their way into or out of it. Their members have ended; the machines live. */
  readonly #paused = new Map<string, Member>();
  readonly #burials = new Map<string, Promise<void>>();
  #stopped = false;
  readonly #resting: NodeJS.Timeout;

  constructor(options: FleetOptions) {
    this.#options = options;
    this.#admission = new Admission(options.memoryBudgetMB);
    this.#resting = setInterval(() => {
      for (const member of this.#sandboxes.values()) member.rest();
    }, REST_MS);
    this.#resting.unref();
  }

  get size(): number {
    return this.#sandboxes.size;
  }

  sandbox(id: string): Member | undefined {
    return this.#sandboxes.get(id);
  }

  sandboxes(): IterableIterator<Member> {
    return this.#sandboxes.values();
  }

  paused(id: string): Member | undefined {
    return this.#paused.get(id);
  }

  /** A running or a paused one. */
  has(id: string): boolean {
    return this.#sandboxes.has(id) || this.#paused.has(id);
  }

  isBeingBuried(id: string): boolean {
    return this.#burials.has(id);
  }

  /** Ids that the host may still hold something of, whatever the rows say. */
  buried(): IterableIterator<string> {
    return this.#burials.keys();
  }

  /** Whether there is memory for one more. */
  fits(template: Template): boolean {
    return this.#admission.fits(this.#countedMB(template));
  }

  /** Throws `capacity` when there is no room. */
  async grow(template: ReadyTemplate, wish: GrowthWish): Promise<Member> {
    const ticket = `growing:${crypto.randomUUID()}`;
    this.#admission.take(ticket, this.#countedMB(template));
    try {
      const member = await this.#options.nursery.grow(template, wish);
      this.watch(member, template);
      return member;
    } finally {
      this.#admission.release(ticket);
    }
  }

  /** Counts a machine that lives, and buries it when it ends by itself. */
  watch(member: Member, template: Template): void {
    const { id, machine } = member;
    this.#admission.adopt(id, this.#countedMB(template));
    this.#members.set(id, member);
    void machine.exited.then(({ reason }) => this.#died(id, machine, reason));
  }

  /** From here on it is somebody's, until `endAtMs`. */
  handOut(member: Member, endAtMs: number): void {
    // It may have died in the meantime.
    if (member.ended) return;
    this.#sandboxes.set(member.id, member);
    this.#deadlines.set(member.id, endAtMs);
  }

  /** Out of the reach of traffic, its streams cut, its deadline off. The machine stays, and stays watched. */
  setAside(member: Member): void {
    this.#paused.set(member.id, member);
    this.#sandboxes.delete(member.id);
    this.#deadlines.delete(member.id);
    member.end('the sandbox was paused');
  }

  /** The reverse, with a new member around the same machine. */
  takeBack(member: Member, endAtMs: number): void {
    this.#paused.delete(member.id);
    this.#members.set(member.id, member);
    this.handOut(member, endAtMs);
  }

  moveDeadline(id: string, endAtMs: number): void {
    this.#deadlines.set(id, endAtMs);
  }

  /** Durable intent, then streams cut, then everything undone. Callers may come twice; the work is done once. */
  bury(member: Member, reason: string): Promise<void> {
    const underway = this.#burials.get(member.id);
    if (underway) return underway;
    const { rows, nursery, log } = this.#options;
    rows.intendKill(member.id);
    this.#members.delete(member.id);
    this.#sandboxes.delete(member.id);
    this.#paused.delete(member.id);
    this.#deadlines.delete(member.id);
    member.end(reason);
    const burial = nursery
      .bury(member.id, member.machine, rows.get(member.id)?.uid)
      .then(() => log.info({ sandboxID: member.id, reason }, 'machine ended'))
      .catch((error) =>
        log.error({ error, sandboxID: member.id }, 'a machine could not be ended; the reconciler tries again'),
      )
      .finally(() => {
        this.#admission.release(member.id);
        this.#burials.delete(member.id);
      });
    this.#burials.set(member.id, burial);
    return burial;
  }

  /** No deadline fires and no death is acted on any more. */
  freeze(): void {
    this.#stopped = true;
    clearInterval(this.#resting);
    this.#deadlines.stop();
  }

  /** Ends every sandbox, paused ones too (what they hold is in the host's memory), and waits for all burials. */
  async clear(reason: string): Promise<void> {
    const all = [...this.#sandboxes.values(), ...this.#paused.values()];
    await Promise.all(all.map((member) => this.bury(member, reason)));
    await Promise.all(this.#burials.values());
  }

  #countedMB(template: Template): number {
    const { overcommit, overheadMB } = this.#options.backends.of(template.isolation).capabilities.admission;
    return Math.ceil(template.shape.memoryMB / overcommit) + overheadMB;
  }

  async #due(id: string): Promise<void> {
    const member = this.#sandboxes.get(id);
    if (member) await this.#options.onDue(member);
  }

  #died(id: string, machine: Machine, reason: string): void {
    const member = this.#members.get(id);
    if (member?.machine !== machine || this.#stopped) return;
    this.#options.onDeath(member);
    void this.bury(member, `its machine ended: ${reason}`);
  }
}
