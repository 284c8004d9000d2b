/**
 * What root in a jail tries in order to leave it, one row an attempt: Python, run inside as root. A row ends in `got`, or in
 * an OSError; what it printed, `got` or the errno's name, must be among `gives`. An attempt that ought to fail does no harm
 * to the host where it succeeds: it writes back the value that was there, or asks for nothing.
 */
import { type Architecture, SYSCALLS } from '../../src/isolation/jail/oci/syscall-numbers.ts';

export interface Attack {
  readonly what: string;
  readonly python: string;
  readonly gives: readonly string[];
}

/** What the host put where no jail may find it. */
export interface Bait {
  /** Absolute path of a file of the host's. */
  readonly file: string;
  /** Name of an abstract unix socket that the host listens on. */
  readonly socket: string;
  /** A process of the host's. */
  readonly pid: number;
  /** A port that the host listens on, on its loopback. */
  readonly port: number;
  /** In the environment of the service. */
  readonly secret: string;
  /** Argument of a process of another jail, name of an abstract unix socket and of a file in its /tmp. */
  readonly neighbour: string;
}

/** Run before each row. `call` is syscall(2) by name; bytes and buffers are passed by address. */
function prelude(bait: Bait): string {
  const numbers = Object.fromEntries(SYSCALLS[process.arch as Architecture].numbers);
  return `
import ctypes, errno, fcntl, json, os, resource, signal, socket, stat, struct, sys, time
B = json.loads(${JSON.stringify(JSON.stringify(bait))})
NR = json.loads(${JSON.stringify(JSON.stringify(numbers))})
libc = ctypes.CDLL(None, use_errno=True)
def call(name, *args):
    number = NR[name] if isinstance(name, str) else name
    r = libc.syscall(ctypes.c_long(number), *[ctypes.c_long(a) if isinstance(a, int) else a for a in args])
    if r < 0:
        e = ctypes.get_errno()
        raise OSError(e, os.strerror(e))
    return r
def put(path, value):
    f = os.open(path, os.O_WRONLY)
    try: os.write(f, value if isinstance(value, bytes) else value.encode())
    finally: os.close(f)
    return 'written'
def again(path): return put(path, open(path, 'rb').read())
def reads(path):
    with open(path, 'rb') as f: return 'something' if f.read(64) else 'nothing'
def device(kind, major, minor):
    path = '/tmp/device-%d' % os.getpid()
    os.mknod(path, kind | 0o600, os.makedev(major, minor))
    try: os.close(os.open(path, os.O_RDONLY)); return 'opened'
    finally: os.unlink(path)
def pids(): return [p for p in os.listdir('/proc') if p.isdigit()]
def ours(path):
    try: return open(path, 'rb').read()
    except OSError: return b''
`;
}

/** Runs each row in a process of its own, and prints what each gave: one JSON array of strings. */
export function program(attacks: readonly Attack[], bait: Bait): string {
  return `${prelude(bait)}
results = []
for code in json.loads(${JSON.stringify(JSON.stringify(attacks.map((one) => one.python)))}):
    r, w = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        try:
            scope = dict(globals(), got=None)
            exec(code, scope)
            answer = str(scope['got'])
        except OSError as e: answer = errno.errorcode.get(e.errno, str(e))
        except BaseException as e: answer = 'not run: %r' % e
        os.write(w, answer.encode())
        os._exit(0)
    os.close(w)
    answer = b''
    while part := os.read(r, 65536): answer += part
    os.close(r)
    os.waitpid(child, 0)
    results.append(answer.decode())
print(json.dumps(results))
`;
}

const row = (what: string, python: string, ...gives: readonly string[]): Attack => ({ what, python, gives });

const NOT_PERMITTED = ['EPERM'];
/** What a file that is not the jail's answers: absent, its mount read-only, its owner not of this user namespace. */
const SHUT = ['ENOENT', 'EROFS', 'EACCES', 'EPERM'];

const OTHERS: readonly Attack[] = [
  row('a file of the host by its path', `got = os.path.exists(B['file'])`, 'False'),
  row(
    'a file of the host through what /proc has of any process',
    `got = [p for p in pids() for part in ('root', 'cwd') for up in ('', '/..', '/../../../..') if os.path.exists('/proc/%s/%s%s%s' % (p, part, up, B['file']))]`,
    '[]',
  ),
  row(
    'the root of the first process is the jail',
    `root = '/proc/1/root'; got = os.path.samestat(os.stat('/'), os.stat(root)) and os.path.exists(os.path.join(root, 'home', 'user'))`,
    'True',
  ),
  row(
    'a descriptor of any process that leads outside',
    `got = []
for p in pids():
    try: fds = os.listdir('/proc/%s/fd' % p)
    except OSError: continue
    for fd in fds:
        path = '/proc/%s/fd/%s' % (p, fd)
        try:
            to, it = os.readlink(path), os.stat(path)
            if not to.startswith('/') or to.endswith(' (deleted)'): continue
            if not (os.path.exists(to) and os.path.samestat(os.stat(to), it)): got.append(to)
            elif stat.S_ISDIR(it.st_mode) and os.path.exists(path + '/../../../../../..' + B['file']): got.append(to)
        except OSError: pass`,
    '[]',
  ),
  row(
    'the program of any process, to overwrite it',
    `got = []
for p in pids():
    try: os.close(os.open('/proc/%s/exe' % p, os.O_WRONLY)); got.append(os.readlink('/proc/%s/exe' % p))
    except OSError as e:
        if e.errno not in (errno.EROFS, errno.ETXTBSY, errno.ENOENT): got.append(str(e))`,
    '[]',
  ),
  row(
    "the service's environment, and another jail's processes",
    `got = [p for p in pids() if p != str(os.getpid()) and (B['secret'].encode() in ours('/proc/%s/environ' % p) or B['neighbour'].encode() in ours('/proc/%s/cmdline' % p))]`,
    '[]',
  ),
  row("another jail's file", `got = os.path.exists('/tmp/' + B['neighbour'])`, 'False'),
  row('a process of the host: a signal', `got = os.kill(B['pid'], 0)`, 'ESRCH'),
  row('a process of the host: ptrace', `got = call('ptrace', 0x4206, B['pid'], 0, 0)`, 'ESRCH'),
  row(
    'a process of the host: its memory',
    `b = ctypes.create_string_buffer(8)
v = (ctypes.c_ulong * 2)(ctypes.addressof(b), 8)
got = call('process_vm_readv', B['pid'], v, 1, v, 1, 0)`,
    'ESRCH',
  ),
  row('a process of the host: a descriptor of it', `got = call('pidfd_open', B['pid'], 0)`, 'ESRCH'),
  row('a process of the host: its scheduling', `got = os.setpriority(os.PRIO_PROCESS, B['pid'], 19)`, 'ESRCH'),
  ...(['socket', 'neighbour'] as const).map((name) =>
    row(
      `an abstract socket: ${name === 'socket' ? "the host's" : "another jail's"}`,
      `got = socket.socket(socket.AF_UNIX).connect('\\0' + B['${name}'])`,
      'ECONNREFUSED',
    ),
  ),
  row(
    "the host's sockets in /proc/net/unix",
    `got = [n for n in (B['socket'], B['neighbour']) if n.encode() in ours('/proc/net/unix')]`,
    '[]',
  ),
  row(
    "the host's interfaces, through the socket that the host speaks to the agent by",
    `got = []
for p in pids():
    if b'/app/guest/agent/' not in ours('/proc/%s/cmdline' % p): continue
    agent = call('pidfd_open', int(p), 0)
    for fd in os.listdir('/proc/%s/fd' % p):
        if not os.readlink('/proc/%s/fd/%s' % (p, fd)).startswith('socket:'): continue
        mine = call('pidfd_getfd', agent, int(fd), 0)
        names = ctypes.create_string_buffer(4000)
        asked = bytearray(struct.pack('iP', 4000, ctypes.addressof(names)))
        fcntl.ioctl(mine, 0x8912, asked, True)
        size = struct.unpack('i', asked[:4])[0]
        seen = [names.raw[i:i + 16].split(bytes(1))[0].decode() for i in range(0, size, 40)]
        got += [n for n in seen if n not in ('lo', 'eth0')]`,
    '[]',
  ),
  row(
    'the path of a listening socket, from inside',
    `got = []
for line in ours('/proc/net/unix').decode().splitlines()[1:]:
    path = (line.split() + [''] * 8)[7]
    if path.endswith('.sock'):
        try: socket.socket(socket.AF_UNIX).connect(path); got.append(path)
        except OSError: pass`,
    '[]',
  ),
  row("a port of the host's loopback", `got = socket.create_connection(('127.0.0.1', B['port']), 2)`, 'ECONNREFUSED'),
  row(
    'leaving by chroot',
    `d = os.open('/', os.O_RDONLY)
os.makedirs('/tmp/deeper', exist_ok=True)
os.chroot('/tmp/deeper'); os.fchdir(d)
for _ in range(64): os.chdir('..')
os.chroot('.')
got = [os.path.exists(B['file']), os.path.exists('/run/coppice/drive')]`,
    '[False, True]',
  ),
  row(
    'System V memory, semaphores and queues of others',
    `got = [len(open('/proc/sysvipc/' + n).readlines()) - 1 for n in ('shm', 'sem', 'msg')]`,
    '[0, 0, 0]',
  ),
];

const write = (path: string, value: string): Attack =>
  row(`writing ${path}`, `got = put('${path}', '${value}')`, ...SHUT);
const rewrite = (path: string): Attack => row(`writing ${path}`, `got = again('${path}')`, ...SHUT);

const HOST_FILES: readonly Attack[] = [
  ...[
    'kernel/core_pattern',
    'kernel/modprobe',
    'kernel/hostname',
    'kernel/domainname',
    'kernel/pid_max',
    'kernel/panic',
    'kernel/sysrq',
    'kernel/yama/ptrace_scope',
    'kernel/dmesg_restrict',
    'vm/overcommit_memory',
    'vm/swappiness',
    'fs/file-max',
    'fs/inotify/max_user_watches',
    'net/ipv4/ip_forward',
    'net/core/somaxconn',
    'user/max_user_namespaces',
    'fs/binfmt_misc/register',
  ].map((name) => rewrite(`/proc/sys/${name}`)),
  write('/proc/sys/vm/drop_caches', '1'),
  write('/proc/sysrq-trigger', 'h'),
  rewrite('/proc/irq/default_smp_affinity'),
  write('/proc/1/oom_score_adj', '-1000'),
  write('/proc/self/oom_score_adj', '-1000'),
  rewrite('/proc/self/uid_map'),
  rewrite('/proc/self/gid_map'),
  write('/proc/self/setgroups', 'allow'),
  write('/proc/self/timens_offsets', 'monotonic 1 0'),
  write('/proc/mtrr', 'disable=99'),
  write('/proc/scsi/scsi', 'scsi'),
  write('/sys/devices/system/cpu/cpu1/online', '1'),
  write('/sys/kernel/uevent_helper', ''),
  write('/sys/kernel/mm/transparent_hugepage/enabled', 'madvise'),
  write('/sys/power/state', 'none'),
  ...['', '/memory', '/pids', '/unified'].flatMap((group) => [
    write(`/sys/fs/cgroup${group}/cgroup.procs`, '0'),
    write(`/sys/fs/cgroup${group}/release_agent`, '/nothing'),
    write(`/sys/fs/cgroup${group}/notify_on_release`, '0'),
  ]),
  row('a file of the agent drive', `got = put('/run/coppice/drive/app/guest/agent/main.js', '')`, 'EROFS'),
  row('permissions of a device that the host has too', `got = os.chmod('/dev/null', 0o600)`, ...NOT_PERMITTED),
  row('permissions of /proc/sys', `got = os.chmod('/proc/sys/kernel/core_pattern', 0o666)`, ...SHUT),
  ...[
    'kcore',
    'keys',
    'key-users',
    'kallsyms',
    'kmsg',
    'kpagecount',
    'kpageflags',
    'kpagecgroup',
    'sched_debug',
    'timer_list',
    'modules',
    'iomem',
    'ioports',
    'slabinfo',
    'vmallocinfo',
    'config.gz',
    'partitions',
    'latency_stats',
  ].map((name) => row(`reading /proc/${name}`, `got = reads('/proc/${name}')`, 'nothing', ...SHUT)),
  row(
    'physical addresses in pagemap',
    `b = ctypes.create_string_buffer(b'here', 4096)
f = os.open('/proc/self/pagemap', os.O_RDONLY)
got = struct.unpack('Q', os.pread(f, 8, ctypes.addressof(b) // 4096 * 8))[0] & ((1 << 55) - 1)`,
    '0',
    'EPERM',
  ),
  row(
    'what is in /sys',
    `got = sorted(d for d in os.listdir('/sys') if d != 'devices') + [d for d in os.listdir('/sys/devices/system') if d != 'cpu']`,
    '[]',
  ),
];

const mknod = (what: string, kind: 'BLK' | 'CHR', major: number, minor: number): Attack =>
  row(`a device of one's own: ${what}`, `got = device(stat.S_IF${kind}, ${major}, ${minor})`, ...NOT_PERMITTED);

const DEVICES: readonly Attack[] = [
  mknod('the first loop device', 'BLK', 7, 0),
  mknod('a disk', 'BLK', 8, 0),
  mknod('a virtio disk', 'BLK', 254, 0),
  mknod('loop-control', 'CHR', 10, 237),
  mknod('memory', 'CHR', 1, 1),
  mknod('ports', 'CHR', 1, 4),
  mknod("the kernel's log", 'CHR', 1, 11),
  mknod('FUSE', 'CHR', 10, 229),
  mknod('TUN', 'CHR', 10, 200),
  mknod('KVM', 'CHR', 10, 232),
  row(
    'what is in /dev',
    `got = sorted(n for n in os.listdir('/dev') if not os.path.islink('/dev/' + n))`,
    "['full', 'mqueue', 'null', 'ptmx', 'pts', 'random', 'shm', 'tty', 'urandom', 'zero']",
    "['full', 'mqueue', 'null', 'pts', 'random', 'shm', 'tty', 'urandom', 'zero']",
  ),
];

const mount = (what: string, args: string): Attack =>
  row(`mount: ${what}`, `os.makedirs('/tmp/m', exist_ok=True)\ngot = call('mount', ${args})`, ...NOT_PERMITTED);

const MOUNTS: readonly Attack[] = [
  ...[
    'tmpfs',
    'proc',
    'sysfs',
    'debugfs',
    'tracefs',
    'cgroup',
    'cgroup2',
    'devtmpfs',
    'devpts',
    'securityfs',
    'bpf',
  ].map((type) => mount(type, `b'none', b'/tmp/m', b'${type}', 0, None`)),
  mount('overlay', `b'none', b'/tmp/m', b'overlay', 0, b'lowerdir=/etc:/usr'`),
  mount('bind', `b'/', b'/tmp/m', None, 0x1000, None`),
  mount('bind of /proc without its masks', `b'/proc', b'/tmp/m', None, 0x1000, None`),
  mount('remount of the drive as writable', `None, b'/run/coppice/drive', None, 0x1020, None`),
  mount('remount of the root with devices', `None, b'/', None, 0x20, None`),
  mount('propagation', `None, b'/', None, 0x44000, None`),
  ...['/proc/sys', '/proc/kcore', '/proc', '/dev', '/'].map((path) =>
    row(`umount ${path}`, `got = call('umount2', b'${path}', 2)`, ...NOT_PERMITTED),
  ),
  row('pivot_root', `got = call('pivot_root', b'/', b'/')`, ...NOT_PERMITTED),
  row('open_tree', `got = call('open_tree', -100, b'/', 1)`, ...NOT_PERMITTED),
  row('move_mount', `got = call('move_mount', -100, b'/proc', -100, b'/tmp', 0)`, ...NOT_PERMITTED),
  row('fsopen', `got = call('fsopen', b'tmpfs', 0)`, ...NOT_PERMITTED),
  row('fspick', `got = call('fspick', -100, b'/', 0)`, ...NOT_PERMITTED),
  row('mount_setattr', `got = call('mount_setattr', -100, b'/', 0, bytes(32), 32)`, ...NOT_PERMITTED),
  row(
    'a file by its handle',
    `got = call('open_by_handle_at', 3, struct.pack('Ii8s', 8, 1, struct.pack('II', 2, 0)), 0)`,
    ...NOT_PERMITTED,
  ),
  row('the handle of a file', `got = call('name_to_handle_at', -100, b'/', bytes(136), bytes(8), 0)`, ...NOT_PERMITTED),
  row('attributes that overlayfs obeys', `got = os.setxattr('/tmp', 'trusted.overlay.opaque', b'y')`, ...NOT_PERMITTED),
];

const NAMESPACES: readonly Attack[] = [
  ...Object.entries({
    user: 0x10000000,
    mount: 0x20000,
    pid: 0x20000000,
    network: 0x40000000,
    ipc: 0x8000000,
    uts: 0x4000000,
    cgroup: 0x2000000,
    time: 0x80,
  }).flatMap(([name, flag]) => [
    row(`unshare of a ${name} namespace`, `got = call('unshare', ${flag})`, ...NOT_PERMITTED),
    ...(name === 'time'
      ? []
      : [
          row(
            `clone with a ${name} namespace`,
            `got = call('clone', ${flag} | 17, 0, 0, 0, 0)
if got == 0: os._exit(0)`,
            ...NOT_PERMITTED,
          ),
        ]),
  ]),
  row('clone3', `got = call('clone3', struct.pack('Q', 0x10000000) + bytes(80), 88)`, 'ENOSYS'),
  row('entering a namespace', `got = call('setns', os.open('/proc/1/ns/mnt', os.O_RDONLY), 0)`, ...NOT_PERMITTED),
  row(
    'entering the namespaces of a process',
    `got = call('setns', call('pidfd_open', 1, 0), 0x10000000 | 0x20000)`,
    ...NOT_PERMITTED,
  ),
  row(
    'the parent of its user namespace',
    `got = fcntl.ioctl(os.open('/proc/self/ns/user', os.O_RDONLY), 0xb702)`,
    ...NOT_PERMITTED,
  ),
  row(
    'the owner of its user namespace',
    `got = fcntl.ioctl(os.open('/proc/self/ns/pid', os.O_RDONLY), 0xb702)`,
    ...NOT_PERMITTED,
  ),
];

const forbidden = (name: string, args: string, ...gives: string[]): Attack =>
  row(name, `got = call('${name}', ${args})`, ...(gives.length > 0 ? gives : NOT_PERMITTED));

const KERNEL: readonly Attack[] = [
  forbidden('init_module', `bytes(8), 0, b''`),
  forbidden('finit_module', `-1, b'', 0`),
  forbidden('delete_module', `b'nothing', 0`),
  forbidden('kexec_load', '0, 0, 0, 0'),
  forbidden('kexec_file_load', '-1, -1, 0, b"", 0'),
  forbidden('reboot', '0xfee1dead, 672274793, 0, 0'),
  forbidden('syslog', '10, 0, 0'),
  forbidden('settimeofday', '0, 0'),
  forbidden('clock_settime', '0, 0'),
  row(
    'setting the clock by adjtimex',
    `got = call('adjtimex', struct.pack('I', 0x4000) + bytes(300))`,
    ...NOT_PERMITTED,
  ),
  forbidden('sethostname', `b'other', 5`),
  forbidden('setdomainname', `b'other', 5`),
  forbidden('swapon', `b'/nothing', 0`),
  forbidden('acct', '0'),
  forbidden('quotactl', `0, b'/nothing', 0, 0`),
  forbidden('add_key', `b'user', b'x', b'y', 1, -3`),
  forbidden('request_key', `b'user', b'x', 0, 0`),
  forbidden('keyctl', '0, -3, 1'),
  forbidden('bpf', '0, bytes(120), 120'),
  forbidden('perf_event_open', 'bytes(128), 0, -1, -1, 0'),
  forbidden('userfaultfd', '0'),
  forbidden('userfaultfd', '1'),
  forbidden('fanotify_init', '0, 0'),
  forbidden('kcmp', '1, 1, 0, 0, 0'),
  forbidden('move_pages', '0, 0, 0, 0, 0, 0'),
  forbidden('vhangup', ''),
  forbidden('io_uring_setup', '4, bytes(120)', 'ENOSYS'),
  forbidden('memfd_secret', '0', 'ENOSYS'),
  ...(process.arch === 'x64'
    ? [
        forbidden('iopl', '3'),
        forbidden('ioperm', '0x80, 1, 1'),
        forbidden('modify_ldt', '0, bytes(16), 16', 'ENOSYS'),
        // libseccomp's filter, where the runtime takes none of ours, kills who tries.
        row('read as x32', `got = call(0x40000000, 0, bytes(1), 0)`, 'ENOSYS', ''),
      ]
    : []),
  row('a call that has no name yet', `got = call(700)`, 'ENOSYS'),
  row('personality that makes data executable', `got = call('personality', 0x400000)`, ...NOT_PERMITTED),
  ...Object.entries({ TIOCSTI: 0x5412, TIOCLINUX: 0x541c, TIOCSETD: 0x5423 }).map(([name, request]) =>
    row(
      `ioctl ${name}`,
      `import pty
_, tty = pty.openpty()
got = fcntl.ioctl(tty, ${request}, b'\\0\\0\\0\\0')`,
      ...NOT_PERMITTED,
    ),
  ),
  row(
    'a dump of core',
    `got = [resource.getrlimit(resource.RLIMIT_CORE)]
try: resource.setrlimit(resource.RLIMIT_CORE, (1, 1)); got.append('raised')
except (OSError, ValueError) as e: got.append('refused')`,
    "[(0, 0), 'refused']",
  ),
  row('real-time scheduling', `got = os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))`, ...NOT_PERMITTED),
  row('a raised priority', `got = os.nice(-1)`, 'EACCES', 'EPERM'),
  row(
    'processes that the host prefers to its own',
    `got = [p for p in pids() for t in os.listdir('/proc/%s/task' % p) if int(open('/proc/%s/task/%s/stat' % (p, t)).read().rsplit(')', 1)[1].split()[16]) < 0]`,
    '[]',
  ),
  row(
    'capabilities beyond those given',
    `text = open('/proc/self/status').read()
bound = int([l for l in text.splitlines() if l.startswith('CapBnd')][0].split()[1], 16)
# DAC_READ_SEARCH NET_ADMIN SYS_MODULE SYS_RAWIO SYS_PTRACE SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME MKNOD SYSLOG BPF
got = [c for c in (2, 12, 16, 17, 19, 21, 22, 23, 24, 25, 27, 34, 39) if bound >> c & 1]`,
    '[]',
  ),
];

const family = (what: string, args: string, ...gives: readonly string[]): Attack =>
  row(`socket: ${what}`, `got = socket.socket(${args})`, ...gives);
const interfaceIoctl = (what: string, request: number, bytes: string): Attack =>
  row(
    `network: ${what}`,
    `s = socket.socket()
got = fcntl.ioctl(s, ${request}, ${bytes})`,
    ...NOT_PERMITTED,
  );

const NETWORK: readonly Attack[] = [
  family('packet', '17, socket.SOCK_RAW, 0x300', 'EAFNOSUPPORT'),
  family('packet by its old type', 'socket.AF_INET, 10, 0x300', 'EPROTONOSUPPORT'),
  family('vsock', '40, socket.SOCK_STREAM', 'EAFNOSUPPORT'),
  family('alg', '38, socket.SOCK_SEQPACKET', 'EAFNOSUPPORT'),
  family('key', '15, socket.SOCK_RAW, 2', 'EAFNOSUPPORT'),
  family('xdp', '44, socket.SOCK_RAW', 'EAFNOSUPPORT'),
  family('tipc', '30, socket.SOCK_SEQPACKET', 'EAFNOSUPPORT'),
  family('bluetooth', '31, socket.SOCK_RAW, 1', 'EAFNOSUPPORT'),
  family('netfilter', '16, socket.SOCK_RAW, 12', 'EPROTONOSUPPORT'),
  family('xfrm', '16, socket.SOCK_RAW, 6', 'EPROTONOSUPPORT'),
  family('audit', '16, socket.SOCK_RAW, 9', 'EPROTONOSUPPORT'),
  family('sctp', 'socket.AF_INET, socket.SOCK_STREAM, 132', 'EPROTONOSUPPORT'),
  interfaceIoctl('an address', 0x8916, `struct.pack('16sHHI8x', b'lo', 2, 0, 0x0100007f)`),
  interfaceIoctl('an interface down', 0x8914, `struct.pack('16sH14x', b'lo', 0x48)`),
  interfaceIoctl('a route', 0x890b, `bytes(120)`),
  row(
    'network: a link, by netlink',
    `s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
kind = struct.pack('HH8s', 9, 1, b'dummy')
body = struct.pack('BxHiII', 0, 0, 0, 0, 0) + struct.pack('HH', 4 + len(kind), 18) + kind
s.send(struct.pack('IHHII', 16 + len(body), 16, 0x605, 1, 0) + body)
e = -struct.unpack('i', s.recv(4096)[16:20])[0]
got = errno.errorcode.get(e, e)`,
    ...NOT_PERMITTED,
  ),
];

/** That what refuses so much lets ordinary programs be: without these every refusal could be for a wrong reason. */
const ORDINARY: readonly Attack[] = [
  row(
    'TCP over its own loopback',
    `s = socket.create_server(('127.0.0.1', 0))
c = socket.create_connection(s.getsockname(), 2)
c.send(b'hi')
got = s.accept()[0].recv(2)`,
    "b'hi'",
  ),
  row('netlink route', `got = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0).close()`, 'None'),
  row(
    'tracing its own child',
    `p = os.fork()
if p == 0: time.sleep(60); os._exit(0)
call('ptrace', 16, p, 0, 0)
os.waitpid(p, 0)
os.kill(p, 9)
got = os.WTERMSIG(os.waitpid(p, 0)[1])`,
    '9',
  ),
  row('memory of a named file', `got = os.write(os.memfd_create('x'), b'abc')`, '3'),
  row(
    'threads',
    `import threading
t = threading.Thread(target=lambda: None)
t.start(); t.join()
got = t.is_alive()`,
    'False',
  ),
  row('adjtimex, to read', `got = call('adjtimex', bytes(304)) >= 0`, 'True'),
  row('memory policy', `got = call('get_mempolicy', 0, 0, 0, 0, 0)`, '0', 'ENOSYS'),
  row(
    'a file of set-user-id',
    `open('/tmp/suid', 'w').close()
os.chmod('/tmp/suid', 0o4755)
got = oct(os.stat('/tmp/suid').st_mode & 0o7777)`,
    '0o4755',
  ),
  row(
    'chown to a user',
    `open('/tmp/owned', 'w').close()
os.chown('/tmp/owned', 1000, 1000)
got = os.stat('/tmp/owned').st_uid`,
    '1000',
  ),
  row(
    'a pseudo-terminal',
    `import pty
got = os.isatty(pty.openpty()[1])`,
    'True',
  ),
];

export const ATTACKS: Readonly<Record<string, readonly Attack[]>> = {
  "others' files, processes and sockets": OTHERS,
  "the host's files": HOST_FILES,
  devices: DEVICES,
  mounts: MOUNTS,
  namespaces: NAMESPACES,
  'the kernel': KERNEL,
  'the network': NETWORK,
  'ordinary programs run': ORDINARY,
};
