/** What the runtime is told of a jail: an OCI runtime configuration (opencontainers/runtime-spec 1.0, config.json). */
import type { MachineShape } from '../../backend.ts';
import type { CgroupLimits } from '../../cgroup.ts';

/** Host users that each jail has: a whole 16-bit range, as programs inside expect. */
export const UIDS_EACH = 65_536;
/** Where the agent drive is in every sandbox. */
const DRIVE = '/run/coppice/drive';
const BUSYBOX = `${DRIVE}/bin/busybox`;

/**
 * What root inside has: enough for sudo, package managers and servers. None of them reach beyond its user namespace;
 * NET_RAW and NET_BIND_SERVICE, which mean nothing in a network namespace that is the host's, keep programs that carry
 * them as file capabilities startable.
 */
const CAPABILITIES = [
  'CAP_AUDIT_WRITE',
  'CAP_CHOWN',
  'CAP_DAC_OVERRIDE',
  'CAP_FOWNER',
  'CAP_FSETID',
  'CAP_KILL',
  'CAP_NET_BIND_SERVICE',
  'CAP_NET_RAW',
  'CAP_SETFCAP',
  'CAP_SETGID',
  'CAP_SETPCAP',
  'CAP_SETUID',
  'CAP_SYS_CHROOT',
] as const;

const MASKED = [
  'acpi',
  'asound',
  'cmdline',
  'config.gz',
  'interrupts',
  'iomem',
  'ioports',
  'kallsyms',
  'kcore',
  'key-users',
  'keys',
  'kmsg',
  'latency_stats',
  'modules',
  'partitions',
  'sched_debug',
  'scsi',
  'slabinfo',
  'sysrq-trigger',
  'timer_list',
  'timer_stats',
  'vmallocinfo',
  'zoneinfo',
];
const READ_ONLY = ['bus', 'driver', 'fs', 'irq', 'sys', 'tty'];
/** Jails die for want of memory before the host's own services. */
export const OOM_SCORE = 500;
/** The host has some thousands of terminals for all; a jail gets a share. */
const TERMINALS = 'max=256';
/** Processes and threads. A browser and a compiler fit; a fork bomb ends here. */
const TASKS = 2_048;

export interface JailConfig {
  readonly hostname: string;
  /** Root folder, in the runtime's mount namespace. */
  readonly root: string;
  /** The agent drive, mounted, in the runtime's mount namespace. */
  readonly drive: string;
  readonly shape: MachineShape;
  /** Folders that it shares with others, in the runtime's mount namespace, with ids as this jail has them. */
  readonly volumes?: readonly { readonly source: string; readonly path: string }[];
  /** Path of a user namespace that is there, or what one that the runtime makes shall map. */
  readonly userNamespace: string | { readonly firstUid: number };
  /** Path of a network namespace; `own`: an empty one; `inherited`: the one that the runtime is started in. */
  readonly network: 'own' | 'inherited' | (string & {});
  /** This process' own limit of open files, which a user namespace cannot exceed. */
  readonly openFiles: number;
  readonly seccomp: unknown;
  /** For a runtime that insists on cgroups of its own: where, and how limited. */
  readonly cgroup?: { readonly path: string; readonly limits: CgroupLimits };
  readonly annotations: Readonly<Record<string, string>>;
}

/** The limits of a jail's cgroup: what was sold, and no more. */
export function jailLimits(shape: MachineShape): CgroupLimits {
  return { memoryBytes: shape.memoryMB * 2 ** 20, cpus: shape.cpuCount, tasks: TASKS };
}

export function ociConfig(config: JailConfig): Record<string, unknown> {
  const { shape, userNamespace, network } = config;
  const half = `size=${Math.ceil(shape.memoryMB / 2)}m`;
  const own = ['pid', 'ipc', 'uts', 'mount', 'cgroup'].map((type) => ({ type }));
  return {
    ociVersion: '1.0.0',
    hostname: config.hostname,
    annotations: config.annotations,
    process: {
      ...processDefaults(config.openFiles),
      // The first process: holds the jail, reaps orphans (`wait` waits for whatever ends), and costs next to nothing. A
      // shell that caught a signal would end by it, and the jail with it; one that ignores it does not.
      args: [BUSYBOX, 'sh', '-c', `trap '' HUP INT QUIT TERM; while :; do ${BUSYBOX} sleep 2147483647 & wait; done`],
      env: ['PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'],
    },
    root: { path: config.root, readonly: false },
    mounts: [
      mount('/proc', 'proc', ['nosuid', 'noexec', 'nodev']),
      mount('/dev', 'tmpfs', ['nosuid', 'mode=755', 'size=64k']),
      mount('/dev/pts', 'devpts', [
        'nosuid',
        'noexec',
        'newinstance',
        'ptmxmode=0666',
        'mode=0620',
        'gid=5',
        TERMINALS,
      ]),
      mount('/dev/shm', 'tmpfs', ['nosuid', 'nodev', 'mode=1777', half]),
      mount('/dev/mqueue', 'mqueue', ['nosuid', 'noexec', 'nodev']),
      // Of the host's devices only what tells a program how many processors there are.
      mount('/sys', 'tmpfs', ['nosuid', 'noexec', 'nodev', 'mode=755', 'size=64k']),
      bind('/sys/devices/system/cpu', '/sys/devices/system/cpu', ['nosuid', 'noexec', 'nodev', 'ro']),
      mount('/run', 'tmpfs', ['nosuid', 'nodev', 'mode=755', half]),
      mount('/run/lock', 'tmpfs', ['nosuid', 'nodev', 'noexec', 'mode=1777', 'size=5m']),
      bind(config.drive, DRIVE, ['nosuid', 'nodev', 'ro']),
      // What root of one jail leaves there must give no rights in another.
      ...(config.volumes ?? []).map(({ source, path }) => bind(source, path, ['nosuid', 'nodev'])),
    ],
    linux: {
      namespaces: [
        ...own,
        { type: 'user', ...(typeof userNamespace === 'string' ? { path: userNamespace } : {}) },
        ...(network === 'inherited' ? [] : [{ type: 'network', ...(network === 'own' ? {} : { path: network }) }]),
      ],
      ...(typeof userNamespace === 'string' ? {} : mappingsFrom(userNamespace.firstUid)),
      seccomp: config.seccomp,
      ...(config.cgroup ? { cgroupsPath: config.cgroup.path, resources: resourcesOf(config.cgroup.limits) } : {}),
      maskedPaths: MASKED.map((name) => `/proc/${name}`),
      readonlyPaths: READ_ONLY.map((name) => `/proc/${name}`),
    },
  };
}

function mappingsFrom(hostID: number): Record<string, unknown> {
  const mappings = [{ containerID: 0, hostID, size: UIDS_EACH }];
  return { uidMappings: mappings, gidMappings: mappings };
}

function resourcesOf({ memoryBytes, cpus, tasks }: CgroupLimits): Record<string, unknown> {
  const period = 100_000;
  return {
    memory: { limit: memoryBytes },
    cpu: { period, quota: Math.round(cpus * period) },
    pids: { limit: tasks },
    devices: [{ allow: false, access: 'rwm' }],
  };
}

/** A process in the jail beside the first: the agent. For the runtime's `exec --process`. */
export function agentProcess(openFiles: number): Record<string, unknown> {
  return {
    ...processDefaults(openFiles),
    args: [
      `${DRIVE}/lib/ld.so`,
      '--library-path',
      `${DRIVE}/lib`,
      `${DRIVE}/bin/node`,
      '--disable-warning=ExperimentalWarning',
      '--max-semi-space-size=1',
      `${DRIVE}/app/guest/agent/main.js`,
      '--listening',
      '3',
    ],
    env: [
      'PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
      'HOME=/root',
      'LANG=C.UTF-8',
      'MALLOC_ARENA_MAX=1',
    ],
  };
}

function processDefaults(openFiles: number): Record<string, unknown> {
  return {
    terminal: false,
    user: { uid: 0, gid: 0 },
    cwd: '/',
    capabilities: { bounding: CAPABILITIES, effective: CAPABILITIES, permitted: CAPABILITIES },
    rlimits: [
      { type: 'RLIMIT_NOFILE', hard: openFiles, soft: openFiles },
      { type: 'RLIMIT_CORE', hard: 0, soft: 0 },
    ],
    // sudo inside is a set-user-id program of the jail's own user namespace.
    noNewPrivileges: false,
    oomScoreAdj: OOM_SCORE,
  };
}

function mount(destination: string, type: string, options: readonly string[]): Record<string, unknown> {
  return { destination, type, source: type, options };
}

function bind(source: string, destination: string, options: readonly string[]): Record<string, unknown> {
  return { destination, type: 'bind', source, options: ['bind', ...options] };
}
