/**
 * What running sandboxes use, a point each every five seconds, in memory: gone with the sandbox, and with this process.
 *
 * What a machine takes of the CPU is read on the host, for some tens of microseconds. What it has of memory and disk cannot have
 * changed much while it hardly ran, so that is read again only when its CPU has moved: on the host where the host knows, else
 * of its agent. One that does nothing and that nobody asks about is never asked itself.
 */
import { setImmediate as soon } from 'node:timers/promises';
import type { SandboxMetric } from '../contract/node-api.ts';
import type { Machine, MachineRoom } from '../isolation/backend.ts';
import { readProcess } from '../isolation/process-table.ts';
import type { Log } from '../telemetry/log.ts';
import type { Member } from './member.ts';
import { MetricSeries } from './metric-series.ts';

export interface MetricsOptions {
  /** Those that run now. */
  readonly running: () => Iterable<Member>;
  /** Whether it is there, running or paused. */
  readonly has: (id: string) => boolean;
  readonly cpuCountOf: (id: string) => number;
  /** Milliseconds since the epoch. */
  readonly now?: () => number;
  readonly log: Log;
}

interface Track {
  member: Member;
  readonly cpuCount: number;
  readonly series: MetricSeries;
  /** At the last point. */
  cpuSeconds: number;
  atMs: number;
  room: MachineRoom | undefined;
  /** When `room` was read; before that, when it was first seen. */
  roomAtMs: number;
  /** CPU seconds since then, without what idling takes. */
  moved: number;
  /** CPU seconds when it had answered, if it has since the last point. */
  answered?: number | undefined;
  reading?: Promise<void> | undefined;
}

const EVERY_MS = 5_000;
/**
 * CPU seconds since the last reading after which a room is read again. An agent costs an emulated guest some ten milliseconds
 * to answer, and ten times that when it is asked for the first time: it is asked of who works, later of who worked a little,
 * or when somebody wants to know. What an idle guest uses in passing counts for nothing.
 */
const AGENT = { idle: 0.001, works: 0.25, worked: 0.03, wanted: 0.02 } as const;
/** A jail that does nothing uses none, and is not asked anything. */
const HOST = { idle: 0, works: 0.001, worked: 0.001, wanted: 0.001 } as const;
/** What has worked a little is read after so long. */
const LATER_MS = 60_000;
/** How long a guest may take to tell; the point is then told with what was known before. */
const ANSWER_MS = 3_000;
/** Guests asked at once. */
const AT_ONCE = 4;
/** Machines looked at without letting others run. */
const TURN = 64;

export class Metrics {
  readonly #options: MetricsOptions;
  readonly #tracks = new Map<string, Track>();
  readonly #now: () => number;
  #timer: NodeJS.Timeout | undefined;
  #sampling: Promise<void> | undefined;

  constructor(options: MetricsOptions) {
    this.#options = options;
    this.#now = options.now ?? Date.now;
  }

  start(): void {
    this.#timer = setInterval(() => void this.sample(), EVERY_MS).unref();
  }

  stop(): void {
    clearInterval(this.#timer);
  }

  /** One point of each. Of one that is new, only what later points are measured from. */
  sample(): Promise<void> {
    this.#sampling ??= this.#sample()
      .catch((error: unknown) => this.#options.log.warn({ error }, 'what sandboxes use could not be measured'))
      .finally(() => {
        this.#sampling = undefined;
      });
    return this.#sampling;
  }

  /** Oldest first, both ends included. Of a sandbox that has done nothing yet its room is asked for now. */
  async of(id: string, { startMs = 0, endMs = Number.MAX_SAFE_INTEGER }: { startMs?: number; endMs?: number }) {
    await this.#settle(id);
    return this.#tracks.get(id)?.series.between(startMs, endMs, this.#now()) ?? [];
  }

  /** undefined: there is none yet. */
  async latest(id: string): Promise<SandboxMetric | undefined> {
    await this.#settle(id);
    return this.#tracks.get(id)?.series.last;
  }

  async #sample(): Promise<void> {
    const { running, has } = this.#options;
    for (const id of this.#tracks.keys()) if (!has(id)) this.#tracks.delete(id);
    const moved: Track[] = [];
    let seen = 0;
    for (const member of [...running()]) {
      if (++seen % TURN === 0) await soon();
      const track = this.#look(member);
      if (track) moved.push(track);
    }
    const asking = moved.values();
    const ask = async (): Promise<void> => {
      for (const track of asking) await this.#read(track);
    };
    await Promise.all(Array.from({ length: AT_ONCE }, ask));
  }

  /** Adds a point; the track is returned when its room is to be read, and its point waits for that. */
  #look(member: Member): Track | undefined {
    if (member.ended) return undefined;
    const cpuSeconds = cpuOf(member.machine);
    if (cpuSeconds === undefined) return undefined;
    const atMs = this.#now();
    const track = this.#tracks.get(member.id);
    if (track?.member !== member) {
      // A machine of its own, or one woken anew: its CPU counts from here.
      const fresh = { member, cpuSeconds, atMs, room: undefined, roomAtMs: atMs, moved: 0 };
      const { series = new MetricSeries(), cpuCount = this.#options.cpuCountOf(member.id) } = track ?? {};
      this.#tracks.set(member.id, { ...fresh, cpuCount, series });
      return undefined;
    }
    const { room, cpuCount } = track;
    const used = (100_000 * (cpuSeconds - track.cpuSeconds)) / (Math.max(1, atMs - track.atMs) * cpuCount);
    const cpuUsedPct = Math.round(100 * Math.min(100, Math.max(0, used))) / 100;
    count(track, cpuSeconds, atMs);
    track.cpuSeconds = cpuSeconds;
    track.atMs = atMs;
    const stale = isStale(track);
    track.series.add({ atMs, cpuCount, cpuUsedPct, ...(room && !stale ? { room } : {}) });
    return stale ? track : undefined;
  }

  /** Somebody wants to know: what the last point says of its room is made good, if it has moved. */
  async #settle(id: string): Promise<void> {
    const track = this.#tracks.get(id);
    if (!track || track.member.ended || track.series.size === 0) return;
    const since = track.answered ?? track.cpuSeconds;
    const moved = track.moved + Math.max(0, (cpuOf(track.member.machine) ?? 0) - since);
    if (!track.series.whole || moved >= costsOf(track.member.machine).wanted) await this.#read(track);
  }

  /** Those who want to know at once wait for one answer. */
  #read(track: Track): Promise<void> {
    track.reading ??= this.#readNow(track).finally(() => {
      track.reading = undefined;
    });
    return track.reading;
  }

  async #readNow(track: Track): Promise<void> {
    const { member, atMs } = track;
    try {
      const room = await roomOf(member);
      if (room) {
        Object.assign(track, { room, roomAtMs: atMs, moved: 0 });
        // From here on: what the answer took is nothing that it did.
        track.answered = cpuOf(member.machine);
        track.series.correct(room);
      }
    } catch (error) {
      this.#options.log.debug({ error, sandboxID: member.id }, 'a sandbox did not tell what it uses');
    }
    if (track.room) track.series.fill(track.room);
  }
}

const costsOf = ({ room }: Machine) => (room ? HOST : AGENT);

/** What it has used since it was last looked at, or has last answered, counts; what idling takes is let out of it. */
function count(track: Track, cpuSeconds: number, atMs: number): void {
  const since = track.answered ?? track.cpuSeconds;
  const idle = (costsOf(track.member.machine).idle * (atMs - track.atMs)) / 1000;
  track.moved = Math.max(0, track.moved + cpuSeconds - since - idle);
  track.answered = undefined;
}

function isStale({ member, moved, atMs, roomAtMs }: Track): boolean {
  const { works, worked } = costsOf(member.machine);
  return moved >= works || (moved >= worked && atMs - roomAtMs >= LATER_MS);
}

function cpuOf({ cpuSeconds, record }: Machine): number | undefined {
  if (cpuSeconds) return cpuSeconds();
  const facts = readProcess(record.pid);
  return facts?.startTime === record.pidStartTime ? facts.cpuSeconds : undefined;
}

/** undefined: its agent is not there, and is not started for this. */
async function roomOf(member: Member): Promise<MachineRoom | undefined> {
  const { machine } = member;
  if (machine.room) return machine.room();
  const told = await member.session?.metrics(AbortSignal.timeout(ANSWER_MS));
  if (!told) return undefined;
  const { memUsed, memTotal, memCache, diskUsed, diskTotal } = told;
  return { memUsed, memTotal, memCache, diskUsed, diskTotal };
}
