/** Makes host and rows agree: at the start, after whatever happened to the process before, and now and then. */
import type { Backends } from '../isolation/backends.ts';
import type { NetworkFabric } from '../network/fabric.ts';
import type { Log } from '../telemetry/log.ts';
import type { Captures } from './captures.ts';
import type { Fleet } from './fleet.ts';
import type { KeptSandboxes } from './kept.ts';
import type { KnownTemplates } from './known-templates.ts';
import type { Member } from './member.ts';
import type { Nursery } from './nursery.ts';
import type { Pauses } from './pauses.ts';
import type { Policies } from './policies.ts';
import type { Revival } from './revival.ts';
import type { MachineRow, Rows } from './rows.ts';
import type { Snapshots } from './snapshots.ts';
import { AT_START } from './state.ts';
import type { Turns } from './turns.ts';

export interface RepairOptions {
  readonly backends: Backends;
  readonly fabric: NetworkFabric;
  readonly rows: Rows;
  readonly fleet: Fleet;
  readonly nursery: Nursery;
  readonly templates: KnownTemplates;
  readonly pauses: Pauses;
  readonly policies: Policies;
  readonly snapshots: Snapshots;
  readonly captures: Captures;
  readonly kept: KeptSandboxes;
  readonly revival: Revival;
  readonly turns: Turns;
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
    // One that does not answer keeps the others waiting no longer than it is given itself.
    const answers: Promise<void>[] = [];
    for (const row of this.#options.rows.all()) await this.#takeOver(row, answers);
    await Promise.all(answers);
    await snapshots.atStart();
    await this.#sweepKept();
    await this.#sweepStrangers();
  }

  /** What is still to come of it is added to `answers`. */
  async #takeOver(row: MachineRow, answers: Promise<void>[]): Promise<void> {
    const { backends, fabric, fleet, templates, revival, pauses, log } = this.#options;
    const fate = AT_START[row.state];
    const template = templates.of(row);
    const { owner, id, state } = row;
    const late = fate === 'adopt' && owner?.onTimeout === 'kill' && owner.endAtMs <= Date.now();
    if (fate === 'sweep' || !template || !owner || late) return this.#sweepRow(row);
    // What is kept on disk needs nothing on the host.
    const onDisk = row.kept !== undefined && (state === 'paused' || state === 'resuming');
    const machine = !onDisk && row.record ? await backends.adopt(row.record) : undefined;
    const attachment = (await fabric.attached()).find((one) => one.id === id);
    const wished = attachment !== undefined && owner.allowInternet !== false;
    // It may be a wish that was written and not done before the end of the process before. What fails is tried again.
    const internet = attachment === undefined || (await this.#enforce(id, wished)) ? wished : !wished;
    if (machine) fleet.watch(machine, template);
    if (fate === 'park') {
      const kept = row.kept !== undefined && this.#options.kept.isThere(id, row.kept);
      if (!machine && !kept && !(await pauses.salvage(row))) return this.#sweepRow(row);
      fleet.adoptAside({ id, machine, attachment, internet });
      if (!machine) await fleet.letGo(id);
      await this.#settle(row);
      log.info({ sandboxID: id, state }, 'adopted a paused sandbox');
      return;
    }
    if (!machine) {
      if (!(await pauses.salvage(row))) return this.#sweepRow(row);
      fleet.adoptAside({ id, machine, attachment, internet });
      await fleet.letGo(id);
      log.warn({ sandboxID: id }, 'a sandbox that ended with its host is paused with what it had on disk');
      return;
    }
    const member = revival.around({ ...row, owner }, machine, { attachment, internet });
    const answer = this.#wake(member, row, owner.endAtMs);
    // Whoever waits for all of them is told.
    answer.catch(() => {});
    answers.push(answer);
  }

  async #enforce(id: string, allowInternet: boolean): Promise<boolean> {
    const { fabric, log } = this.#options;
    return fabric.setPolicy(id, { allowInternet }).then(
      () => true,
      (error: unknown) => {
        log.error({ error, sandboxID: id }, 'the network of a sandbox could not be set as its owner wishes');
        return false;
      },
    );
  }

  async #wake(member: Member, row: MachineRow, endAtMs: number): Promise<void> {
    const { fleet, captures, log } = this.#options;
    const { id, state } = row;
    try {
      member.machine.unpark();
      // An agent on demand may not be there at all, and comes when somebody asks.
      // A session can be lost with the turn of the channel from one node to the next, a second one is not.
      if (!captures.backendOf(row).capabilities.agentOnDemand) await member.agent().catch(() => member.agent());
    } catch (error) {
      // Neither whole nor reachable: its owner is better served by a clear end.
      log.warn({ error, sandboxID: id, state }, 'a sandbox does not answer its new node');
      await fleet.bury(member, 'it did not answer after a restart of the node');
      return;
    }
    fleet.handOut(member, endAtMs);
    log.info({ sandboxID: id }, 'adopted a running sandbox');
  }

  async #sweepRow(row: MachineRow): Promise<void> {
    const { backends, rows, nursery, log } = this.#options;
    rows.intendKill(row.id, 'it ended with its host or its node');
    const machine = row.record ? await backends.adopt(row.record) : undefined;
    await nursery.bury(row.id, machine, row.uid);
    log.warn({ sandboxID: row.id, state: row.state }, 'swept what an earlier run left');
  }

  /** Finishes what a verb left unfinished. Errors are logged: it is tried again at the next turn. */
  async now(): Promise<void> {
    const { rows, fleet, nursery, snapshots, policies, log } = this.#options;
    try {
      for (const row of rows.all()) {
        if (row.state === 'killing' && !fleet.isBeingBuried(row.id)) await nursery.bury(row.id, undefined, row.uid);
        if (AT_START[row.state] === 'park') await this.#settle(row);
        if (row.owner && !policies.agrees(row.id))
          await policies
            .reconcile(row.id)
            .catch((error: unknown) => log.error({ error, sandboxID: row.id }, 'a network wish could not be done'));
      }
      await snapshots.reconcile();
      await this.#sweepKept();
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

  /**
   * Removes checkpoints of sandboxes that no row names. Those of a verb under way are of its turn; it leaves one behind when
   * it ends between a checkpoint and its row.
   */
  async #sweepKept(): Promise<void> {
    const { rows, kept, turns } = this.#options;
    for (const id of await kept.strays(rows.all())) await kept.tidy(id, undefined);
    for (const id of await kept.all()) {
      const { state } = rows.get(id) ?? {};
      if (state === 'paused' || state === 'running') await turns.take(id, () => this.#tidyKept(id));
    }
  }

  async #tidyKept(id: string): Promise<void> {
    const row = this.#options.rows.get(id);
    if (row?.state === 'paused' || row?.state === 'running') await this.#options.kept.tidy(id, row.kept);
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
