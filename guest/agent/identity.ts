/**
 * Makes a clone itself. On the path of every create, and most of it is done once in a machine's life: under emulation the
 * cost of that is the amount of different code that runs, so everything goes the same few ways. Files are opened once, before
 * the checkpoint, and written in place: some are mounts, which cannot be replaced, and who watches one keeps its inode.
 */
import fs from 'node:fs';
import path from 'node:path';
import type { Identity, IdentityResult } from '../../src/channel/protocol.ts';
import type { Context } from './context.ts';
import { Failure } from './failure.ts';
import type { Volumes } from './volumes.ts';

/** A clock that is off by more than this is stepped. */
const CLOCK_TOLERANCE_MS = 5;
const HOSTS_ADDRESS = '127.0.1.1';
/** Of /etc/hosts no more than this is kept. */
const HOSTS_BYTES = 65_536;

export interface IdentityTaker {
  take(identity: Identity): IdentityResult;
}

export function createIdentity(context: Context, volumes: Pick<Volumes, 'detach'>): IdentityTaker {
  const { powers, folders } = context;
  const etc = (name: string): Slot => new Slot(path.join(folders.etc, name), 0o644);
  const run = (name: string): Slot => new Slot(path.join(folders.run, name), 0o444);
  const hostnameFile = etc('hostname');
  const hosts = new Hosts(etc('hosts'));
  const machineID = etc('machine-id');
  const generation = run('coppice/generation');
  /** Mounted over the kernel's. */
  const bootID = run('coppice/boot-id');
  const sandboxID = run('coppice/sandbox-id');
  const templateID = run('coppice/template-id');
  let named: string | undefined;
  let dbus: Slot | null | undefined;
  let linked = false;

  const setMachineID = (text: string): void => {
    machineID.set(text);
    if (dbus === undefined) {
      // Where D-Bus was installed before the checkpoint; often a link to the other.
      const file = path.join(folders.dbus, 'machine-id');
      dbus = fs.lstatSync(file, { throwIfNoEntry: false })?.isFile() ? new Slot(file, 0o644) : null;
    }
    dbus?.set(text);
  };

  /** Where E2B's own tools look. */
  const linkE2B = (): void => {
    if (linked) return;
    const e2b = path.join(folders.run, 'e2b');
    fs.mkdirSync(e2b, { recursive: true, mode: 0o755 });
    new Slot(path.join(e2b, '.E2B_SANDBOX'), 0o444).set('true');
    link('../coppice/sandbox-id', path.join(e2b, '.E2B_SANDBOX_ID'));
    link('../coppice/template-id', path.join(e2b, '.E2B_TEMPLATE_ID'));
    linked = true;
  };

  /** Somebody's programs have run since they were opened: they may have been replaced or rewritten, and D-Bus installed. */
  const renew = (): void => {
    for (const slot of [hostnameFile, machineID, generation, bootID, sandboxID, templateID]) slot.renew();
    dbus?.renew();
    if (dbus === null) dbus = undefined;
  };

  return {
    take(identity) {
      const arrivedMs = performance.now();
      const entropy = checked(identity);
      if (identity.cutConnections) renew();
      let clockSkewMs: number | undefined;
      if (identity.clockMs !== undefined) clockSkewMs = Date.now() - identity.clockMs;
      if (entropy !== undefined) powers.addEntropy(entropy);
      if (identity.network !== undefined) powers.setNetwork(identity.network);
      // With the new address already: a reset that left with the old one would end a connection of the machine that has it.
      const connections = identity.cutConnections ? powers.cutConnections() : undefined;
      if (identity.cutConnections && identity.machineID !== undefined) volumes.detach();
      const { hostname } = identity;
      if (hostname !== undefined && hostname !== named) {
        powers.setHostname(hostname);
        hostnameFile.set(`${hostname}\n`);
        hosts.set(hostname);
        named = hostname;
        context.hostname = hostname;
      }
      if (identity.machineID !== undefined) setMachineID(`${identity.machineID}\n`);
      if (identity.generation !== undefined) {
        generation.set(identity.generation);
        context.generation = identity.generation;
        // Of a machine that is given its names: one that is resumed has not been booted.
        if (identity.machineID !== undefined) bootID.set(`${identity.generation}\n`);
      }
      if (identity.sandboxID !== undefined) {
        sandboxID.set(identity.sandboxID);
        context.sandboxID = identity.sandboxID;
        linkE2B();
      }
      if (identity.templateID !== undefined) templateID.set(identity.templateID);
      if (identity.env !== undefined) context.env = identity.env;
      // Last, and with the time that the rest took: code that runs for the first time is slow.
      if (clockSkewMs !== undefined && Math.abs(clockSkewMs) > CLOCK_TOLERANCE_MS)
        powers.setClock(identity.clockMs! + performance.now() - arrivedMs);
      context.hostname ??= hostnameFile.read('localhost').trim();
      const { hostname: name } = context;
      const result = clockSkewMs === undefined ? { hostname: name } : { clockSkewMs, hostname: name };
      return connections ? { ...result, connections } : result;
    },
  };
}

/** A small file that is kept open and rewritten in place. What it holds already is not written again. */
class Slot {
  readonly #path: string;
  readonly #mode: number;
  #fd: number | undefined;
  #text: string | undefined;
  /** Closed after the next write: to who watches the file, a close says that it is complete. */
  #old: number | undefined;

  constructor(file: string, mode: number) {
    this.#path = file;
    this.#mode = mode;
  }

  set(text: string): void {
    if (text === this.#text) return;
    const bytes = Buffer.from(text);
    this.#fd ??= this.#open();
    fs.writeSync(this.#fd, bytes, 0, bytes.length, 0);
    // A longer one before it would show its end. After the write: who reads meanwhile never finds the file empty.
    if (this.#text === undefined || bytes.length < this.#text.length) fs.ftruncateSync(this.#fd, bytes.length);
    this.#text = text;
    this.#closeOld();
  }

  /** What is set next is written whatever it is, to the file that is there then. */
  renew(): void {
    this.#closeOld();
    this.#old = this.#fd;
    this.#fd = undefined;
    this.#text = undefined;
  }

  #closeOld(): void {
    if (this.#old !== undefined) fs.closeSync(this.#old);
    this.#old = undefined;
  }

  read(otherwise: string): string {
    try {
      return fs.readFileSync(this.#path, 'utf8');
    } catch {
      return otherwise;
    }
  }

  /** Whether it still holds what was set, of at most `scratch` bytes. */
  holds(scratch: Buffer): boolean {
    if (this.#fd === undefined || this.#text === undefined) return false;
    const count = fs.readSync(this.#fd, scratch, 0, scratch.length, 0);
    return count === this.#text.length && scratch.toString('latin1', 0, count) === this.#text;
  }

  #open(): number {
    const flags = fs.constants.O_RDWR | fs.constants.O_CREAT;
    try {
      return fs.openSync(this.#path, flags, this.#mode);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
      fs.mkdirSync(path.dirname(this.#path), { recursive: true, mode: 0o755 });
      return fs.openSync(this.#path, flags, this.#mode);
    }
  }
}

/** /etc/hosts: the machine's own line is its last, and the rest is whoever's. */
class Hosts {
  readonly #slot: Slot;
  readonly #scratch = Buffer.alloc(HOSTS_BYTES);
  #rest = '';

  constructor(slot: Slot) {
    this.#slot = slot;
  }

  set(name: string): void {
    if (!this.#slot.holds(this.#scratch)) {
      const text = this.#slot.read('127.0.0.1\tlocalhost\n::1\tlocalhost\n').slice(0, HOSTS_BYTES / 2);
      const kept = text.split('\n').filter((line) => line !== '' && line.split(/\s+/)[0] !== HOSTS_ADDRESS);
      this.#rest = `${kept.join('\n')}\n`;
    }
    this.#slot.set(`${this.#rest}${HOSTS_ADDRESS}\t${name}\n`);
  }
}

function link(target: string, file: string): void {
  fs.rmSync(file, { force: true });
  fs.symlinkSync(target, file);
}

/** The entropy, decoded. */
function checked(identity: Identity): Buffer | undefined {
  const demand = (good: boolean, what: string): void => {
    if (!good) throw new Failure('invalid_argument', `identity: ${what}`);
  };
  const { hostname: host, machineID, clockMs, entropy, network, env } = identity;
  demand(host === undefined || isHostname(host), 'hostname');
  demand(machineID === undefined || isMachineID(machineID), 'machineID');
  demand(clockMs === undefined || (Number.isFinite(clockMs) && clockMs > 0), 'clockMs');
  if (network) demand(network.prefix >= 0 && network.prefix <= 32, 'network.prefix');
  demand(env === undefined || (typeof env === 'object' && env !== null), 'env');
  if (entropy === undefined) return undefined;
  const bytes = Buffer.from(entropy, 'base64');
  demand(bytes.length >= 32 && bytes.length <= 64, 'entropy must be 32 to 64 bytes');
  return bytes;
}

/** [A-Za-z0-9][A-Za-z0-9.-]{0,62}. By hand, as below: a regular expression is compiled code of its own. */
function isHostname(text: string): boolean {
  if (typeof text !== 'string' || text.length < 1 || text.length > 63) return false;
  for (let at = 0; at < text.length; at++) {
    const code = text.charCodeAt(at);
    const letter = code | 0x20;
    const inner = at > 0 && (code === 45 || code === 46);
    if (!((letter >= 97 && letter <= 122) || (code >= 48 && code <= 57) || inner)) return false;
  }
  return true;
}

/** [0-9a-f]{32}. */
function isMachineID(text: string): boolean {
  if (typeof text !== 'string' || text.length !== 32) return false;
  for (let at = 0; at < 32; at++) {
    const code = text.charCodeAt(at);
    if (!((code >= 97 && code <= 102) || (code >= 48 && code <= 57))) return false;
  }
  return true;
}
