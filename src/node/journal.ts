/**
 * What happened to sandboxes and in them: entries for people, events for programs, in a database of its own. Callers never
 * wait: what they tell is held and written some at a time. Events follow at once, lines of output within a fraction of a
 * second; who reads has what is held written first. What was held when the process dies is gone; of events, chronicle.ts
 * makes good what rows still know.
 *
 * Bounded in every direction: entries and bytes of a sandbox, lines in a time, the whole, and the time that anything is kept
 * once its sandbox is gone.
 */
import { setImmediate as soon } from 'node:timers/promises';
import {
  type EventsQuery,
  type EventsResult,
  type LifecycleEvent,
  LOG_LEVELS,
  type LogEntry,
  type LogLevel,
  type LogsQuery,
} from '../contract/node-api.ts';
import { type Log, silentLog } from '../telemetry/log.ts';
import { type Held, JournalStore, type Noted, type Subject } from './journal-store.ts';
import { LogGate } from './log-gate.ts';
import { notFound } from './ownership.ts';

export interface JournalOptions {
  readonly limits?: Partial<JournalLimits>;
  /** Milliseconds since the epoch. */
  readonly now?: () => number;
  readonly log?: Log;
}

export interface JournalLimits {
  /** Of one sandbox; the oldest go first. */
  readonly entries: number;
  readonly bytes: number;
  /** Of all sandboxes together. */
  readonly allBytes: number;
  /** How long it is kept once the sandbox is gone. */
  readonly goneMs: number;
  readonly eventsMs: number;
  readonly eventsOfTeam: number;
}

const LIMITS: JournalLimits = {
  entries: 10_000,
  bytes: 2 * 2 ** 20,
  allBytes: 256 * 2 ** 20,
  goneMs: 24 * 3_600_000,
  eventsMs: 7 * 24 * 3_600_000,
  eventsOfTeam: 10_000,
};

/** How long a line of output may wait to be written. */
const HOLD_MS = 250;
/** Written without letting others run: some two milliseconds. */
const BATCH = 256;
/** Held at most, of all sandboxes; beyond that what comes is left out. */
const HELD_MOST = 8_192;
const SWEEP_MS = 10 * 60_000;
/** Entries of one sandbox in one millisecond; a page that ends in the midst of more could not be gone on from. */
const IN_MS = 100;
/** What an entry costs beyond its text. */
const ENTRY_BYTES = 64;
/** How far a sandbox may be over its limits before it is trimmed. */
const SLACK = 1.1;

/** What is known of a sandbox that is being told of. */
interface Writer {
  readonly gate: LogGate;
  lastMs: number;
  inMs: number;
  held: Held | undefined;
}

export class Journal {
  readonly #store: JournalStore;
  readonly #limits: JournalLimits;
  readonly #now: () => number;
  readonly #log: Log;
  readonly #writers = new Map<string, Writer>();
  readonly #waiting = new Set<() => void>();
  readonly #sweeper: NodeJS.Timeout;
  #subjects = new Map<string, Subject>();
  #entries: Noted[] = [];
  #events: Omit<LifecycleEvent, 'position'>[] = [];
  #timer: NodeJS.Timeout | undefined;
  #immediate: NodeJS.Immediate | undefined;
  #closed = false;

  /** `file`: a path, or `:memory:`. */
  constructor(file: string, { limits, now = Date.now, log = silentLog }: JournalOptions = {}) {
    this.#limits = { ...LIMITS, ...limits };
    this.#now = now;
    this.#log = log;
    this.#store = new JournalStore(file);
    this.#sweeper = setInterval(() => void this.sweep(), SWEEP_MS).unref();
  }

  /** Sandboxes that were last told of as being there. */
  living(): readonly Subject[] {
    this.flush();
    return this.#store.living();
  }

  /** Its state from now on; written with the entries and events that are told in the same turn. */
  settle(subject: Subject): void {
    this.#subjects.set(subject.sandboxID, subject);
    this.#soon();
  }

  /** A thing that a sandbox's owner is told whatever else is. */
  note(sandboxID: string, level: LogLevel, message: string, fields: LogEntry['fields'], atMs = this.#now()): void {
    const writer = this.#writerOf(sandboxID);
    if (atMs > writer.lastMs) Object.assign(writer, { lastMs: atMs, inMs: 0 });
    else if (writer.inMs >= IN_MS) Object.assign(writer, { lastMs: writer.lastMs + 1, inMs: 0 });
    writer.inMs++;
    const entry = { atMs: writer.lastMs, level, message, fields };
    const text = message.length + Object.entries(fields).flat().join('').length;
    this.#entries.push({ sandboxID, entry, bytes: text + ENTRY_BYTES });
    if (this.#entries.length >= BATCH) this.#soon();
    else this.#timer ??= setTimeout(() => this.#drain(), HOLD_MS).unref();
  }

  /** A line of what a sandbox says: of too many in too short a time it is told how many there were. */
  line(sandboxID: string, level: LogLevel, message: string, fields: LogEntry['fields']): void {
    const { gate } = this.#writerOf(sandboxID);
    const full = this.#entries.length >= HELD_MOST;
    const { passes, missed } = gate.take(message.length + ENTRY_BYTES, this.#now(), full);
    if (!passes) return;
    if (missed > 0)
      this.note(sandboxID, 'warn', `${missed} lines were left out: too many at once`, { logger: 'journal' });
    this.note(sandboxID, level, message, fields);
  }

  event(event: Omit<LifecycleEvent, 'position' | 'id'>): void {
    this.#events.push({ id: crypto.randomUUID(), ...event });
    this.#soon();
  }

  /** `sandbox_not_found`: it is not of the team, or has been gone for too long. */
  async logs(query: LogsQuery): Promise<readonly LogEntry[]> {
    const { teamID, sandboxID, direction, cursorMs, limit, level = 'debug', search = '' } = query;
    this.flush();
    if (this.#store.subject(sandboxID)?.teamID !== teamID) throw notFound(sandboxID);
    const forward = direction === 'forward';
    // What is told of this very millisecond may not be all of it: who goes on from there leaves it to the next question.
    const upTo = Math.max(this.#now(), this.#writers.get(sandboxID)?.lastMs ?? 0);
    const found = this.#store.entries({
      sandboxID,
      fromMs: forward ? Math.floor(cursorMs ?? 0) : 0,
      beforeMs: forward ? upTo : Math.ceil(cursorMs ?? upTo + 1),
      level: LOG_LEVELS.indexOf(level),
      search,
      order: forward ? 'asc' : 'desc',
      limit: limit + 1,
    });
    return cutBetween(found, limit);
  }

  /** When it is aborted, as when its time is up. */
  async events(query: EventsQuery, signal?: AbortSignal): Promise<EventsResult> {
    const until = performance.now() + (query.waitMs ?? 0);
    for (;;) {
      this.flush();
      const events = this.#store.events(query);
      const left = until - performance.now();
      if (events.length > 0 || left <= 0 || signal?.aborted || this.#closed)
        return { events, head: this.#store.head() };
      await this.#news(left, signal);
    }
  }

  /** Writes all that is held. */
  flush(): void {
    while (this.#entries.length + this.#events.length + this.#subjects.size > 0 && this.#write());
  }

  /** What is kept for too long goes, and what is too much. */
  async sweep(): Promise<void> {
    const { goneMs, eventsMs, eventsOfTeam, allBytes } = this.#limits;
    const store = this.#store;
    try {
      for (const id of store.goneBefore(this.#now() - goneMs)) {
        if (this.#closed) return;
        store.forget(id);
        await soon();
      }
      if (this.#closed) return;
      store.dropStrays();
      for (const id of this.#writers.keys()) if (!store.subject(id)) this.#writers.delete(id);
      store.dropEvents(this.#now() - eventsMs, eventsOfTeam);
      const holders = store.holders();
      let all = holders.reduce((sum, { bytes }) => sum + bytes, 0);
      const size = new Map(holders.map(({ sandboxID, bytes }) => [sandboxID, bytes]));
      for (const id of store.goneBefore(Number.MAX_SAFE_INTEGER)) {
        if (all <= allBytes || this.#closed) break;
        store.forget(id);
        all -= size.get(id) ?? 0;
        size.delete(id);
        await soon();
      }
      // Of those that live, the largest lose their older halves.
      for (const { sandboxID, entries, bytes } of holders) {
        if (all <= allBytes || this.#closed) break;
        if (!size.has(sandboxID)) continue;
        store.dropOldest(sandboxID, Math.ceil(entries / 2));
        const writer = this.#writers.get(sandboxID);
        if (writer) writer.held = undefined;
        all -= bytes / 2;
        await soon();
      }
    } catch (error) {
      if (!this.#closed) this.#log.error({ error }, 'the journal could not be swept');
    }
  }

  close(): void {
    if (this.#closed) return;
    this.flush();
    this.#closed = true;
    clearInterval(this.#sweeper);
    clearTimeout(this.#timer);
    clearImmediate(this.#immediate);
    this.#tellWaiting();
    this.#store.close();
  }

  #writerOf(sandboxID: string): Writer {
    let writer = this.#writers.get(sandboxID);
    if (!writer) {
      writer = { gate: new LogGate(), lastMs: 0, inMs: 0, held: undefined };
      this.#writers.set(sandboxID, writer);
    }
    return writer;
  }

  #soon(): void {
    this.#immediate ??= setImmediate(() => this.#drain());
  }

  /** A batch now, the rest when others have run. */
  #drain(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#immediate = undefined;
    this.#write();
    if (this.#entries.length > 0) this.#soon();
  }

  /** False: it could not be, and what was to be written is given up. */
  #write(): boolean {
    if (this.#closed) return false;
    const subjects = [...this.#subjects.values()];
    const entries = this.#entries.splice(0, BATCH);
    const events = this.#events.splice(0);
    this.#subjects = new Map();
    try {
      this.#store.write({ subjects, entries, events });
      this.#bound(entries);
    } catch (error) {
      this.#log.error({ error, entries: entries.length, events: events.length }, 'the journal could not be written');
      return false;
    } finally {
      for (const { sandboxID, state } of subjects) if (state === 'gone') this.#writers.delete(sandboxID);
    }
    if (events.length > 0) this.#tellWaiting();
    return true;
  }

  /** What a sandbox has beyond its limits goes, the oldest first. */
  #bound(written: readonly Noted[]): void {
    const { entries: most, bytes: mostBytes } = this.#limits;
    const touched = new Map<string, Held>();
    for (const { sandboxID, bytes } of written) {
      const { entries, bytes: sum } = touched.get(sandboxID) ?? { entries: 0, bytes: 0 };
      touched.set(sandboxID, { entries: entries + 1, bytes: sum + bytes });
    }
    for (const [sandboxID, added] of touched) {
      const writer = this.#writerOf(sandboxID);
      writer.held = writer.held
        ? { entries: writer.held.entries + added.entries, bytes: writer.held.bytes + added.bytes }
        : this.#store.held(sandboxID);
      let { held } = writer;
      if (held.entries <= most * SLACK && held.bytes <= mostBytes * SLACK) continue;
      while (held.entries > most || held.bytes > mostBytes) {
        this.#store.dropOldest(sandboxID, Math.max(1, held.entries - most, Math.ceil(held.entries / 16)));
        held = this.#store.held(sandboxID);
      }
      writer.held = held;
    }
  }

  #news(waitMs: number, signal?: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      const done = (): void => {
        clearTimeout(timer);
        signal?.removeEventListener('abort', done);
        this.#waiting.delete(done);
        resolve();
      };
      const timer = setTimeout(done, waitMs);
      signal?.addEventListener('abort', done, { once: true });
      this.#waiting.add(done);
    });
  }

  #tellWaiting(): void {
    for (const wake of [...this.#waiting]) wake();
  }
}

/** At most `limit`, and not ending in the midst of a millisecond unless all of it is one. */
function cutBetween(found: readonly LogEntry[], limit: number): readonly LogEntry[] {
  const page = found.slice(0, limit);
  const next = found[limit];
  if (next === undefined || page.at(-1)?.atMs !== next.atMs) return page;
  const whole = page.filter(({ atMs }) => atMs !== next.atMs);
  return whole.length > 0 ? whole : page;
}
