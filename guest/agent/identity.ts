/** Makes a clone itself. On the path of every create, so each part is touched only when it is given. */
import fs from 'node:fs';
import path from 'node:path';
import type { Identity, IdentityResult } from '../../src/channel/protocol.ts';
import type { Context } from './context.ts';
import { Failure } from './failure.ts';

/** A clock that is off by more than this is stepped. */
const CLOCK_TOLERANCE_MS = 5;

export function takeIdentity(context: Context, identity: Identity): IdentityResult {
  check(identity);
  const { powers, folders } = context;
  let clockSkewMs: number | undefined;
  if (identity.clockMs !== undefined) {
    clockSkewMs = Date.now() - identity.clockMs;
    if (Math.abs(clockSkewMs) > CLOCK_TOLERANCE_MS) powers.setClock(identity.clockMs);
  }
  if (identity.entropy !== undefined) powers.addEntropy(Buffer.from(identity.entropy, 'base64'));
  if (identity.network !== undefined) powers.setNetwork(identity.network);
  if (identity.hostname !== undefined) setHostname(context, identity.hostname);
  if (identity.machineID !== undefined) {
    overwrite(path.join(folders.etc, 'machine-id'), `${identity.machineID}\n`);
    // Where D-Bus is installed; often a link to the other.
    const dbus = path.join(folders.dbus, 'machine-id');
    if (fs.lstatSync(dbus, { throwIfNoEntry: false })?.isFile()) overwrite(dbus, `${identity.machineID}\n`);
  }
  const own = path.join(folders.run, 'coppice');
  const e2b = path.join(folders.run, 'e2b');
  if (identity.generation !== undefined) {
    context.generation = identity.generation;
    place(path.join(own, 'generation'), identity.generation);
  }
  if (identity.sandboxID !== undefined) {
    place(path.join(own, 'sandbox-id'), identity.sandboxID);
    place(path.join(e2b, '.E2B_SANDBOX'), 'true');
    place(path.join(e2b, '.E2B_SANDBOX_ID'), identity.sandboxID);
  }
  if (identity.templateID !== undefined) {
    place(path.join(own, 'template-id'), identity.templateID);
    place(path.join(e2b, '.E2B_TEMPLATE_ID'), identity.templateID);
  }
  if (identity.env !== undefined) context.env = identity.env;
  return { ...(clockSkewMs === undefined ? {} : { clockSkewMs }), hostname: hostnameOf(context) };
}

function hostnameOf(context: Context): string {
  context.hostname ??= readOr(path.join(context.folders.etc, 'hostname'), 'localhost').trim();
  return context.hostname;
}

const HOSTS_ADDRESS = '127.0.1.1';

function setHostname(context: Context, name: string): void {
  context.hostname = name;
  context.powers.setHostname(name);
  overwrite(path.join(context.folders.etc, 'hostname'), `${name}\n`);
  const hosts = path.join(context.folders.etc, 'hosts');
  const lines = readOr(hosts, '127.0.0.1\tlocalhost\n::1\tlocalhost\n').split('\n');
  const kept = lines.filter((line) => line !== '' && line.split(/\s+/)[0] !== HOSTS_ADDRESS);
  overwrite(hosts, `${kept.join('\n')}\n${HOSTS_ADDRESS}\t${name}\n`);
}

/** In place: these may be mounts of their own, which cannot be replaced. Nobody reads them before the hand-out. */
function overwrite(file: string, text: string): void {
  fs.writeFileSync(file, text, { mode: 0o644 });
}

/** A reader sees the old text or the new, never half. */
function place(file: string, text: string, mode = 0o444): void {
  const fresh = `${file}.new`;
  try {
    fs.writeFileSync(fresh, text, { mode });
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
    fs.mkdirSync(path.dirname(file), { recursive: true, mode: 0o755 });
    fs.writeFileSync(fresh, text, { mode });
  }
  fs.renameSync(fresh, file);
}

function readOr(file: string, otherwise: string): string {
  try {
    return fs.readFileSync(file, 'utf8');
  } catch {
    return otherwise;
  }
}

function check(identity: Identity): void {
  const demand = (good: boolean, what: string): void => {
    if (!good) throw new Failure('invalid_argument', `identity: ${what}`);
  };
  const { hostname: host, machineID, clockMs, entropy, network, env } = identity;
  demand(host === undefined || /^[A-Za-z0-9][A-Za-z0-9.-]{0,62}$/.test(host), 'hostname');
  demand(machineID === undefined || /^[0-9a-f]{32}$/.test(machineID), 'machineID');
  demand(clockMs === undefined || (Number.isFinite(clockMs) && clockMs > 0), 'clockMs');
  if (entropy !== undefined) {
    const bytes = Buffer.from(entropy, 'base64').length;
    demand(bytes >= 32 && bytes <= 64, 'entropy must be 32 to 64 bytes');
  }
  if (network) demand(network.prefix >= 0 && network.prefix <= 32, 'network.prefix');
  demand(env === undefined || (typeof env === 'object' && env !== null), 'env');
}
