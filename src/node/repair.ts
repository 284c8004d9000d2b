/** Makes host and rows agree: at the start, after whatever happened to the process before, and now and then. */
import type { Backends } from '../isolation/backends.ts';
import type { NetworkFabric } from '../network/fabric.ts';
import type { Log } from '../telemetry/log.ts';
import type { Fleet } from './fleet.ts';
import type { KnownTemplates } from './known-templates.ts';
import type { Nursery } from './nursery.ts';
import type { Pauses } from './pauses.ts';
import { revive } from './revival.ts';
import type { MachineRow, Rows } from './rows.ts';
import type { Snapshots } from './snapshots.ts';
import { AT_START } from './state.ts';
import type { Views } from './views.ts';

export interface RepairOptions {
  readonly backends: Backends;
  readonly fabric: NetworkFabric;
  readonly rows: Rows;
  readonly fleet: Fleet;
  readonly nursery: Nursery;
  readonly templates: KnownTemplates;
  readonly pauses: Pauses;
  readonly snapshots: Snapshots;
  readonly views: Views;
  readonly machinesFolder: string;
  readonly log: Log;
}

export class Repair {
  readonly #options: RepairOptions;

  constructor(options: RepairOptions) {
    this.#options = options;
  }

  /** Every row of the process before is adopted or swept, and so is everything that has no row. */
  async atStart(): Promise<void> {
    const { snapshots } = this.#options;
    for (const row of this.#options.rows.all()) await this.#takeOver(row);
    await snapshots.atStart();
    await this.#sweepStrangers();
  }

  async #takeOver(row: MachineRow): Promise<void> {
    const { backends, fabric, rows, fleet, nursery, templates, views, log } = this.#options;
    const fate = AT_START[row.state];
    const machine = fate !== 'sweep' && row.record ? await backends.adopt(row.record) : undefined;
    const template = templates.of(row);
    const { owner } = row;
    const late = fate === 'adopt' && owner?.onTimeout === 'kill' && owner.endAtMs <= Date.now();
    if (!machine || !template || !owner || late) {
      rows.intendKill(row.id);
      await nursery.bury(row.id, machine, row.uid);
      log.warn({ sandboxID: row.id, state: row.state }, 'swept what an earlier run left');
      return;
    }
    const attachment = (await fabric.attached()).find((one) => one.id === row.id);
    const member = revive({ ...row, owner }, template, machine, { attachment, backends, views, log });
    fleet.watch(member, template);
    if (fate === 'park') {
      fleet.setAside(member);
      await this.#settle(row);
      log.info({ sandboxID: row.id, state: row.state }, 'adopted a paused sandbox');
      return;
    }
    try {
      machine.unpark();
      // An agent on demand may not be there at all, and comes when somebody asks.
      if (!backends.of(template.isolation).capabilities.agentOnDemand) await member.agent();
    } catch (error) {
      // Neither whole nor reachable: its owner is better served by a clear end.
      log.warn({ error, sandboxID: row.id, state: row.state }, 'a sandbox does not answer its new node');
      await fleet.bury(member, 'it did not answer after a restart of the node');
      return;
    }
    fleet.handOut(member, owner.endAtMs);
    log.info({ sandboxID: row.id }, 'adopted a running sandbox');
  }

  /** Finishes what a verb left unfinished. Errors are logged: it is tried again at the next turn. */
  async now(): Promise<void> {
    const { rows, fleet, nursery, snapshots, log } = this.#options;
    try {
      for (const row of rows.all()) {
        if (row.state === 'killing' && !fleet.isBeingBuried(row.id)) await nursery.bury(row.id, undefined, row.uid);
        if (AT_START[row.state] === 'park') await this.#settle(row);
      }
      await snapshots.reconcile();
      await this.#sweepStrangers();
    } catch (error) {
      log.error({ error }, 'reconciling failed');
    }
  }

  /** What is paused stays untouched; what was on its way becomes so. A failure is logged, and it is tried again. */
  async #settle(row: MachineRow): Promise<void> {
    if (row.state === 'paused') return;
    const { pauses, log } = this.#options;
    await pauses
      .settle(row.id)
      .catch((error: unknown) => log.error({ error, sandboxID: row.id }, 'a pause could not be finished'));
  }

  /** Ends what is on the host in this home's name and in no row. */
  async #sweepStrangers(): Promise<void> {
    const { backends, fabric, rows, fleet, machinesFolder, log } = this.#options;
    const known = (): Set<string> => new Set([...rows.all().map((row) => row.id), ...fleet.buried()]);
    const strangers = new Set<string>();
    for (const item of await backends.census(machinesFolder)) strangers.add(item.id);
    for (const attachment of await fabric.attached()) strangers.add(attachment.id);
    for (const id of strangers) {
      if (known().has(id)) continue;
      await backends.sweep(id, machinesFolder);
      await fabric.detach(id);
      log.warn({ sandboxID: id }, 'swept a machine that no row accounts for');
    }
  }
}
