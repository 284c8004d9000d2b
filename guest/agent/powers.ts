/**
 * What the agent does that reaches past the file system and its own processes: the few system calls that Node does not
 * have, and the settings of the whole machine. An interface, so that tests run the agent on a host without touching it.
 */
import fs from 'node:fs';
import type { Identity } from '../../src/channel/protocol.ts';
import { type Connections, cutConnections } from './connections.ts';
import { type Libc, loadLibc } from './libc.ts';
import { createNetwork } from './network.ts';

export interface Powers {
  /** Loads what is loaded on first use, so that a checkpoint holds it. */
  warm(): void;
  /** A pipe, closed on exec: [read end, write end]. */
  pipe(): readonly [number, number];
  openPty(size: { readonly cols: number; readonly rows: number }): { readonly master: number; readonly slave: string };
  resizePty(master: number, size: { readonly cols: number; readonly rows: number }): void;
  /** Whether a write to `fd` would not wait. */
  writable(fd: number): boolean;
  /** `user.*` attributes whose name begins with `prefix`, without it. Empty where the file system has none. */
  readAttributes(path: string, prefix: string): Record<string, string>;
  /** Replaces that set. */
  writeAttributes(path: string, prefix: string, values: Readonly<Record<string, string>>): void;
  inotifyOpen(): number;
  inotifyAdd(fd: number, path: string, mask: number): number;
  inotifyRemove(fd: number, watch: number): void;
  /** For this process and all that it starts. */
  allowHugePages(): void;
  /** Flushes all file systems. */
  sync(): Promise<void>;

  setClock(ms: number): void;
  /** Credits the bytes to the kernel's pool and reseeds its generator. */
  addEntropy(bytes: Buffer): void;
  setHostname(name: string): void;
  setNetwork(network: Identity['network']): void;
  /** undefined: the machine has no way to know of them. */
  cutConnections(): Connections | undefined;
  /** mount(2). Rejects with an error whose `code` is the name of an errno. */
  mount(source: string, target: string, type: string, flags: number, options: string): Promise<void>;
  /** umount2(2). */
  unmount(target: string, flags: number): Promise<void>;
}

const O_CLOEXEC = 0o2000000;
const IN_CLOEXEC = O_CLOEXEC;
const CLOCK_REALTIME = 0;
const TIOCGPTN = 0x80045430;
const TIOCSPTLCK = 0x40045431;
const TIOCSWINSZ = 0x5414;
const RNDADDENTROPY = 0x40085203;
const RNDRESEEDCRNG = 0x5207;
const POLLOUT = 4;
const PR_SET_THP_DISABLE = 41;
/** The kernel's limit for the list of names, and for one value. */
const XATTR_BYTES = 65_536;

export function realPowers(): Powers {
  let loaded: Libc | undefined;
  const libc = (): Libc => {
    loaded ??= loadLibc();
    return loaded;
  };
  const scratch = Buffer.alloc(16);
  let attributes: Buffer | undefined;
  let random: number | undefined;
  const network = createNetwork(libc, 'eth0');

  const attributeNames = (path: string, prefix: string): string[] => {
    attributes ??= Buffer.allocUnsafeSlow(XATTR_BYTES);
    const size = libc().tryCall('listxattr', path, attributes, attributes.length);
    if (size <= 0) return [];
    const names = attributes.toString('utf8', 0, size).split('\0');
    return names.filter((name) => name.startsWith(prefix));
  };

  return {
    warm: () => void libc(),
    pipe() {
      const ends = Buffer.alloc(8);
      libc().call('pipe2', ends, O_CLOEXEC);
      return [ends.readInt32LE(0), ends.readInt32LE(4)];
    },
    openPty(size) {
      const master = fs.openSync('/dev/ptmx', fs.constants.O_RDWR | fs.constants.O_NOCTTY);
      try {
        scratch.fill(0);
        libc().call('ioctl', master, TIOCSPTLCK, scratch);
        libc().call('ioctl', master, TIOCGPTN, scratch);
        const slave = `/dev/pts/${scratch.readUInt32LE(0)}`;
        libc().call('ioctl', master, TIOCSWINSZ, winsize(size));
        return { master, slave };
      } catch (error) {
        fs.closeSync(master);
        throw error;
      }
    },
    resizePty: (master, size) => void libc().call('ioctl', master, TIOCSWINSZ, winsize(size)),
    writable(fd) {
      scratch.fill(0);
      scratch.writeInt32LE(fd, 0);
      scratch.writeInt16LE(POLLOUT, 4);
      return libc().tryCall('poll', scratch, 1, 0) > 0 && (scratch.readInt16LE(6) & POLLOUT) !== 0;
    },
    readAttributes(path, prefix) {
      const found: Record<string, string> = {};
      for (const name of attributeNames(path, prefix)) {
        const size = libc().tryCall('getxattr', path, name, attributes, XATTR_BYTES);
        if (size >= 0) found[name.slice(prefix.length)] = attributes!.toString('utf8', 0, size);
      }
      return found;
    },
    writeAttributes(path, prefix, values) {
      for (const name of attributeNames(path, prefix))
        if (!Object.hasOwn(values, name.slice(prefix.length))) libc().call('removexattr', path, name);
      for (const [name, value] of Object.entries(values)) {
        const bytes = Buffer.from(value);
        libc().call('setxattr', path, prefix + name, bytes, bytes.length, 0);
      }
    },
    inotifyOpen: () => libc().call('inotify_init1', IN_CLOEXEC),
    inotifyAdd: (fd, path, mask) => libc().call('inotify_add_watch', fd, path, mask),
    inotifyRemove: (fd, watch) => void libc().tryCall('inotify_rm_watch', fd, watch),
    allowHugePages: () => void libc().tryCall('prctl', PR_SET_THP_DISABLE, 0, 0, 0, 0),
    sync: () => libc().sync(),

    setClock(ms) {
      const time = Buffer.alloc(16);
      const seconds = Math.floor(ms / 1000);
      // struct timespec: seconds of 64 bits, here in two halves, and nanoseconds.
      time.writeUInt32LE(seconds % 2 ** 32, 0);
      time.writeUInt32LE(Math.floor(seconds / 2 ** 32), 4);
      time.writeUInt32LE(Math.floor((ms - seconds * 1000) * 1e6), 8);
      libc().call('clock_settime', CLOCK_REALTIME, time);
    },
    addEntropy(bytes) {
      // struct rand_pool_info: bits credited, bytes, the bytes.
      const pool = Buffer.alloc(8 + bytes.length);
      pool.writeInt32LE(bytes.length * 8, 0);
      pool.writeInt32LE(bytes.length, 4);
      bytes.copy(pool, 8);
      random ??= fs.openSync('/dev/random', 'r+');
      libc().call('ioctl', random, RNDADDENTROPY, pool);
      libc().call('ioctl', random, RNDRESEEDCRNG, null);
    },
    setHostname: (name) => void libc().call('sethostname', name, name.length),
    setNetwork: (wish) => network.set(wish ?? null),
    cutConnections() {
      try {
        return cutConnections(libc());
      } catch {
        // A kernel without it, or a jail that may not ask.
        return undefined;
      }
    },
    mount: (source, target, type, flags, options) => libc().wait('mount', source, target, type, flags, options),
    unmount: (target, flags) => libc().wait('umount2', target, flags),
  };
}

function winsize(size: { readonly cols: number; readonly rows: number }): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeUInt16LE(size.rows, 0);
  bytes.writeUInt16LE(size.cols, 2);
  return bytes;
}
