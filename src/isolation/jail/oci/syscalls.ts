/**
 * The system calls that make a jail's file system and Node does not offer, through koffi (docs/decisions/0012). Numbers are
 * the kernel's common ones, equal on x86-64 and arm64. All of them act on the calling thread's mount namespace.
 */
import { constants } from 'node:fs';
import { createRequire } from 'node:module';
import { getSystemErrorName } from 'node:util';

const NR = { open_tree: 428, move_mount: 429, mount_setattr: 442 } as const;
const AT_FDCWD = -100;
const AT_EMPTY_PATH = 0x1000;
const OPEN_TREE_CLONE = 1;
const MOVE_MOUNT_F_EMPTY_PATH = 4;
const MOUNT_ATTR_RDONLY = 1;
const MOUNT_ATTR_IDMAP = 0x100000;
/** struct mount_attr: attr_set, attr_clr, propagation, userns_fd, 64 bits each. */
const MOUNT_ATTR_BYTES = 32;
const CLONE_NEWNS = 0x20000;
const CLONE_NEWNET = 0x40000000;
/** SOCK_CLOEXEC and SOCK_NONBLOCK. */
const SOCK_FLAGS = 0o2004000;
/** asm-generic/fcntl.h */
const O_CLOEXEC = 0o2000000;
const PR_GET_SECUREBITS = 27;
const PR_SET_SECUREBITS = 28;
/** A change of the file system's uid keeps the capabilities. */
const SECBIT_NO_SETUID_FIXUP = 4;
const AF_UNIX = 1;
const SOCK_STREAM = 1;
const SUN_PATH_BYTES = 108;

/** Flags of mount(2). */
export const MS = { RDONLY: 1, NOSUID: 2, NODEV: 4, NOATIME: 1024, REC: 16_384, SLAVE: 1 << 19 } as const;

export interface Syscalls {
  /**
   * From here on what this thread mounts is seen by it and its children alone; what the host mounts is seen here too. Its
   * sockets are of a network with nothing in it: whoever gets hold of one can ask it for the interfaces of its network.
   */
  unshare(): void;
  mount(source: string, target: string, type: string, flags: number, data: string): void;
  /** Detached at once, gone when its last user is. */
  unmount(target: string): void;
  /**
   * Mounts the file system at `source` at `target`, with ids shifted by the user namespace: 0 on disk is the namespace's
   * root here.
   */
  mountMapped(source: string, target: string, userNamespace: number, options: { readonly readOnly: boolean }): void;
  /** Runs `act` with this thread's file system ids set to `id`, with all capabilities. */
  asFileSystemUser(id: number, act: () => void): void;
  ioctl(fd: number, request: number, argument: Buffer | number): number;
  /** A unix socket that listens at `path`; the descriptor is the caller's to `close`. */
  listen(path: string): number;
  /** A unix socket connected to `path`, not blocking; null when nobody listens there. The descriptor is the caller's. */
  connect(path: string): number | null;
  /** An open folder, for another thread: Node would close at this one's end what this one opened by it. The caller's. */
  openFolder(path: string): number;
  /** Closes a descriptor that Node did not open. */
  close(fd: number): void;
}

export function loadSyscalls(): Syscalls {
  const koffi = createRequire(import.meta.url)('koffi') as typeof import('koffi');
  const libc = koffi.load('libc.so.6');
  const fail = (name: string): never => {
    const code = getSystemErrorName(-koffi.errno());
    throw Object.assign(new Error(`${name}: ${code}`), { code });
  };
  const wrap = (name: string, prototype: string) => {
    const call = libc.func(prototype);
    return (...args: unknown[]): number => {
      const result = Number(call(...args));
      return result === -1 ? fail(name) : result;
    };
  };
  const openTree = wrap('open_tree', 'long syscall(long number, long folder, const char *path, unsigned long flags)');
  const setAttributes = wrap(
    'mount_setattr',
    'long syscall(long number, long folder, const char *path, long flags, void *attributes, long size)',
  );
  const moveMount = wrap(
    'move_mount',
    'long syscall(long number, long from, const char *fromPath, long to, const char *toPath, long flags)',
  );
  const mount = wrap(
    'mount',
    'int mount(const char *source, const char *target, const char *type, unsigned long flags, const char *data)',
  );
  const unmount = wrap('umount2', 'int umount2(const char *target, int flags)');
  const unshare = wrap('unshare', 'int unshare(int flags)');
  const prctl = wrap(
    'prctl',
    'int prctl(int option, unsigned long a, unsigned long b, unsigned long c, unsigned long d)',
  );
  const setFsUid = libc.func('int setfsuid(unsigned int id)');
  const setFsGid = libc.func('int setfsgid(unsigned int id)');
  const ioctlBuffer = wrap('ioctl', 'int ioctl(int fd, unsigned long request, void *argument)');
  const ioctlNumber = wrap('ioctl', 'int ioctl(int fd, unsigned long request, long argument)');
  const socket = wrap('socket', 'int socket(int domain, int type, int protocol)');
  const bind = wrap('bind', 'int bind(int fd, const void *address, unsigned int size)');
  const connect = wrap('connect', 'int connect(int fd, const void *address, unsigned int size)');
  const listen = wrap('listen', 'int listen(int fd, int backlog)');
  const open = wrap('open', 'int open(const char *path, int flags)');
  const close = libc.func('int close(int fd)');
  const MNT_DETACH = 2;

  return {
    unshare() {
      unshare(CLONE_NEWNS | CLONE_NEWNET);
      mount('none', '/', null, MS.REC | MS.SLAVE, null);
    },
    mount(source, target, type, flags, data) {
      try {
        mount(source, target, type, flags, data);
      } catch (error) {
        throw new Error(`${type} cannot be mounted at ${target}: ${(error as Error).message}`, { cause: error });
      }
    },
    unmount: (target) => void unmount(target, MNT_DETACH),
    mountMapped(source, target, userNamespace, { readOnly }) {
      const tree = openTree(NR.open_tree, AT_FDCWD, source, OPEN_TREE_CLONE | O_CLOEXEC);
      try {
        const attributes = Buffer.alloc(MOUNT_ATTR_BYTES);
        attributes.writeBigUInt64LE(BigInt(MOUNT_ATTR_IDMAP | (readOnly ? MOUNT_ATTR_RDONLY : 0)), 0);
        attributes.writeBigUInt64LE(BigInt(userNamespace), 24);
        setAttributes(NR.mount_setattr, tree, '', AT_EMPTY_PATH, attributes, MOUNT_ATTR_BYTES);
        moveMount(NR.move_mount, tree, '', AT_FDCWD, target, MOVE_MOUNT_F_EMPTY_PATH);
      } finally {
        close(tree);
      }
    },
    asFileSystemUser(id, act) {
      const before = prctl(PR_GET_SECUREBITS, 0, 0, 0, 0);
      prctl(PR_SET_SECUREBITS, before | SECBIT_NO_SETUID_FIXUP, 0, 0, 0);
      setFsGid(id);
      setFsUid(id);
      try {
        act();
      } finally {
        setFsUid(0);
        setFsGid(0);
        prctl(PR_SET_SECUREBITS, before, 0, 0, 0);
      }
    },
    ioctl: (fd, request, argument) =>
      typeof argument === 'number' ? ioctlNumber(fd, request, argument) : ioctlBuffer(fd, request, argument),
    openFolder: (path) => open(path, constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW | O_CLOEXEC),
    listen(path) {
      const fd = socket(AF_UNIX, SOCK_STREAM, 0);
      try {
        const address = unixAddress(path);
        bind(fd, address, address.length);
        listen(fd, 8);
        return fd;
      } catch (error) {
        close(fd);
        throw error;
      }
    },
    connect(path) {
      const fd = socket(AF_UNIX, SOCK_STREAM | SOCK_FLAGS, 0);
      try {
        const address = unixAddress(path);
        connect(fd, address, address.length);
        return fd;
      } catch (error) {
        close(fd);
        if (['ENOENT', 'ECONNREFUSED'].includes((error as NodeJS.ErrnoException).code ?? '')) return null;
        throw error;
      }
    },
    close: (fd) => void close(fd),
  };
}

/** struct sockaddr_un. */
function unixAddress(path: string): Buffer {
  const name = Buffer.from(path);
  if (name.length >= SUN_PATH_BYTES) throw new Error(`the path of a socket is too long: ${path}`);
  const address = Buffer.alloc(2 + SUN_PATH_BYTES);
  address.writeUInt16LE(AF_UNIX, 0);
  name.copy(address, 2);
  return address;
}
