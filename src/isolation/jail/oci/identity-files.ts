/** Who a jail is, in the files of its layer: host name, machine id, hosts. */
import {
  closeSync,
  constants,
  fchmodSync,
  fstatSync,
  lstatSync,
  mkdirSync,
  openSync,
  readFileSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';

export interface JailIdentity {
  readonly hostname: string;
  readonly machineID: string;
}

const DEFAULT_HOSTS = '127.0.0.1\tlocalhost\n::1\tlocalhost\n';
/** More than this is no table of hosts. */
const MOST_HOSTS_BYTES = 256 * 1024;
const DBUS = ['var', 'lib', 'dbus'];
const FOLDER = constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW;
/** A pipe does not keep us waiting. */
const FILE = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK;
/** Never something that is there, whatever it is. */
const NEW_FILE = constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW;
/** What stands in a jail's way is its own: a link or a file for a folder, a folder for a file, a disk without a byte left. */
const OWN_DOING = [
  'ENOENT',
  'ENOTDIR',
  'ELOOP',
  'EEXIST',
  'EISDIR',
  'EPERM',
  'ENOTEMPTY',
  'ENOSPC',
  'EDQUOT',
  'EMLINK',
];

/**
 * Writes them into a blank layer, before anybody runs in it. What is read of the template is its maker's: no link in it is
 * followed.
 *
 * @param upper the layer's folder that lies over the template.
 */
export function writeIdentity(template: string, upper: string, { hostname, machineID }: JailIdentity): void {
  const etc = join(upper, 'etc');
  let hosts = DEFAULT_HOSTS;
  mkdirSync(etc, { mode: 0o755 });
  writeFileSync(join(etc, 'hostname'), `${hostname}\n`);
  writeFileSync(join(etc, 'machine-id'), `${machineID}\n`);
  const top = openSync(template, FOLDER);
  try {
    within(top, ['etc'], (theirs) => {
      hosts = textOf(theirs, 'hosts') ?? DEFAULT_HOSTS;
    });
    within(top, DBUS, (theirs) => {
      // Where D-Bus is installed; often a link to the other.
      if (!isFile(at(theirs, 'machine-id'))) return;
      const dbus = join(upper, ...DBUS);
      mkdirSync(dbus, { recursive: true, mode: 0o755 });
      writeFileSync(join(dbus, 'machine-id'), `${machineID}\n`);
    });
  } finally {
    closeSync(top);
  }
  writeFileSync(join(etc, 'hosts'), hostsOf(hosts, hostname));
}

/**
 * Writes them anew over those of another jail. Everything below `root` was its root's to arrange, and this thread may do
 * anything on the host: so no link is followed (each folder is opened by its last name alone, without following), nothing
 * that is there is opened for writing, and what stands in the way stays. The old names are gone in any case but that one.
 *
 * @param root the jail's root as it will see it, whiteouts and all; the caller acts as the jail's root, nobody runs in it.
 */
export function renewIdentity(root: string, { hostname, machineID }: JailIdentity): void {
  const top = openSync(root, FOLDER);
  try {
    within(top, ['etc'], (etc) => {
      replace(etc, 'hostname', `${hostname}\n`);
      replace(etc, 'machine-id', `${machineID}\n`);
      replace(etc, 'hosts', hostsOf(textOf(etc, 'hosts') ?? DEFAULT_HOSTS, hostname));
    });
    within(top, DBUS, (dbus) => {
      // Where it is a link, it is one to the other.
      if (isFile(at(dbus, 'machine-id'))) replace(dbus, 'machine-id', `${machineID}\n`);
    });
  } finally {
    closeSync(top);
  }
}

/**
 * Refuses a root in which the runtime would mount over something else than these folders. Its jails cannot bring that about,
 * since to them they are mount points; what is masked below them depends on it.
 */
export function checkMountPoints(root: string): void {
  for (const name of ['dev', 'proc', 'run', 'sys'])
    if (!lstatSync(join(root, name), { throwIfNoEntry: false })?.isDirectory())
      throw new Error(`/${name} of the layer is no folder`);
}

/** Every line but the one of the machine's own name, which is added. */
export function hostsOf(text: string, hostname: string): string {
  const lines = text.split('\n').filter((line) => line !== '' && line.split(/\s+/)[0] !== '127.0.1.1');
  return `${[...lines, `127.0.1.1\t${hostname}`].join('\n')}\n`;
}

function at(folder: number, name: string): string {
  return `/proc/${process.pid}/fd/${folder}/${name}`;
}

/** Walks down one folder at a time; nothing happens when one of them is none. */
function within(folder: number, [name, ...rest]: readonly string[], act: (folder: number) => void): void {
  if (name === undefined) {
    act(folder);
    return;
  }
  const next = unlessOwnDoing(() => openSync(at(folder, name), FOLDER));
  if (next === undefined) return;
  try {
    within(next, rest, act);
  } finally {
    closeSync(next);
  }
}

/** A new file under that name: another name of the old one keeps what it had. */
function replace(folder: number, name: string, text: string): void {
  unlessOwnDoing(() => unlinkSync(at(folder, name)));
  const fd = unlessOwnDoing(() => openSync(at(folder, name), NEW_FILE, 0o644));
  if (fd === undefined) return;
  try {
    fchmodSync(fd, 0o644);
    unlessOwnDoing(() => writeFileSync(fd, text));
  } finally {
    closeSync(fd);
  }
}

function textOf(folder: number, name: string): string | undefined {
  const fd = unlessOwnDoing(() => openSync(at(folder, name), FILE));
  if (fd === undefined) return undefined;
  try {
    const stats = fstatSync(fd);
    return stats.isFile() && stats.size <= MOST_HOSTS_BYTES ? readFileSync(fd, 'utf8') : undefined;
  } finally {
    closeSync(fd);
  }
}

function unlessOwnDoing<T>(act: () => T): T | undefined {
  try {
    return act();
  } catch (error) {
    if (OWN_DOING.includes((error as NodeJS.ErrnoException).code ?? '')) return undefined;
    throw error;
  }
}

/** A link leads where it wills: not followed. */
function isFile(path: string): boolean {
  return lstatSync(path, { throwIfNoEntry: false })?.isFile() ?? false;
}
