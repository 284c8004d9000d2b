/**
 * Every machine of this process that is more than a row: grown, handed out, being ended. One place decides that a machine
 * is counted, watched and buried exactly once.
 */
import { CoppiceError } from '../contract/errors.ts';
import type { Machine } from '../isolation/backend.ts';
import type { Backends } from '../isolation/backends.ts';
import type { Attachment } from '../network/fabric.ts';
import type { Log } from '../telemetry/log.ts';
import { Admission } from './admission.ts';
import { Deadlines } from './deadlines.ts';
import type { Member } from './member.ts';
import type { GrowthWish, LentPlace, Nursery, ReadyTemplate, Template } from './nursery.ts';
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
  readonly onDeath: (id: string) => void;
  /** It is somebody's from here on, or again. */
  readonly onHandOut?: (member: Member) => void;
  readonly log: Log;
}

/** A sandbox that is paused, or on its way into or out of it. */
export interface Aside {
  readonly id: string;
  /** undefined: it is kept on disk, and nothing of it is on the host. */
  readonly machine: Machine | undefined;
  readonly attachment: Attachment | undefined;
  /** What the fabric lets it do. */
  readonly internet: boolean;
}

/** What of a template says how much room its machines take. */
type Counted = Pick<Template, 'isolation' | 'shape'>;

/** When what was due at a deadline failed, it is tried again after this. */
const RETRY_MS = 5_000;
/** How often unused sessions are looked for. */
const REST_MS = 5_000;

export class Fleet {
  readonly #options: FleetOptions;
  readonly #admission: Admission;
  readonly #deadlines = new Deadlines((id) => void this.#due(id));
  /** Every machine that lives, by id: the hot tier's, sandboxes', paused ones'. */
  readonly #machines = new Map<string, Machine>();
  /** Handed-out sandboxes, by id: what traffic may reach. */
  readonly #sandboxes = new Map<string, Member>();
  readonly #aside = new Map<string, Aside>();
  /** Sandboxes that are given a machine at this moment; `over` never rejects. */
  readonly #regrowths = new Map<string, { readonly abort: AbortController; readonly over: Promise<unknown> }>();
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

  aside(id: string): Aside | undefined {
    return this.#aside.get(id);
  }

  allAside(): IterableIterator<Aside> {
    return this.#aside.values();
  }

  /** A running or a paused one. */
  has(id: string): boolean {
    return this.#sandboxes.has(id) || this.#aside.has(id);
  }

  /** Whether its machine is there, as far as is known. */
  lives({ id, machine }: Member): boolean {
    return this.#machines.get(id) === machine;
  }

  isBeingBuried(id: string): boolean {
    return this.#burials.has(id);
  }

  /** Ids that the host may still hold something of, whatever the rows say. */
  buried(): IterableIterator<string> {
    return this.#burials.keys();
  }

  /** Whether there is memory for one more. */
  fits(template: Counted): boolean {
    return this.#admission.fits(this.#countedMB(template));
  }

  /** Throws `capacity` when there is no room. */
  async grow(template: ReadyTemplate, wish: GrowthWish, parentID?: string): Promise<Member> {
    const ticket = `growing:${crypto.randomUUID()}`;
    this.#admission.take(ticket, this.#countedMB(template));
    try {
      const member = await this.#options.nursery.grow(template, wish, parentID);
      this.watch(member.machine, template);
      return member;
    } finally {
      this.#admission.release(ticket);
    }
  }

  /** Room and a place for a machine that is nobody's sandbox, see Nursery.lend. Throws `capacity` as above. */
  async lend<T>(counted: Counted, signal: AbortSignal, work: (place: LentPlace) => Promise<T>): Promise<T> {
    const ticket = `lent:${crypto.randomUUID()}`;
    this.#admission.take(ticket, this.#countedMB(counted));
    try {
      return await this.#options.nursery.lend(counted.isolation, signal, work);
    } finally {
      this.#admission.release(ticket);
    }
  }

  /** A machine for a sandbox that is aside without one; a burial of the sandbox ends it. Throws `capacity` as above. */
  async regrow(id: string, template: ReadyTemplate, wish: GrowthWish): Promise<Member> {
    const abort = new AbortController();
    this.#admission.take(id, this.#countedMB(template));
    const signal = AbortSignal.any([wish.signal, abort.signal]);
    const growth = this.#options.nursery.regrow(id, template, { ...wish, signal });
    const over = growth.catch(() => {});
    this.#regrowths.set(id, { abort, over });
    try {
      const member = await growth;
      this.watch(member.machine, template);
      return member;
    } catch (error) {
      this.#admission.release(id);
      throw error;
    } finally {
      this.#regrowths.delete(id);
    }
  }

  /** Counts a machine that lives, and buries it when it ends by itself. */
  watch(machine: Machine, template: Template): void {
    const { id } = machine;
    this.#admission.adopt(id, this.#countedMB(template));
    this.#machines.set(id, machine);
    void machine.exited.then(({ reason }) => this.#died(machine, reason));
  }

  /** From here on it is somebody's, until `endAtMs`. */
  handOut(member: Member, endAtMs: number): void {
    // It may have died in the meantime.
    if (member.ended) return;
    this.#options.onHandOut?.(member);
    this.#aside.delete(member.id);
    this.#sandboxes.set(member.id, member);
    this.#deadlines.set(member.id, endAtMs);
  }

  /** Out of the reach of traffic, its streams cut, its deadline off. The machine stays, and stays watched. */
  setAside(member: Member): Aside {
    const { id, machine, attachment, internet } = member;
    const aside = { id, machine, attachment, internet };
    this.#aside.set(id, aside);
    this.#sandboxes.delete(id);
    this.#deadlines.delete(id);
    member.end('the sandbox was paused');
    return aside;
  }

  /** One of an earlier process. */
  adoptAside(aside: Aside): void {
    this.#aside.set(aside.id, aside);
  }

  /** Ends the machine of a sandbox that is kept on disk, with everything it has on the host; the sandbox stays, aside. */
  async letGo(id: string): Promise<void> {
    const { rows, nursery } = this.#options;
    const aside = this.#aside.get(id);
    if (!aside) return;
    this.#machines.delete(id);
    await nursery.unmake(id, aside.machine, rows.get(id)?.uid);
    this.#admission.release(id);
    // Unless it was buried meanwhile.
    if (this.#aside.has(id))
      this.#aside.set(id, { id, machine: undefined, attachment: undefined, internet: aside.internet });
  }

  moveDeadline(id: string, endAtMs: number): void {
    this.#deadlines.set(id, endAtMs);
  }

  /** Durable intent, then streams cut, then everything undone. Callers may come twice; the work is done once. */
  bury(which: string | Member, reason: string): Promise<void> {
    const id = typeof which === 'string' ? which : which.id;
    const underway = this.#burials.get(id);
    if (underway) return underway;
    const { rows, nursery, log } = this.#options;
    rows.intendKill(id, reason);
    const machine = this.#machines.get(id);
    const regrowth = this.#regrowths.get(id);
    this.#machines.delete(id);
    const member = typeof which === 'string' ? this.#sandboxes.get(id) : which;
    this.#sandboxes.delete(id);
    this.#aside.delete(id);
    this.#deadlines.delete(id);
    member?.end(reason);
    regrowth?.abort.abort(new CoppiceError('aborted', reason));
    const burial = (regrowth?.over ?? Promise.resolve())
      .then(() => nursery.bury(id, machine, rows.get(id)?.uid))
      .then(() => log.info({ sandboxID: id, reason }, 'machine ended'))
      .catch((error) => log.error({ error, sandboxID: id }, 'a machine could not be ended; the reconciler tries again'))
      .finally(() => {
        this.#admission.release(id);
        this.#burials.delete(id);
      });
    this.#burials.set(id, burial);
    return burial;
  }

  /** No deadline fires and no death is acted on any more. */
  freeze(): void {
    this.#stopped = true;
    clearInterval(this.#resting);
    this.#deadlines.stop();
  }

  /** Ends every sandbox that a machine holds, and waits for all burials. What is kept on disk stays. */
  async clear(reason: string): Promise<void> {
    const held = [...this.#aside.values()].filter(({ machine }) => machine !== undefined);
    await Promise.all([...this.#sandboxes.values(), ...held].map(({ id }) => this.bury(id, reason)));
    await Promise.all(this.#burials.values());
  }

  #countedMB(template: Counted): number {
    const { overcommit, overheadMB } = this.#options.backends.of(template.isolation).capabilities.admission;
    return Math.ceil(template.shape.memoryMB / overcommit) + overheadMB;
  }

  async #due(id: string): Promise<void> {
    const { onDue, log } = this.#options;
    const member = this.#sandboxes.get(id);
    if (!member) return;
    try {
      await onDue(member);
    } catch (error) {
      log.error({ error, sandboxID: id }, 'what was due at a deadline could not be done; tried again');
      if (!this.#stopped) this.#deadlines.set(id, Date.now() + RETRY_MS);
    }
  }

  #died(machine: Machine, reason: string): void {
    const { id } = machine;
    if (this.#machines.get(id) !== machine || this.#stopped) return;
    const { rows, onDeath } = this.#options;
    const { state, kept } = rows.get(id) ?? {};
    // What it was made of is still there: the verb that resumes it finds out, and it is paused as before.
    if (state === 'resuming' && kept) {
      this.#machines.delete(id);
      return;
    }
    onDeath(id);
    void this.bury(id, `its machine ended: ${reason}`);
  }
}
