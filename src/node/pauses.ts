/**
 * Pausing and resuming. A paused sandbox runs nowhere; what it is, its row says. Where its isolation can capture memory, or
 * only the disk is wanted, it is kept on disk and nothing of it stays on the host; else its machine holds it, parked. Each
 * verb writes its intent, acts, and writes the fact, one at a time on one sandbox; a kill waits for none of them, and whoever
 * finds its sandbox killed under way gives up.
 *
 * A crash under way ends in a paused sandbox either way (state.ts): what was to be captured is captured, and a checkpoint
 * stays until what was made of it runs. What is restored is of a new generation; a thaw restores nothing.
 */
import { CoppiceError, isCoppiceError } from '../contract/errors.ts';
import type { Receipt, ResumeWish } from '../contract/node-api.ts';
import type { Log } from '../telemetry/log.ts';
import type { Captures } from './captures.ts';
import type { Aside, Fleet } from './fleet.ts';
import type { KeptSandboxes } from './kept.ts';
import type { KnownTemplates } from './known-templates.ts';
import { runHooks } from './lifecycle-hooks.ts';
import type { Member } from './member.ts';
import { environment, type ReadyTemplate } from './nursery.ts';
import { notFound } from './ownership.ts';
import { ReceiptClock } from './receipt.ts';
import type { Revival } from './revival.ts';
import type { Kept, MachineRow, Owner, Rows } from './rows.ts';
import type { Turns } from './turns.ts';
import type { VolumeService } from './volume-service.ts';
import type { Volumes } from './volumes.ts';

export interface PausesOptions {
  readonly rows: Rows;
  readonly fleet: Fleet;
  readonly templates: KnownTemplates;
  readonly captures: Captures;
  readonly kept: KeptSandboxes;
  readonly revival: Revival;
  readonly turns: Turns;
  readonly volumes: Volumes;
  readonly volumeService: VolumeService;
  /** Aborts when the node stops. */
  readonly stopping: AbortSignal;
  readonly log: Log;
}

/** When a pause at the deadline failed, it is tried again after this. */
const RETRY_MS = 5_000;
/** The longest that a capture may take. */
const CAPTURE_MS = 120_000;

export class Pauses {
  readonly #options: PausesOptions;

  constructor(options: PausesOptions) {
    this.#options = options;
  }

  /** `conflict`: it is paused already. `not_implemented`: its isolation cannot. */
  async pause(id: string, memory: boolean): Promise<Receipt> {
    const clock = new ReceiptClock('pause');
    return this.#inTurn(id, async () => {
      const row = await this.#settled(id);
      if (row?.state === 'paused') throw new CoppiceError('conflict', `Sandbox "${id}" is already paused`);
      await this.#pause(id, row, memory, clock);
      return clock.finish();
    });
  }

  /** Runs again until the wished time from now. undefined: it runs already, and nothing was done. */
  async resume(id: string, wish: ResumeWish): Promise<Receipt | undefined> {
    const { fleet } = this.#options;
    const clock = new ReceiptClock('resume');
    return this.#inTurn(id, async () => {
      const row = await this.#settled(id);
      if (row?.state === 'running' && fleet.sandbox(id)) return undefined;
      await this.#resume(id, row, wish, clock);
      return clock.finish();
    });
  }

  /** What is running or paused becomes what is kept at `from`, which is a checkpoint of its own, and runs. */
  async rollBack(
    id: string,
    from: string,
    to: { readonly memory: boolean; readonly parentID: string },
  ): Promise<Receipt> {
    const { rows, fleet, kept, log } = this.#options;
    const clock = new ReceiptClock('rollback');
    return this.#inTurn(id, async () => {
      const row = await this.#settled(id);
      if (!row?.owner || (row.state !== 'running' && row.state !== 'paused')) throw notFound(id);
      const wasRunning = row.state === 'running';
      const plan = await kept.plan(id, to.memory);
      await kept.link(id, plan, from);
      const member = fleet.sandbox(id);
      if (!rows.beginRollback(id, row.state, plan, to.parentID)) throw notFound(id);
      if (member) fleet.setAside(member);
      await fleet.letGo(id);
      await kept.tidy(id, plan);
      clock.stage('undo');
      const left = row.owner.endAtMs - Date.now();
      const timeoutMs = wasRunning ? Math.max(left, 1_000) : row.owner.timeoutMs;
      await this.#restore(id, rows.get(id), { memory: to.memory, timeoutMs }, clock);
      log.info({ sandboxID: id, to: to.parentID }, 'sandbox rolled back');
      return clock.finish();
    });
  }

  /** For a sandbox that is set aside: what a verb left half done, in this process or one before, becomes a pause. */
  async settle(id: string): Promise<void> {
    await this.#inTurn(id, () => this.#settled(id));
  }

  /** A sandbox's time is up: what its owner wished for is done. */
  async due(member: Member): Promise<void> {
    const { rows, fleet, log } = this.#options;
    const { id } = member;
    const owner = rows.get(id)?.owner;
    if (owner?.onTimeout !== 'pause') return fleet.bury(member, 'its time was up');
    await this.#inTurn(id, async () => {
      const row = rows.get(id);
      // Its turn may have come late, and it was killed, paused or given more time meanwhile.
      if (row?.state !== 'running' || row.owner!.endAtMs > Date.now()) return;
      try {
        await this.#pause(id, row, owner.pauseMemory, new ReceiptClock('pause'));
        log.info({ sandboxID: id }, 'paused a sandbox whose time was up');
      } catch (error) {
        log.error({ error, sandboxID: id }, 'a sandbox could not be paused when its time was up; tried again');
        if (fleet.sandbox(id)) fleet.moveDeadline(id, Date.now() + RETRY_MS);
      }
    });
  }

  /**
   * The service ends, and machines with it: what its owner wants paused rather than ended is kept on disk, with its memory
   * where that can be. False: it cannot be kept.
   */
  async keep(id: string): Promise<boolean> {
    const { rows, fleet, log } = this.#options;
    try {
      return await this.#inTurn(id, async () => {
        const row = await this.#settled(id);
        if (row?.state === 'running' && row.owner?.onTimeout === 'pause')
          await this.#pause(id, row, row.owner.pauseMemory, new ReceiptClock('pause'));
        const aside = fleet.aside(id);
        if (aside?.machine && rows.get(id)?.state === 'paused') await this.#toDisk(id, aside);
        return fleet.aside(id)?.machine === undefined && rows.get(id)?.state === 'paused';
      });
    } catch (error) {
      log.warn({ error, sandboxID: id }, 'a sandbox could not be kept on disk when the service ended');
      return false;
    }
  }

  /**
   * A sandbox whose machine ended with its host goes on as what was saved of its disk, if its owner wants it paused rather
   * than ended: by his wish for its deadline, or since he has paused it.
   */
  async salvage(row: MachineRow): Promise<boolean> {
    const { captures, kept, rows, templates, log } = this.#options;
    const { id, owner, record, state } = row;
    if ((state === 'running' && owner?.onTimeout !== 'pause') || !record) return false;
    try {
      const backend = captures.backendOf(row);
      if (!backend.salvage) return false;
      const base = await templates.base(row.baseID);
      const plan = await kept.plan(id, false);
      const request = { image: base.image, shape: base.shape, base: base.checkpoint };
      await backend.salvage(record, request, kept.pathOf(id, plan), AbortSignal.timeout(CAPTURE_MS));
      return rows.salvage(id, plan, Date.now());
    } catch (error) {
      log.warn({ error, sandboxID: id }, 'nothing could be saved of a sandbox that ended with its host');
      return false;
    }
  }

  /**
   * Whoever finds its sandbox killed under way gives up. What a verb that failed has put on disk goes, and so does what came
   * too late for the burial.
   */
  async #inTurn<T>(id: string, verb: () => Promise<T>): Promise<T> {
    const { rows, kept, turns } = this.#options;
    return turns.take(id, async () => {
      let failed = true;
      try {
        const result = await verb();
        failed = false;
        return result;
      } catch (error) {
        throw isGone(rows.get(id)) ? notFound(id) : error;
      } finally {
        const row = rows.get(id);
        if (isGone(row)) await kept.tidy(id, undefined);
        else if (failed && (row.state === 'running' || row.state === 'paused')) await kept.tidy(id, row.kept);
      }
    });
  }

  /** The row, between two verbs. What a verb that failed half way left of it is a paused sandbox. */
  async #settled(id: string): Promise<MachineRow | undefined> {
    const { rows, fleet, kept } = this.#options;
    const row = rows.get(id);
    if (row?.state === 'resuming') {
      if (row.kept) await fleet.letGo(id);
      else await fleet.aside(id)?.machine?.park();
      rows.move(id, 'resuming', 'paused');
    } else if (row?.state === 'pausing') {
      const machine = fleet.aside(id)?.machine;
      if (!row.kept) await machine?.park();
      else if (!kept.isThere(id, row.kept)) {
        if (!machine) throw new CoppiceError('unavailable', `the machine of sandbox ${id} is gone`);
        await kept.tidy(id, row.kept);
        await this.#captureAgain(row as Owned, machine, row.kept);
      }
      rows.settlePause(id, Date.now());
      if (row.kept) await fleet.letGo(id);
    } else return row;
    return rows.get(id);
  }

  async #pause(id: string, row: MachineRow | undefined, memory: boolean, clock: ReceiptClock): Promise<void> {
    const { rows, fleet, kept, captures, log } = this.#options;
    const member = fleet.sandbox(id);
    if (!row?.owner || !member) throw notFound(id);
    const { memoryCheckpoint, diskSnapshot, lastingPark } = captures.backendOf(row).capabilities;
    const captured = memory ? memoryCheckpoint : diskSnapshot;
    if (!captured && !(memory && lastingPark))
      throw new CoppiceError('not_implemented', `pause is not implemented for this kind of sandbox yet`);
    const plan = captured ? await kept.plan(id, memory) : undefined;
    if (!rows.beginPause(id, plan)) throw notFound(id);
    const { machine } = member;
    try {
      if (plan) {
        // Reachable until its capture: what comes too late for it is cut with its streams.
        const { pauseMs } = await this.#capture(row, machine, plan, member);
        clock.paused(pauseMs);
        fleet.setAside(member);
      } else {
        fleet.setAside(member);
        await machine.park();
      }
    } catch (error) {
      await this.#undoPause(row as Owned, member);
      if (isCoppiceError(error) && error.code !== 'internal') throw error;
      throw new CoppiceError('internal', `sandbox ${id} could not be paused`, { cause: error });
    }
    clock.stage('capture');
    if (!rows.settlePause(id, Date.now())) throw notFound(id);
    if (plan) await fleet.letGo(id);
    clock.stage('release');
    log.info({ sandboxID: id, memory, onDisk: plan !== undefined }, 'sandbox paused');
  }

  /** Its guest is asked as by any pause, if it can be woken. */
  async #captureAgain(row: Owned, machine: NonNullable<Aside['machine']>, plan: Kept): Promise<void> {
    const { fleet, revival, log } = this.#options;
    let member: Member | undefined;
    try {
      machine.unpark();
      member = revival.around(row, machine, fleet.aside(row.id));
    } catch (error) {
      log.warn({ error, sandboxID: row.id }, 'a sandbox is captured as it stands: it does not wake');
    }
    try {
      await this.#capture(row, machine, plan, member);
    } finally {
      member?.end('the sandbox was paused');
    }
  }

  #capture(row: MachineRow, machine: NonNullable<Aside['machine']>, plan: Kept, member?: Member) {
    const { captures, kept } = this.#options;
    const signal = AbortSignal.timeout(CAPTURE_MS);
    const wish = { memory: plan.memory, goesOn: false, signal, ...(member ? { member } : {}) };
    return captures.capture(row, machine, kept.pathOf(row.id, plan), wish);
  }

  /** What a parked machine holds goes to disk, as far as it can. */
  async #toDisk(id: string, { machine }: Aside): Promise<void> {
    const { rows, fleet, kept, captures } = this.#options;
    const row = rows.get(id);
    if (!row || !machine) return;
    const plan = await kept.plan(id, captures.backendOf(row).capabilities.memoryCheckpoint);
    await this.#capture(row, machine, plan);
    if (!rows.keep(id, plan)) return;
    await fleet.letGo(id);
  }

  /** It goes on as before, its streams cut. */
  async #undoPause(row: Owned, member: Member): Promise<void> {
    const { rows, fleet, revival } = this.#options;
    try {
      member.machine.unpark();
    } catch (error) {
      // Nothing of it runs, and the next verb on it finishes the pause.
      if (fleet.sandbox(row.id) === member) fleet.setAside(member);
      throw error;
    }
    if (!rows.undoPause(row.id)) return;
    if (fleet.sandbox(row.id) === member) return;
    fleet.handOut(revival.around(row, member.machine, fleet.aside(row.id)), row.owner.endAtMs);
  }

  async #resume(id: string, row: MachineRow | undefined, wish: ResumeWish, clock: ReceiptClock): Promise<void> {
    const { rows, fleet, log } = this.#options;
    const aside = fleet.aside(id);
    if (!row?.owner || !aside) throw notFound(id);
    const reboots = wish.memory === false;
    if (aside.machine && reboots) {
      await this.#forgetMemory(id, row, aside.machine);
      clock.stage('capture');
    }
    const timeoutMs = wish.timeoutSeconds * 1000;
    if (aside.machine && !reboots) await this.#thaw(row as Owned, aside, timeoutMs, clock);
    else {
      if (!rows.move(id, 'paused', 'resuming')) throw notFound(id);
      await this.#restore(id, rows.get(id), { memory: !reboots, timeoutMs }, clock);
    }
    log.info({ sandboxID: id }, 'sandbox resumed');
  }

  /** The disk of a sandbox that its machine holds is all that is kept of it from now on. */
  async #forgetMemory(id: string, row: MachineRow, machine: NonNullable<Aside['machine']>): Promise<void> {
    const { rows, fleet, kept } = this.#options;
    const plan = await kept.plan(id, false);
    await this.#capture(row, machine, plan);
    if (!rows.keep(id, plan)) throw notFound(id);
    await fleet.letGo(id);
  }

  /** Its machine holds it: it is woken. */
  async #thaw(row: Owned, aside: Aside, timeoutMs: number, clock: ReceiptClock): Promise<void> {
    const { rows, captures, revival } = this.#options;
    const { id } = row;
    const machine = aside.machine!;
    const member = revival.around(row, machine, aside);
    if (!rows.move(id, 'paused', 'resuming')) throw notFound(id);
    try {
      machine.unpark();
      // An agent on demand may not be there at all, and comes when somebody asks.
      if (!captures.backendOf(row).capabilities.agentOnDemand) await member.agent();
    } catch (error) {
      member.end('it did not wake');
      await machine.park();
      rows.move(id, 'resuming', 'paused');
      throw new CoppiceError('guest_unresponsive', `sandbox ${id} did not wake; it is paused as before`, {
        cause: error,
      });
    }
    clock.stage('thaw');
    await this.#settleResume(member, timeoutMs);
  }

  /** It is kept on disk, and its row says that it is resuming: a machine is made of it. On failure it is paused as before. */
  async #restore(
    id: string,
    row: MachineRow | undefined,
    wish: { readonly memory: boolean; readonly timeoutMs: number },
    clock: ReceiptClock,
  ): Promise<void> {
    const { rows, fleet, kept, captures, templates, volumes, volumeService, stopping, log } = this.#options;
    if (!row?.owner || !row.kept) throw notFound(id);
    const { owner } = row;
    try {
      const opened = await captures.open(row, kept.pathOf(id, row.kept), wish.memory ? 'whole' : 'disk');
      const source = asSandboxOf(opened, row, templates);
      const later = volumeService.serves(source.isolation);
      const member = await fleet.regrow(id, source, {
        signal: stopping,
        allowInternet: owner.allowInternet !== false,
        volumes: later ? [] : volumes.machineVolumes(owner.volumes),
        env: () => environment(source, id, owner.env),
        forPool: false,
        stage: (name) => clock.stage(name),
      });
      if (later && owner.volumes.length > 0) {
        // A memory has them mounted.
        if (source.checkpoint.manifest.memory === 'own') await volumeService.open(member);
        else await volumeService.mount(member, owner.volumes, stopping);
      }
      await this.#settleResume(member, wish.timeoutMs);
    } catch (error) {
      // Of a machine that ended when it was made already.
      await fleet.letGo(id);
      rows.move(id, 'resuming', 'paused');
      log.warn({ error, sandboxID: id }, 'a sandbox could not be resumed; it is paused as before');
      throw error;
    }
    await kept.tidy(id, undefined);
  }

  async #settleResume(member: Member, timeoutMs: number): Promise<void> {
    const { rows, fleet, revival } = this.#options;
    const { id } = member;
    const row = rows.get(id);
    if (row?.owner) revival.assign(member, row.owner);
    await this.#tellResumed(member);
    const now = Date.now();
    if (!fleet.lives(member) || !rows.settleResume(id, now, now + timeoutMs)) {
      member.end('its machine ended');
      if (rows.get(id)?.state !== 'resuming') throw notFound(id);
      throw new CoppiceError('guest_unresponsive', `the machine of sandbox ${id} ended as it was resumed`);
    }
    fleet.handOut(member, now + timeoutMs);
  }

  /** An agent on demand that is not there is not started for it: nothing of its sandbox would have changed since it came. */
  async #tellResumed(member: Member): Promise<void> {
    const { captures, rows, log } = this.#options;
    const row = rows.get(member.id);
    if (!row || captures.backendOf(row).capabilities.agentOnDemand) return;
    await member
      .agent()
      .then((agent) => runHooks(agent, 'after-resume', log))
      .catch((error: unknown) =>
        log.warn({ error, sandboxID: member.id }, 'a guest could not be told that it goes on'),
      );
  }
}

/** Or on its way out. */
function isGone(row: MachineRow | undefined): row is undefined {
  return row === undefined || row.state === 'killing';
}

type Owned = MachineRow & { readonly owner: Owner };

/** What was captured of a sandbox, told to be of what the sandbox was made from. */
function asSandboxOf(opened: ReadyTemplate, row: MachineRow, templates: KnownTemplates): ReadyTemplate {
  const { templateID, env } = templates.of(row) ?? opened;
  return { ...opened, templateID, env };
}
