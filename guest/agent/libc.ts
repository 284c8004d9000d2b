/** The C library through koffi: only the functions that Node does not offer. */
import { createRequire } from 'node:module';
import { constants } from 'node:os';

const PROTOTYPES = {
  // ioctl is variadic in C; on Linux both amd64 and arm64 pass its third argument like a fixed one.
  ioctl: 'int ioctl(int fd, unsigned long request, void *argument)',
  pipe2: 'int pipe2(void *ends, int flags)',
  poll: 'int poll(void *fds, unsigned long count, int timeout)',
  recv: 'int64_t recv(int fd, void *bytes, size_t length, int flags)',
  // Variadic too.
  prctl: 'int prctl(int option, unsigned long a, unsigned long b, unsigned long c, unsigned long d)',
  socket: 'int socket(int domain, int type, int protocol)',
  sendto:
    'int64_t sendto(int fd, const void *bytes, size_t length, int flags, const void *address, uint32_t addressLength)',
  sethostname: 'int sethostname(const char *name, size_t length)',
  clock_settime: 'int clock_settime(int clock, const void *time)',
  listxattr: 'int64_t listxattr(const char *path, void *list, size_t size)',
  getxattr: 'int64_t getxattr(const char *path, const char *name, void *value, size_t size)',
  setxattr: 'int setxattr(const char *path, const char *name, const void *value, size_t size, int flags)',
  removexattr: 'int removexattr(const char *path, const char *name)',
  inotify_init1: 'int inotify_init1(int flags)',
  inotify_add_watch: 'int inotify_add_watch(int fd, const char *path, uint32_t mask)',
  inotify_rm_watch: 'int inotify_rm_watch(int fd, int watch)',
} as const;

export type LibcName = keyof typeof PROTOTYPES;

const WAITING = {
  mount:
    'int mount(const char *source, const char *target, const char *type, unsigned long flags, const char *options)',
  umount2: 'int umount2(const char *target, int flags)',
} as const;

export type WaitingName = keyof typeof WAITING;

export interface Libc {
  /** Throws an error with `code` (an errno name) when the function returns -1. */
  call(name: LibcName, ...args: unknown[]): number;
  /** -1 on failure. */
  tryCall(name: LibcName, ...args: unknown[]): number;
  sync(): Promise<void>;
  /** On another thread: for what may have to wait. Rejects as `call` throws. */
  wait(name: WaitingName, ...args: unknown[]): Promise<void>;
  /** Where the bytes lie, for a pointer within a structure. Valid while the buffer is referenced. */
  addressOf(bytes: Buffer): bigint;
}

export function loadLibc(): Libc {
  // Required and not imported, so that an agent that needs none of this starts without it.
  const koffi = createRequire(import.meta.url)('koffi') as typeof import('koffi');
  const library = koffi.load('libc.so.6');
  const functions = Object.fromEntries(
    Object.entries(PROTOTYPES).map(([name, prototype]) => [name, library.func(prototype)]),
  ) as unknown as Record<LibcName, (...args: unknown[]) => number>;
  const sync = library.func('void sync()');

  const failed = (name: string): Error => {
    const errno = koffi.errno();
    const code = Object.entries(constants.errno).find(([, value]) => value === errno)?.[0] ?? String(errno);
    return Object.assign(new Error(`${name}: ${code}`), { code, errno });
  };
  const tryCall = (name: LibcName, ...args: unknown[]): number => Number(functions[name](...args));
  return {
    tryCall,
    addressOf: (bytes) => koffi.address(bytes),
    call(name, ...args) {
      const result = tryCall(name, ...args);
      if (result !== -1) return result;
      throw failed(name);
    },
    wait(name, ...args) {
      const act = library.func(WAITING[name]);
      return new Promise((resolve, reject) => {
        act.async(...args, (error: Error | null, result: number) => {
          if (error || result === -1) reject(error ?? failed(name));
          else resolve();
        });
      });
    },
    sync: () =>
      new Promise((resolve, reject) => {
        sync.async((error: Error | null) => (error ? reject(error) : resolve()));
      }),
  };
}
