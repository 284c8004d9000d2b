/**
 * Points of one sandbox, oldest first, in a bounded room: when it is full, every second point of its older half goes, so that
 * its whole life stays in view and what is recent stays fine.
 */
import type { SandboxMetric } from '../contract/node-api.ts';
import type { MachineRoom } from '../isolation/backend.ts';

/** Points at most: at one each five seconds the last three quarters of an hour or more are whole. 64 KiB. */
export const POINTS_MOST = 1024;
/** Points older than this are told to nobody. */
const KEPT_MS = 7 * 24 * 3_600_000;

const FIELDS = [
  'atMs',
  'cpuCount',
  'cpuUsedPct',
  'memUsed',
  'memTotal',
  'memCache',
  'diskUsed',
  'diskTotal',
] as const satisfies readonly (keyof SandboxMetric)[];
const ROOM = ['memUsed', 'memTotal', 'memCache', 'diskUsed', 'diskTotal'] as const;
const WIDTH = FIELDS.length;
const FIRST = 16;

/** `room` absent: nobody knows yet, see `fill`. */
export type MetricPoint = Pick<SandboxMetric, 'atMs' | 'cpuCount' | 'cpuUsedPct'> & { readonly room?: MachineRoom };

export class MetricSeries {
  #cells = new Float64Array(FIRST * WIDTH);
  #size = 0;
  /** From here on points have no room yet. */
  #known = 0;

  get size(): number {
    return this.#size;
  }

  /** Whether every point has its room. */
  get whole(): boolean {
    return this.#known === this.#size;
  }

  add({ room, ...rest }: MetricPoint): void {
    if (this.#size === POINTS_MOST) this.#thin();
    if (this.#size * WIDTH === this.#cells.length) {
      const wider = new Float64Array(this.#cells.length * 2);
      wider.set(this.#cells);
      this.#cells = wider;
    }
    const point = { ...rest, ...room };
    const at = this.#size * WIDTH;
    for (const [index, field] of FIELDS.entries())
      this.#cells[at + index] = (point as Partial<SandboxMetric>)[field] ?? Number.NaN;
    this.#size++;
    if (room) this.fill(room);
  }

  /** What is known now was so at every point that has no room: what did not run has not changed. */
  fill(room: MachineRoom): void {
    for (; this.#known < this.#size; this.#known++)
      for (const field of ROOM) {
        const cell = this.#known * WIDTH + FIELDS.indexOf(field);
        if (Number.isNaN(this.#cells[cell])) this.#cells[cell] = room[field];
      }
  }

  /** The newest point has this room, whatever it was told to have. */
  correct(room: MachineRoom): void {
    if (!this.whole || this.#size === 0) return;
    for (const field of ROOM) this.#cells[(this.#size - 1) * WIDTH + FIELDS.indexOf(field)] = room[field];
  }

  /** Both ends included; points without a room are not told. */
  between(startMs: number, endMs: number, nowMs: number): SandboxMetric[] {
    const found: SandboxMetric[] = [];
    for (let point = 0; point < this.#known; point++) {
      const atMs = this.#cells[point * WIDTH]!;
      if (atMs >= Math.max(startMs, nowMs - KEPT_MS) && atMs <= endMs) found.push(this.#at(point));
    }
    return found;
  }

  get last(): SandboxMetric | undefined {
    return this.#known === 0 ? undefined : this.#at(this.#known - 1);
  }

  #at(point: number): SandboxMetric {
    const cells = this.#cells.subarray(point * WIDTH, (point + 1) * WIDTH);
    return Object.fromEntries(FIELDS.map((field, index) => [field, cells[index]])) as unknown as SandboxMetric;
  }

  #thin(): void {
    const half = POINTS_MOST / 2;
    let kept = 0;
    let known = 0;
    for (let point = 0; point < this.#size; point++) {
      if (point < half && point % 2 === 1) continue;
      this.#cells.copyWithin(kept * WIDTH, point * WIDTH, (point + 1) * WIDTH);
      kept++;
      if (point < this.#known) known = kept;
    }
    this.#size = kept;
    this.#known = known;
  }
}
