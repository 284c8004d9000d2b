/**
 * Tells the journal what becomes of sandboxes, from the changes of their rows: a fact is told once it is durable, whichever
 * verb brought it about. What a crash kept from being told is told at the next start, by comparing rows with what was told
 * last. The claim path waits for none of it.
 */
import type { EventKind, LogLevel } from '../contract/node-api.ts';
import type { MachineShape } from '../isolation/backend.ts';
import type { Log } from '../telemetry/log.ts';
import type { Journal } from './journal.ts';
import type { Subject } from './journal-store.ts';
import type { MachineRow, Owner, RowFact, Rows } from './rows.ts';

export interface ChronicleOptions {
  readonly rows: Rows;
  readonly journal: Journal;
  /** What is known of the template of a row, if anything. */
  readonly templateOf: (
    row: MachineRow,
  ) => { readonly aliases: readonly string[]; readonly shape: MachineShape } | undefined;
  readonly log: Log;
}

type OwnedRow = MachineRow & { readonly owner: Owner };

/** A sandbox that was told of, and is not gone. */
interface Told {
  readonly subject: Subject;
  endAtMs: number;
  /** It is on its way to what this snapshot says. */
  rollingBackTo?: string;
}

/** Ends that somebody wanted; any other is a loss. */
const WANTED: ReadonlySet<string> = new Set([
  'killed by its owner',
  'its time was up',
  'its fork was given up',
  'the service stopped',
]);
const LOST = 'it ended with its host or its node';

export class Chronicle {
  readonly #options: ChronicleOptions;
  readonly #told = new Map<string, Told>();
  /** Made in this turn, with when. */
  readonly #fresh = new Map<string, number>();

  constructor(options: ChronicleOptions) {
    this.#options = options;
    for (const subject of options.journal.living()) this.#told.set(subject.sandboxID, { subject, endAtMs: 0 });
  }

  /** Never throws: what is done is done, whoever hears of it. */
  note(id: string, fact: RowFact): void {
    try {
      if (fact.kind === 'created') this.#later(id);
      else this.#note(id, fact);
    } catch (error) {
      this.#options.log.warn({ error, sandboxID: id, fact: fact.kind }, 'what became of a sandbox could not be told');
    }
  }

  /** For its log alone. */
  remark(id: string, message: string, fields: Readonly<Record<string, string>>): void {
    this.#settleFresh(id);
    this.#say(id, 'info', message, fields);
  }

  /** What the process before did not come to tell; rows are settled by now. */
  atStart(): void {
    const { rows } = this.#options;
    const owned = rows.all().filter((row): row is OwnedRow => row.owner !== undefined);
    const alive = new Map(
      owned.filter(({ state }) => state === 'running' || state === 'paused').map((row) => [row.id, row]),
    );
    for (const [id, { subject }] of this.#told) if (!alive.has(id)) this.#killed(subject, undefined, LOST);
    for (const row of alive.values()) {
      const told = this.#told.get(row.id)?.subject;
      if (!told) this.#created(row, row.owner.startedAtMs);
      else if (row.state === 'running' && (told.state === 'paused' || told.generation !== row.generation))
        this.#resumed(row);
      if (row.state === 'paused' && told?.state !== 'paused') this.#paused(row, false);
      this.#told.get(row.id)!.endAtMs = row.owner.endAtMs;
    }
  }

  /** A create does not wait for it. */
  #later(id: string): void {
    this.#fresh.set(id, Date.now());
    setImmediate(() => {
      try {
        this.#settleFresh(id);
      } catch (error) {
        this.#options.log.warn({ error, sandboxID: id }, 'a new sandbox could not be told of');
      }
    });
  }

  #settleFresh(id: string): void {
    const atMs = this.#fresh.get(id);
    if (atMs === undefined) return;
    this.#fresh.delete(id);
    const row = this.#owned(id);
    if (row) this.#created(row, atMs);
  }

  #note(id: string, fact: Exclude<RowFact, { kind: 'created' }>): void {
    this.#settleFresh(id);
    const told = this.#told.get(id);
    // Of a machine that is nobody's nothing is told.
    if (!told) return;
    const row = this.#owned(id);
    switch (fact.kind) {
      case 'paused':
        if (row) this.#paused(row, fact.salvaged ?? false);
        return;
      case 'rolling back':
        told.rollingBackTo = fact.parentID;
        return;
      case 'resumed':
        if (row) this.#resumed(row);
        return;
      case 'captured':
        if (row) this.#checkpointed(row, fact.buildID);
        return;
      case 'deadline':
        if (row) this.#deadline(row, told, fact.endAtMs);
        return;
      case 'network':
        if (row) this.#network(row, fact.allowInternet);
        return;
      case 'killed':
        this.#killed(told.subject, row, fact.reason);
    }
  }

  #created(row: OwnedRow, atMs: number): void {
    this.#settle(row, 'running', atMs);
    const template = this.#options.templateOf(row)?.aliases[0] ?? row.templateID;
    this.#event('created', row, atMs, {});
    this.#say(row.id, 'info', 'created', { template, generation: row.generation }, atMs);
  }

  #paused(row: OwnedRow, salvaged: boolean): void {
    this.#settle(row, 'paused');
    this.#event('paused', row, Date.now(), { execution: this.#execution(row, row.owner.endAtMs) });
    const memory = String(row.kept?.memory ?? true);
    if (salvaged) this.#say(row.id, 'error', `lost: ${LOST}; paused with what it had on disk`, { memory });
    else this.#say(row.id, 'info', 'paused', { memory });
  }

  #resumed(row: OwnedRow): void {
    const to = this.#told.get(row.id)?.rollingBackTo;
    this.#settle(row, 'running');
    this.#event('resumed', row, Date.now(), to === undefined ? {} : { rolled_back_to: to });
    const { generation } = row;
    if (to === undefined) this.#say(row.id, 'info', 'resumed', { generation });
    else this.#say(row.id, 'info', 'rolled back', { generation, buildID: to });
  }

  #checkpointed(row: OwnedRow, buildID: string): void {
    this.#event('checkpointed', row, Date.now(), { snapshot_build_id: buildID });
    this.#say(row.id, 'info', 'snapshot', { buildID });
  }

  #deadline(row: OwnedRow, told: Told, endAtMs: number): void {
    if (told.endAtMs === endAtMs) return;
    told.endAtMs = endAtMs;
    const endAt = new Date(endAtMs).toISOString();
    this.#event('updated', row, Date.now(), { set_timeout: endAt });
    this.#say(row.id, 'debug', 'timeout set', { endAt });
  }

  #network(row: OwnedRow, allowInternet: boolean | undefined): void {
    const internet = String(allowInternet !== false);
    this.#event('updated', row, Date.now(), { set_network: { allow_internet_access: allowInternet !== false } });
    this.#say(row.id, 'info', 'network set', { internet });
  }

  #killed(subject: Subject, row: OwnedRow | undefined, reason: string): void {
    const { journal } = this.#options;
    const { sandboxID } = subject;
    const wanted = WANTED.has(reason);
    const atMs = Date.now();
    this.#told.delete(sandboxID);
    journal.settle({ ...subject, state: 'gone', sinceMs: atMs });
    const execution = row
      ? { execution: this.#execution(row, subject.state === 'paused' ? row.owner.endAtMs : atMs) }
      : {};
    this.#event('killed', row ?? subject, atMs, { reason, ...execution });
    this.#sayOf(sandboxID, wanted ? 'info' : 'error', wanted ? `killed: ${reason}` : `lost: ${reason}`, {}, atMs);
  }

  #settle(row: OwnedRow, state: 'running' | 'paused', sinceMs = Date.now()): void {
    const { id: sandboxID, generation, templateID, buildID, owner } = row;
    const subject: Subject = { sandboxID, teamID: owner.teamID, state, generation, templateID, buildID, sinceMs };
    this.#told.set(sandboxID, { subject, endAtMs: owner.endAtMs });
    this.#options.journal.settle(subject);
  }

  #owned(id: string): OwnedRow | undefined {
    const row = this.#options.rows.get(id);
    return row?.owner ? { ...row, owner: row.owner } : undefined;
  }

  /** E2B's account of a run that is over. */
  #execution(row: OwnedRow, endMs: number): Record<string, unknown> {
    const { startedAtMs } = row.owner;
    return {
      started_at: new Date(startedAtMs).toISOString(),
      vcpu_count: this.#options.templateOf(row)?.shape.cpuCount ?? 1,
      memory_mb: row.memoryMB,
      execution_time: Math.max(0, endMs - startedAtMs),
    };
  }

  #event(kind: EventKind, of: OwnedRow | Subject, atMs: number, more: Record<string, unknown>): void {
    const { generation, templateID, buildID } = of;
    const [sandboxID, teamID, metadata] =
      'owner' in of ? [of.id, of.owner.teamID, { sandbox_metadata: of.owner.metadata }] : [of.sandboxID, of.teamID, {}];
    const data = { ...metadata, ...more };
    this.#options.journal.event({ kind, atMs, teamID, sandboxID, generation, templateID, buildID, data });
  }

  #say(id: string, level: LogLevel, message: string, fields: Record<string, string>, atMs?: number): void {
    if (this.#told.has(id)) this.#sayOf(id, level, message, fields, atMs);
  }

  #sayOf(id: string, level: LogLevel, message: string, fields: Record<string, string>, atMs?: number): void {
    this.#options.journal.note(id, level, message, { logger: 'lifecycle', ...fields }, atMs);
  }
}
