/**
 * What root in a jail does in order to use up the host, one row a bomb: Python that takes all it gets, prints one line
 * `HELD <json>`, and holds it until the jail is killed. Each is bounded where the defence fails: in time by an alarm, in
 * size by what a host that runs these tests has.
 */
export interface Bomb {
  readonly what: string;
  /** `limit`: the jail's memory in bytes; `disk`: its disk in bytes. */
  readonly python: string;
  /** What must be true of what it printed. */
  readonly contained: (held: Held, limits: Limits) => boolean;
  /** Whether commands still run in the jail while the bomb holds. */
  readonly usable: boolean;
}

export interface Limits {
  readonly memoryBytes: number;
  readonly diskBytes: number;
}

/** What the row printed. Nothing: the kernel ended it before. */
export type Held = Readonly<Record<string, number>> | undefined;

const bomb = (
  what: string,
  usable: boolean,
  contained: (held: Readonly<Record<string, number>>, limits: Limits) => boolean,
  python: string,
): Bomb => ({ what, usable, contained: (held, limits) => held !== undefined && contained(held, limits), python });

export function bombProgram(one: Bomb, limits: Limits): string {
  return `
import ctypes, json, mmap, os, resource, signal, sys, time
limit, disk = ${limits.memoryBytes}, ${limits.diskBytes}
signal.alarm(60)
def held(**what):
    print('HELD ' + json.dumps(what), flush=True)
    time.sleep(60)
def most(get, bound):
    things, error = [], 0
    while len(things) < bound:
        try: things.append(get())
        except OSError as e:
            error = e.errno
            break
    return things, error
${one.python.trim()}
`;
}

const EAGAIN = 11;
const EMFILE = 24;
const ENOSPC = 28;
const SIGKILL = 9;

export const BOMBS: readonly Bomb[] = [
  bomb(
    'processes',
    false,
    ({ error, processes }) => error === EAGAIN && processes! > 256 && processes! < 3_000,
    `
sleep = ['/run/coppice/drive/bin/busybox', 'sleep', '50']
things, error = most(lambda: os.posix_spawn(sleep[0], sleep, {}), 4000)
held(error=error, processes=len(things))`,
  ),
  {
    what: 'processes that make processes',
    usable: false,
    // Out of processes or of time, or of memory: then there is nobody to print. That the limit is met says the row
    // above; here it must hold, and the kill must end them all, whatever they are at.
    contained: (held) => held === undefined || ([0, EAGAIN].includes(held.error!) && held.processes! < 3_000),
    // All of them fork until nobody can, and end when they are not killed. Here 4000 is the most there will be.
    python: `
resource.setrlimit(resource.RLIMIT_NPROC, (4000, 4000))
first, end, error = os.getpid(), time.time() + 4, 0
while time.time() < end:
    try:
        if os.fork() == 0: signal.alarm(20)
    except OSError as e:
        error = e.errno
        time.sleep(0.2)
if os.getpid() == first:
    held(error=error, processes=len([p for p in os.listdir('/proc') if p.isdigit()]))
time.sleep(20)`,
  },
  bomb(
    'memory',
    true,
    ({ signal }) => signal === SIGKILL,
    `
child = os.fork()
if child == 0:
    m = mmap.mmap(-1, 2 * limit)
    for at in range(0, 2 * limit, 4096): m[at] = 1
    os._exit(0)
held(signal=os.WTERMSIG(os.waitpid(child, 0)[1]))`,
  ),
  {
    what: 'memory as files of tmpfs',
    usable: false,
    // It, or what holds the most beside it, is killed: then there is nothing to print.
    contained: (held, limits) => held === undefined || held.written! <= limits.memoryBytes,
    python: `
block, written = bytes(1 << 20), 0
for folder in ('/dev/shm', '/run', '/run/lock', '/dev', '/sys'):
    try:
        f = os.open(folder + '/bomb', os.O_CREAT | os.O_WRONLY)
        while written < 2 * limit: written += os.write(f, block)
    except OSError: pass
held(written=written)`,
  },
  bomb(
    'disk',
    true,
    ({ error, bytes, more }, { diskBytes }) => error === ENOSPC && more === ENOSPC && bytes! <= diskBytes,
    // Reserved, not written: the limit is met without filling the host's disk.
    `
f, size, error, step, more = os.open('/bomb', os.O_CREAT | os.O_WRONLY), 0, 0, 256 << 20, 0
while size < 2 * disk:
    try:
        os.posix_fallocate(f, size, step)
        size += step
    except OSError as e:
        error = e.errno
        if step <= 1 << 20: break
        step >>= 1
try:
    g = os.open('/bomb2', os.O_CREAT | os.O_WRONLY)
    for _ in range(64): os.write(g, bytes(1 << 20))
    os.fsync(g)
except OSError as e: more = e.errno
held(error=error, bytes=size, more=more)`,
  ),
  bomb(
    'open files',
    true,
    ({ error, files }) => error === EMFILE && files! < 2 ** 20,
    `
things, error = most(lambda: os.open('/etc/passwd', os.O_RDONLY), 1 << 20)
held(error=error, files=len(things))`,
  ),
  bomb(
    'watches of files',
    true,
    ({ error, instances }) => error === EMFILE && instances! < 100_000,
    `
libc = ctypes.CDLL(None, use_errno=True)
def one():
    f = libc.inotify_init1(0)
    if f < 0: raise OSError(ctypes.get_errno(), '')
    return f
things, error = most(one, 100000)
held(error=error, instances=len(things))`,
  ),
  bomb(
    'pseudo-terminals',
    true,
    ({ error, terminals }) => error === ENOSPC && terminals! <= 1_024,
    `
things, error = most(lambda: os.open('/dev/ptmx', os.O_RDWR | os.O_NOCTTY), 5000)
held(error=error, terminals=len(things))`,
  ),
  bomb(
    'full pipes',
    true,
    ({ pipes }) => pipes! < 2 ** 20,
    `
child = os.fork()
if child == 0:
    def one():
        r, w = os.pipe()
        os.set_blocking(w, False)
        try: os.write(w, bytes(65536))
        except BlockingIOError: pass
        return r
    os._exit(0 if most(one, 1 << 20)[1] else 1)
held(pipes=0 if os.waitpid(child, 0)[1] != 256 else 1 << 20)`,
  ),
  bomb(
    'processors',
    true,
    ({ spinning }) => spinning === 16,
    `
for _ in range(16):
    if os.fork() == 0:
        signal.alarm(40)
        while True: pass
held(spinning=16)`,
  ),
];
