/**
 * What a fabric has promised, in one JSON file that is replaced by rename: written before each act, so that whatever
 * process comes next finds every port's owner. Nothing is synced to disk: the kernel's state does not outlive the host's
 * boot either, and a journal of an earlier boot keeps only its counters.
 */
import { randomInt } from 'node:crypto';
import { mkdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Log } from '../../telemetry/log.ts';
import type { PortKind } from '../fabric.ts';
import { parseAddress } from '../ipv4.ts';
import { isPortName } from './config.ts';

export interface Lease {
  readonly id: string;
  readonly kind: PortKind;
  readonly port: string;
  readonly address: string;
  /** Owner of a tap. */
  readonly uid?: number;
  /** `attaching` and `detaching` are intents; start() undoes the first and completes the second. */
  readonly state: 'attaching' | 'attached' | 'detaching';
  /** Mark of the flows that this sandbox may hold; 0 when nothing may leave. Never given out twice in a row. */
  readonly mark: number;
  /** True: it may reach what the host serves. */
  readonly served?: boolean;
}

export interface JournalState {
  readonly version: 2;
  readonly instance: string;
  /** /proc/sys/kernel/random/boot_id */
  bootId: string;
  /** Base of the fabric's /16, dotted. */
  subnet?: string;
  nextLease: number;
  nextMark: number;
  /** Where the search for the next free address begins: addresses rotate through the whole pool. */
  cursor: number;
  /** IPv4 forwarding of the host was off, and is on because of us. */
  forwardingWasOff: boolean;
  leases: Lease[];
}

export const MARK_LIMIT = 0x7fffffff;
const LEASE_LIMIT = 0x7fffffff;

/** Not shared between processes: one node process owns a state folder. */
export class Journal {
  readonly state: JournalState;
  readonly #file: string;
  #writing: Promise<void> = Promise.resolve();
  #pending: Promise<void> | undefined;

  constructor(file: string, state: JournalState) {
    this.#file = file;
    this.state = state;
  }

  /** Reads the journal, or begins one. A journal that cannot be read is put aside: start() then removes unknown ports. */
  static async open(folder: string, instance: string, log: Log): Promise<Journal> {
    await mkdir(folder, { recursive: true, mode: 0o700 });
    const file = join(folder, 'network.json');
    const bootId = (await readFile('/proc/sys/kernel/random/boot_id', 'utf8')).trim();
    let text: string | undefined;
    try {
      text = await readFile(file, 'utf8');
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
    }
    let state = text === undefined ? undefined : parseState(text, instance);
    if (text !== undefined && state === undefined) {
      log.warn({ file }, 'the network journal cannot be read; put aside');
      await rename(file, `${file}.unreadable`);
    }
    state ??= {
      version: 2,
      instance,
      bootId,
      nextLease: 1,
      // Away from marks that a lost journal may have left on live flows.
      nextMark: randomInt(1, MARK_LIMIT),
      cursor: randomInt(0, 1 << 16),
      forwardingWasOff: false,
      leases: [],
    };
    if (state.bootId !== bootId) Object.assign(state, { bootId, forwardingWasOff: false, leases: [] });
    return new Journal(file, state);
  }

  find(id: string): Lease | undefined {
    return this.state.leases.find((lease) => lease.id === id);
  }

  put(lease: Lease): void {
    const at = this.state.leases.findIndex((other) => other.id === lease.id);
    if (at < 0) this.state.leases.push(lease);
    else this.state.leases[at] = lease;
  }

  drop(id: string): void {
    this.state.leases = this.state.leases.filter((lease) => lease.id !== id);
  }

  takeLeaseNumber(): number {
    const taken = new Set(this.state.leases.map((lease) => lease.port));
    let number: number;
    do {
      number = this.state.nextLease;
      this.state.nextLease = number >= LEASE_LIMIT ? 1 : number + 1;
    } while (taken.has(`cp${number}`));
    return number;
  }

  takeMark(): number {
    const taken = new Set(this.state.leases.map((lease) => lease.mark));
    let mark: number;
    do {
      mark = this.state.nextMark;
      this.state.nextMark = mark >= MARK_LIMIT ? 1 : mark + 1;
    } while (taken.has(mark));
    return mark;
  }

  /** Resolves when the state as it is at the call is in the file. Calls made during a write share the next one. */
  save(): Promise<void> {
    this.#pending ??= this.#writing
      .catch(() => {})
      .then(() => {
        this.#pending = undefined;
        this.#writing = this.#write();
        return this.#writing;
      });
    return this.#pending;
  }

  async remove(): Promise<void> {
    await this.#pending;
    await rm(this.#file, { force: true });
  }

  async #write(): Promise<void> {
    const next = `${this.#file}.next`;
    await writeFile(next, JSON.stringify(this.state), { mode: 0o600 });
    await rename(next, this.#file);
  }
}

/** Undefined when any part is not as this file writes it. */
export function parseState(text: string, instance: string): JournalState | undefined {
  let value: JournalState;
  try {
    value = JSON.parse(text) as JournalState;
  } catch {
    return undefined;
  }
  const sound =
    typeof value === 'object' &&
    value !== null &&
    value.version === 2 &&
    value.instance === instance &&
    typeof value.bootId === 'string' &&
    (value.subnet === undefined || parseAddress(value.subnet) !== undefined) &&
    isCounter(value.nextLease, 1, LEASE_LIMIT) &&
    isCounter(value.nextMark, 1, MARK_LIMIT) &&
    isCounter(value.cursor, 0, LEASE_LIMIT) &&
    typeof value.forwardingWasOff === 'boolean' &&
    Array.isArray(value.leases) &&
    value.leases.every(isLease) &&
    distinct(value.leases, 'id') &&
    distinct(value.leases, 'port') &&
    distinct(value.leases, 'address');
  return sound ? value : undefined;
}

function isLease(lease: Lease): boolean {
  return (
    typeof lease === 'object' &&
    lease !== null &&
    typeof lease.id === 'string' &&
    (lease.kind === 'tap' || lease.kind === 'namespace') &&
    isPortName(lease.port) &&
    parseAddress(lease.address) !== undefined &&
    ['attaching', 'attached', 'detaching'].includes(lease.state) &&
    isCounter(lease.mark, 0, MARK_LIMIT) &&
    (lease.uid === undefined || Number.isInteger(lease.uid)) &&
    (lease.served === undefined || typeof lease.served === 'boolean')
  );
}

function isCounter(value: unknown, least: number, most: number): boolean {
  return Number.isInteger(value) && (value as number) >= least && (value as number) <= most;
}

function distinct(leases: readonly Lease[], field: 'id' | 'port' | 'address'): boolean {
  return new Set(leases.map((lease) => lease[field])).size === leases.length;
}
