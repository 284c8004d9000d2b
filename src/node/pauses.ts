/**
 * Pausing and resuming. A paused sandbox holds everything it had and gets no processor; what it is, its row says. Each
 * verb writes its intent, acts, and writes the fact, one at a time on one sandbox; a kill waits for none of them, and
 * whoever finds its sandbox killed under way gives up.
 *
 * A crash under way ends in a paused sandbox either way (state.ts). A thaw restores nothing, so the generation stays.
 */
import { CoppiceError } from '../contract/errors.ts';
import type { Machine } from '../isolation/backend.ts';
import type { Backends } from '../isolation/backends.ts';
import type { Log } from '../telemetry/log.ts';
import type { Fleet } from './fleet.ts';
import type { KnownTemplates } from './known-templates.ts';
import type { Member } from './member.ts';
import { notFound } from './ownership.ts';
import { revive } from './revival.ts';
import type { MachineRow, Owner, Rows } from './rows.ts';
import type { Turns } from './turns.ts';
import type { Views } from './views.ts';

export interface PausesOptions {
  readonly backends: Backends;
  readonly rows: Rows;
  readonly fleet: Fleet;
  readonly templates: KnownTemplates;
  readonly views: Views;
  readonly turns: Turns;
  readonly log: Log;
}

/** When a pause at the deadline failed, it is tried again after this. */
const RETRY_MS = 5_000;

export class Pauses {
  readonly #options: PausesOptions;

  constructor(options: PausesOptions) {
    this.#options = options;
  }

  /** `conflict`: it is paused already. `not_implemented`: its isolation cannot. */
  async pause(id: string): Promise<void> {
    await this.#options.turns.take(id, async () => {
      const row = await this.#settled(id);
      if (row?.state === 'paused') throw new CoppiceError('conflict', `Sandbox "${id}" is already paused`);
      await this.#pause(id, row);
    });
  }

  /** Runs again until `timeoutMs` from now. False: it runs already, and nothing was done. */
  async resume(id: string, timeoutMs: number): Promise<boolean> {
    const { fleet, turns } = this.#options;
    return turns.take(id, async () => {
      const row = await this.#settled(id);
      if (row?.state === 'running' && fleet.sandbox(id)) return false;
      await this.#resume(id, row, timeoutMs);
      return true;
    });
  }

  /** For a sandbox that is set aside: what a verb left half done, in this process or one before, becomes a pause. */
  async settle(id: string): Promise<void> {
    await this.#options.turns.take(id, () => this.#settled(id));
  }

  /** A sandbox's time is up: what its owner wished for is done. */
  async due(member: Member): Promise<void> {
    const { rows, fleet, turns, log } = this.#options;
    const { id } = member;
    if (rows.get(id)?.owner?.onTimeout !== 'pause') return fleet.bury(member, 'its time was up');
    await turns.take(id, async () => {
      const row = rows.get(id);
      // Its turn may have come late, and it was killed, paused or given more time meanwhile.
      if (row?.state !== 'running' || row.owner!.endAtMs > Date.now()) return;
      try {
        await this.#pause(id, row);
        log.info({ sandboxID: id }, 'paused a sandbox whose time was up');
      } catch (error) {
        log.error({ error, sandboxID: id }, 'a sandbox could not be paused when its time was up; tried again');
        if (fleet.sandbox(id)) fleet.moveDeadline(id, Date.now() + RETRY_MS);
      }
    });
  }

  /** The row, between two verbs. What a verb that failed half way left of it is a paused sandbox. */
  async #settled(id: string): Promise<MachineRow | undefined> {
    const { rows, fleet } = this.#options;
    const row = rows.get(id);
    if (row?.state !== 'pausing' && row?.state !== 'resuming') return row;
    await fleet.paused(id)?.machine.park();
    if (row.state === 'pausing') rows.settlePause(id, Date.now());
    else rows.move(id, 'resuming', 'paused');
    return rows.get(id);
  }

  async #pause(id: string, row: MachineRow | undefined): Promise<void> {
    const { rows, fleet, log } = this.#options;
    const member = fleet.sandbox(id);
    if (!row?.owner || !member) throw notFound(id);
    this.#demandAble(row);
    if (!rows.move(id, 'running', 'pausing')) throw notFound(id);
    fleet.setAside(member);
    try {
      await member.machine.park();
    } catch (error) {
      await this.#undoPause(row as Owned, member.machine, member);
      throw new CoppiceError('internal', `sandbox ${id} could not be paused`, { cause: error });
    }
    if (!rows.settlePause(id, Date.now())) throw notFound(id);
    log.info({ sandboxID: id }, 'sandbox paused');
  }

  /** It goes on as before, its streams cut. */
  async #undoPause(row: Owned, machine: Machine, before: Member): Promise<void> {
    const { rows, fleet } = this.#options;
    machine.unpark();
    if (!rows.move(row.id, 'pausing', 'running')) return;
    fleet.takeBack(this.#revive(row, machine, before), row.owner.endAtMs);
  }

  async #resume(id: string, row: MachineRow | undefined, timeoutMs: number): Promise<void> {
    const { backends, rows, fleet, log } = this.#options;
    const before = fleet.paused(id);
    if (!row?.owner || !before) throw notFound(id);
    const { machine } = before;
    const member = this.#revive(row as Owned, machine, before);
    if (!rows.move(id, 'paused', 'resuming')) throw notFound(id);
    try {
      machine.unpark();
      // An agent on demand may not be there at all, and comes when somebody asks.
      if (!this.#capabilities(backends, row).agentOnDemand) await member.agent();
    } catch (error) {
      member.end('it did not wake');
      await machine.park();
      rows.move(id, 'resuming', 'paused');
      throw new CoppiceError('guest_unresponsive', `sandbox ${id} did not wake; it is paused as before`, {
        cause: error,
      });
    }
    const now = Date.now();
    if (!rows.settleResume(id, now, now + timeoutMs)) {
      member.end('the sandbox was killed');
      throw notFound(id);
    }
    fleet.takeBack(member, now + timeoutMs);
    log.info({ sandboxID: id }, 'sandbox resumed');
  }

  #revive(row: Owned, machine: Machine, before: Member): Member {
    const { backends, templates, views, log } = this.#options;
    const template = templates.of(row);
    if (!template) throw new CoppiceError('template_not_found', `the template of sandbox ${row.id} is gone`);
    const member = revive(row, template, machine, { attachment: before.attachment, backends, views, log });
    member.internet = before.internet;
    return member;
  }

  #demandAble(row: MachineRow): void {
    const { backends, templates } = this.#options;
    if (this.#capabilities(backends, row).pause) return;
    const isolation = templates.of(row)?.isolation;
    throw new CoppiceError('not_implemented', `pause is not implemented for ${isolation} sandboxes yet`);
  }

  #capabilities(backends: Backends, row: MachineRow) {
    const found = backends.all.find(({ name }) => name === row.record?.backend);
    if (!found) throw new CoppiceError('host_unfit', `the backend of sandbox ${row.id} does not work on this host`);
    return found.capabilities;
  }
}

type Owned = MachineRow & { readonly owner: Owner };
