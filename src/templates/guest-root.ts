/**
 * What any root filesystem needs to run as a sandbox of ours, as a plan: which folders, files and accounts are added to it.
 * Our agent brings its own Node, libraries and busybox on a drive, so nothing is needed that an image could lack: no shell,
 * no C library, no package manager. Never added: programs, packages, services, keys, anything secret, and no file of the
 * image's is changed that is not named here.
 *
 *     /proc /sys /dev /run      folders, for the guest's init and the jails to mount over
 *     /tmp /etc /root           folders
 *     /etc/hostname hosts resolv.conf machine-id      plain files, as those of our own templates; Docker's are empty
 *     /etc/passwd group shadow  root and `user`, appended where they are missing
 *     /home/user                with /etc/skel's files when it is new
 *     /etc/sudoers.d/90-user    `user` may do anything where sudo is, or comes later
 *     /etc/profile.d/coppice-path.sh      where the image has a PATH of its own, which login shells forget
 */
import { CoppiceError } from '../contract/errors.ts';

/** The image as it is, links followed within it. */
export interface RootView {
  /** undefined: there is nothing, or a link that leads nowhere. */
  find(path: string): RootNode | undefined;
  /** Of the name itself: a link is told as such. */
  findNamed(path: string): RootNode | undefined;
  /** Names in a folder; of anything else none. */
  list(path: string): readonly string[];
  /** Of a plain file of at most 1 MiB; undefined: there is none. One character a byte. */
  read(path: string): string | undefined;
}

export interface RootNode {
  readonly kind: 'file' | 'folder' | 'symlink';
  readonly mode: number;
}

export type RootChange =
  /** Left as it is where it is a folder, with `own` but for its mode and owner; replaces anything else. */
  | {
      readonly kind: 'folder';
      readonly path: string;
      readonly mode: number;
      readonly owner: Owner;
      readonly own?: true;
    }
  /** Replaces whatever is there. `text`: one character a byte. */
  | {
      readonly kind: 'file';
      readonly path: string;
      readonly mode: number;
      readonly owner: Owner;
      readonly text: string;
    }
  | { readonly kind: 'symlink'; readonly path: string; readonly target: string }
  | { readonly kind: 'absent'; readonly path: string };

export interface Owner {
  readonly uid: number;
  readonly gid: number;
}

/** What a builder needs to know of the root filesystem. */
export interface RootFacts {
  /** For login shells; undefined: the image has none, and no command can be run but its own programs. */
  readonly shell?: '/bin/bash' | '/bin/sh';
  readonly sudo: boolean;
}

export interface GuestRootPlan {
  readonly changes: readonly RootChange[];
  readonly facts: RootFacts;
}

/** The account that sandboxes run as. */
export const GUEST_USER = 'user';
export const DEFAULT_PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';
/** Where a login shell is told what the template's PATH is. */
export const PATH_SCRIPT = '/etc/profile.d/coppice-path.sh';

const ROOT: Owner = { uid: 0, gid: 0 };
const FIRST_ID = 1_000;
const LAST_ID = 59_999;
const HOME = `/home/${GUEST_USER}`;
/** Days since the epoch, in /etc/shadow: 2023-11-14, the date of all our images. */
const PASSWORD_DAY = 19_675;
const HOSTS = '127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n';
const RESOLV_CONF = 'nameserver 8.8.8.8\nnameserver 1.1.1.1\noptions timeout:2\n';

/** `path`: the PATH of the image's environment. An image whose /etc is no folder: bad_request. */
export function planGuestRoot(view: RootView, path: string | undefined): GuestRootPlan {
  const etc = view.findNamed('/etc');
  if (etc !== undefined && etc.kind !== 'folder')
    throw new CoppiceError('bad_request', '/etc of the image is no folder of its own');
  const facts = factsOf(view);
  const changes: RootChange[] = [
    { kind: 'folder', path: '/', mode: 0o755, owner: ROOT, own: true },
    ...['/proc', '/sys', '/dev', '/run', '/etc'].map((name) => folder(name, 0o755)),
    folder('/tmp', 0o1777),
    folder('/root', 0o700),
    file('/etc/hostname', 'sandbox\n'),
    file('/etc/hosts', HOSTS),
    file('/etc/resolv.conf', RESOLV_CONF),
    // One identity for each sandbox, given to it when it is handed out.
    file('/etc/machine-id', ''),
  ];
  if (view.find('/var/lib/dbus/machine-id') ?? view.findNamed('/var/lib/dbus/machine-id'))
    changes.push({ kind: 'symlink', path: '/var/lib/dbus/machine-id', target: '/etc/machine-id' });
  for (const name of view.list('/etc/ssh'))
    if (name.startsWith('ssh_host_')) changes.push({ kind: 'absent', path: `/etc/ssh/${name}` });
  if (view.findNamed('/var/lib/systemd/random-seed'))
    changes.push({ kind: 'absent', path: '/var/lib/systemd/random-seed' });
  changes.push(...accounts(view, facts));
  changes.push(file('/etc/sudoers.d/90-user', `${GUEST_USER} ALL=(ALL:ALL) NOPASSWD: ALL\n`, 0o440));
  if (path !== undefined && path !== DEFAULT_PATH)
    changes.push(file(PATH_SCRIPT, Buffer.from(pathScript(path)).toString('latin1')));
  return { changes, facts };
}

/**
 * For login shells, whose /etc/profile sets a PATH of the distribution's own. What a command has been given otherwise is
 * lost there in any case.
 */
export function pathScript(path: string): string {
  return `PATH='${path.replaceAll("'", "'\\''")}'\nexport PATH\n`;
}

function factsOf(view: RootView): RootFacts {
  const runs = (path: string) => {
    const node = view.find(path);
    return node?.kind === 'file' && (node.mode & 0o111) !== 0;
  };
  const shell = (['/bin/bash', '/bin/sh'] as const).find(runs);
  return { ...(shell === undefined ? {} : { shell }), sudo: runs('/usr/bin/sudo') };
}

function accounts(view: RootView, { shell }: RootFacts): RootChange[] {
  const passwd = new Table(view.read('/etc/passwd'));
  const group = new Table(view.read('/etc/group'));
  const shadow = view.read('/etc/shadow');
  const changes: RootChange[] = [];
  if (!passwd.has('root')) passwd.add(`root:x:0:0:root:/root:${shell ?? '/sbin/nologin'}`);
  if (!group.has('root')) group.add('root:x:0:');

  const known = passwd.fields(GUEST_USER);
  const ids = { uid: idOf(known?.[2]), gid: idOf(known?.[3]) };
  let owner: Owner;
  let home = HOME;
  if (known !== undefined && ids.uid !== undefined && ids.gid !== undefined) {
    owner = { uid: ids.uid, gid: ids.gid };
    home = known[5]?.startsWith('/') && !known[5].split('/').includes('..') ? known[5] : HOME;
  } else {
    if (known !== undefined) passwd.remove(GUEST_USER);
    const ofGroup = idOf(group.fields(GUEST_USER)?.[2]);
    const uid = freeID(passwd, ofGroup === undefined ? group : undefined);
    owner = { uid, gid: ofGroup ?? uid };
    // Without a shadow file an `x` would send who asks to a file that is not there.
    const password = shadow === undefined ? '*' : 'x';
    passwd.add(`${GUEST_USER}:${password}:${owner.uid}:${owner.gid}::${HOME}:${shell ?? '/sbin/nologin'}`);
    if (ofGroup === undefined) group.add(`${GUEST_USER}:x:${owner.gid}:`);
  }
  if (passwd.changed) changes.push(file('/etc/passwd', passwd.text));
  if (group.changed) changes.push(file('/etc/group', group.text));
  if (shadow !== undefined) {
    const table = new Table(shadow);
    for (const name of ['root', GUEST_USER]) if (!table.has(name)) table.add(`${name}:*:${PASSWORD_DAY}:0:99999:7:::`);
    const { mode } = view.find('/etc/shadow') ?? { mode: 0o600 };
    // Its group may read it, where it has one.
    if (table.changed) changes.push({ ...file('/etc/shadow', table.text, mode), owner: shadowOwner(group) });
  }
  const isNew = view.find(home) === undefined;
  // A home that waited for its user becomes his; one that has its user already is left as it is.
  const own = known === undefined && !isNew;
  changes.push({ kind: 'folder', path: home, mode: 0o755, owner, ...(own ? { own: true as const } : {}) });
  if (isNew) {
    for (const name of view.list('/etc/skel')) {
      const text = view.read(`/etc/skel/${name}`);
      if (text !== undefined) changes.push({ ...file(`${home}/${name}`, text), owner });
    }
  }
  return changes;
}

function shadowOwner(group: Table): Owner {
  return { uid: 0, gid: idOf(group.fields('shadow')?.[2]) ?? 0 };
}

/** The first number from 1000 on that is nobody's, in either table. */
function freeID(passwd: Table, group: Table | undefined): number {
  const taken = new Set([...passwd.ids(), ...(group?.ids() ?? [])]);
  for (let id = FIRST_ID; id <= LAST_ID; id++) if (!taken.has(id)) return id;
  throw new CoppiceError('bad_request', 'the image has no user number left for an account of its sandboxes');
}

/** Lines of fields between colons, the first of which is the name. Lines are kept as they are. */
class Table {
  #lines: string[];
  #changed = false;

  constructor(text: string | undefined) {
    this.#lines = (text ?? '').split('\n').filter((line) => line !== '');
  }

  get changed(): boolean {
    return this.#changed;
  }

  get text(): string {
    return `${this.#lines.join('\n')}\n`;
  }

  has(name: string): boolean {
    return this.fields(name) !== undefined;
  }

  fields(name: string): readonly string[] | undefined {
    return this.#lines.map((line) => line.split(':')).find(([first]) => first === name);
  }

  /** The third fields that are numbers. */
  ids(): number[] {
    return this.#lines.flatMap((line) => idOf(line.split(':')[2]) ?? []);
  }

  add(line: string): void {
    this.#lines.push(line);
    this.#changed = true;
  }

  remove(name: string): void {
    this.#lines = this.#lines.filter((line) => line.split(':')[0] !== name);
    this.#changed = true;
  }
}

function idOf(text: string | undefined): number | undefined {
  return text !== undefined && /^\d{1,10}$/.test(text) ? Number(text) : undefined;
}

function folder(path: string, mode: number): RootChange {
  return { kind: 'folder', path, mode, owner: ROOT };
}

function file(path: string, text: string, mode = 0o644): Extract<RootChange, { kind: 'file' }> {
  return { kind: 'file', path, mode, owner: ROOT, text };
}
