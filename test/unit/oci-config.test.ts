/** What the runtime is told of a jail: nothing beyond what is listed here, whatever is asked for. */
import assert from 'node:assert/strict';
import test from 'node:test';
import fc from 'fast-check';
import {
  agentProcess,
  type JailConfig,
  jailLimits,
  ociConfig,
  UIDS_EACH,
} from '../../src/isolation/jail/oci/config.ts';
import { RUNTIMES, runtimeOf } from '../../src/isolation/jail/oci/runtime.ts';

interface Mount {
  readonly destination: string;
  readonly type: string;
  readonly source: string;
  readonly options: readonly string[];
}
interface Process {
  readonly args: readonly string[];
  readonly user: unknown;
  readonly cwd: string;
  readonly terminal: boolean;
  readonly capabilities: Readonly<Record<string, readonly string[]>>;
  readonly rlimits: readonly { readonly type: string; readonly hard: number; readonly soft: number }[];
  readonly noNewPrivileges: boolean;
  readonly oomScoreAdj: number;
}
interface Config {
  readonly hostname: string;
  readonly annotations: unknown;
  readonly process: Process;
  readonly root: { readonly path: string; readonly readonly: boolean };
  readonly mounts: readonly Mount[];
  readonly linux: {
    readonly namespaces: readonly { readonly type: string; readonly path?: string }[];
    readonly uidMappings?: unknown;
    readonly gidMappings?: unknown;
    readonly seccomp: unknown;
    readonly cgroupsPath?: string;
    readonly resources?: unknown;
    readonly maskedPaths: readonly string[];
    readonly readonlyPaths: readonly string[];
  };
}

const SHAPE = { cpuCount: 2, memoryMB: 512, diskSizeMB: 1024 };
const BASE: JailConfig = {
  hostname: 'box',
  root: '/m/root',
  drive: '/s/drive',
  shape: SHAPE,
  userNamespace: '/proc/1/fd/9',
  network: 'own',
  openFiles: 20_000,
  seccomp: { defaultAction: 'SCMP_ACT_ERRNO' },
  annotations: {},
};
const configOf = (more: Partial<JailConfig> = {}): Config => ociConfig({ ...BASE, ...more }) as unknown as Config;

const ALLOWED = [
  ...['AUDIT_WRITE', 'CHOWN', 'DAC_OVERRIDE', 'FOWNER', 'FSETID', 'KILL', 'NET_BIND_SERVICE', 'NET_RAW'],
  ...['SETFCAP', 'SETGID', 'SETPCAP', 'SETUID', 'SYS_CHROOT'],
].map((name) => `CAP_${name}`);

test('no process of a jail has a capability beyond the list, inherits one, or keeps one by ambience', () => {
  for (const process of [configOf().process, agentProcess(20_000) as unknown as Process]) {
    assert.deepEqual(Object.keys(process.capabilities).sort(), ['bounding', 'effective', 'permitted']);
    for (const set of Object.values(process.capabilities)) assert.deepEqual([...set].sort(), ALLOWED);
  }
});

test('agent and first process differ in what they run and in nothing that confines them', () => {
  const first = configOf().process;
  const agent = agentProcess(20_000) as unknown as Process;
  for (const key of ['capabilities', 'rlimits', 'user', 'cwd', 'terminal', 'noNewPrivileges', 'oomScoreAdj'] as const)
    assert.deepEqual(agent[key], first[key], key);
  assert.deepEqual(agent.user, { uid: 0, gid: 0 });
  assert.ok(agent.oomScoreAdj > 0);
  assert.deepEqual(
    agent.rlimits.map(({ type, hard, soft }) => [type, hard, soft]),
    [
      ['RLIMIT_NOFILE', 20_000, 20_000],
      ['RLIMIT_CORE', 0, 0],
    ],
  );
  // Both run programs of the read-only drive, which nobody inside can change.
  for (const { args } of [first, agent]) assert.match(args[0]!, /^\/run\/coppice\/drive\//);
  assert.deepEqual(agent.args.slice(-2), ['--listening', '3']);
});

test('every namespace is the jail’s own, for each way to have the network and the users', () => {
  const names = ['cgroup', 'ipc', 'mount', 'network', 'pid', 'user', 'uts'];
  const typesOf = (config: Config): string[] => config.linux.namespaces.map(({ type }) => type).sort();
  const pathsOf = (config: Config): Record<string, string | undefined> =>
    Object.fromEntries(
      config.linux.namespaces.filter(({ path }) => path !== undefined).map(({ type, path }) => [type, path]),
    );
  const own = configOf();
  assert.deepEqual(typesOf(own), names);
  assert.deepEqual(pathsOf(own), { user: BASE.userNamespace });
  assert.equal(own.linux.uidMappings, undefined);
  const given = configOf({ network: '/proc/1/fd/7' });
  assert.deepEqual(typesOf(given), names);
  assert.deepEqual(pathsOf(given), { user: BASE.userNamespace, network: '/proc/1/fd/7' });
  const made = configOf({ userNamespace: { firstUid: 2_000_000 } });
  assert.deepEqual(typesOf(made), names);
  assert.deepEqual(pathsOf(made), {});
  const mapping = [{ containerID: 0, hostID: 2_000_000, size: UIDS_EACH }];
  assert.deepEqual(made.linux.uidMappings, mapping);
  assert.deepEqual(made.linux.gidMappings, mapping);
  // The one that the runtime is started in: none is named.
  assert.deepEqual(
    typesOf(configOf({ network: 'inherited' })),
    names.filter((name) => name !== 'network'),
  );
});

test('every mount is without set-user-id and devices, but for the nodes of /dev; what is the host’s is read-only', () => {
  const { mounts, root } = configOf();
  assert.deepEqual(root, { path: '/m/root', readonly: false });
  assert.deepEqual(
    mounts.map(({ destination, type }) => `${destination} ${type}`),
    [
      ...['/proc proc', '/dev tmpfs', '/dev/pts devpts', '/dev/shm tmpfs', '/dev/mqueue mqueue', '/sys tmpfs'],
      ...['/sys/devices/system/cpu bind', '/run tmpfs', '/run/lock tmpfs', '/run/coppice/drive bind'],
    ],
  );
  for (const { destination, type, source, options } of mounts) {
    assert.ok(options.includes('nosuid'), destination);
    if (!['/dev', '/dev/pts'].includes(destination)) assert.ok(options.includes('nodev'), destination);
    if (type === 'bind') {
      assert.ok(options.includes('ro'), destination);
      assert.ok(['/sys/devices/system/cpu', '/s/drive'].includes(source), destination);
    } else assert.equal(source, type);
    assert.ok(!options.some((option) => ['suid', 'dev', 'rbind', 'shared', 'rshared'].includes(option)), destination);
  }
  // Nothing hides the drive: it is mounted after what it is in.
  const at = (path: string): number => mounts.findIndex(({ destination }) => destination === path);
  for (const [below, above] of [
    ['/run', '/run/coppice/drive'],
    ['/run', '/run/lock'],
    ['/dev', '/dev/shm'],
    ['/dev', '/dev/pts'],
    ['/sys', '/sys/devices/system/cpu'],
  ] as const)
    assert.ok(at(below) < at(above), above);
});

test('every file system in memory has a size, of at most half of the memory that was sold', () => {
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 65_536 }), (half) => {
      const memoryMB = half * 2;
      const sizes = configOf({ shape: { ...SHAPE, memoryMB } })
        .mounts.filter(({ type }) => type === 'tmpfs')
        .map(({ destination, options }) => {
          const size = options.map((option) => /^size=(\d+)([km])$/.exec(option)).find((match) => match);
          assert.ok(size, destination);
          return Number(size[1]) * (size[2] === 'm' ? 2 ** 20 : 2 ** 10);
        });
      assert.equal(sizes.length, 5);
      // The memory cgroup holds them too: this is what a program sees as the size of its disk.
      assert.ok(Math.max(...sizes) <= Math.max(memoryMB / 2, 5) * 2 ** 20);
    }),
  );
});

test('what of /proc is the host’s cannot be read or written', () => {
  const { maskedPaths, readonlyPaths } = configOf().linux;
  for (const name of [
    'acpi',
    'kallsyms',
    'kcore',
    'keys',
    'interrupts',
    'iomem',
    'modules',
    'sched_debug',
    'scsi',
    'sysrq-trigger',
    'timer_list',
    'kmsg',
    'config.gz',
  ])
    assert.ok(maskedPaths.includes(`/proc/${name}`), name);
  for (const name of ['bus', 'fs', 'irq', 'sys']) assert.ok(readonlyPaths.includes(`/proc/${name}`), name);
});

test('limits are those of the shape, in the group and in what a runtime with groups of its own is told', () => {
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 128 }), fc.integer({ min: 64, max: 2 ** 20 }), (cpuCount, memoryMB) => {
      const limits = jailLimits({ cpuCount, memoryMB, diskSizeMB: 1024 });
      assert.equal(limits.memoryBytes, memoryMB * 2 ** 20);
      assert.equal(limits.cpus, cpuCount);
      assert.ok(limits.tasks > 0 && limits.tasks <= 4_096);
      const { linux } = configOf({ cgroup: { path: '/coppice/x/y', limits } });
      assert.equal(linux.cgroupsPath, '/coppice/x/y');
      const resources = linux.resources as Record<string, unknown>;
      assert.deepEqual(resources.memory, { limit: memoryMB * 2 ** 20 });
      const { period, quota } = resources.cpu as { period: number; quota: number };
      assert.equal(quota / period, cpuCount);
      assert.deepEqual(resources.pids, { limit: limits.tasks });
      assert.deepEqual(resources.devices, [{ allow: false, access: 'rwm' }]);
    }),
  );
  const { linux } = configOf();
  assert.equal(linux.cgroupsPath, undefined);
  assert.equal(linux.resources, undefined);
});

test('names go in as they are, whatever they are, and nowhere else', () => {
  fc.assert(
    fc.property(fc.string(), fc.string(), (hostname, root) => {
      const config = configOf({ hostname, root });
      const rest = JSON.stringify({ ...config, hostname: '', root: { ...config.root, path: '' } });
      assert.equal(config.hostname, hostname);
      assert.equal(config.root.path, root);
      const plain = configOf({ hostname: '', root: '' });
      assert.equal(rest, JSON.stringify(plain));
    }),
  );
});

for (const architecture of ['x64', 'arm64'] as const)
  for (const name of RUNTIMES)
    test(`${name} on ${architecture} is given a filter that it will load, and refuses without it`, () => {
      const runtime = runtimeOf(name, architecture);
      const { seccomp, annotations } = runtime.filter();
      const profile = seccomp as {
        readonly defaultAction: string;
        readonly syscalls: readonly { readonly names: readonly string[]; readonly action: string }[];
      };
      const program = annotations['run.oci.seccomp_bpf_data'];
      if (name === 'crun') {
        // It loads the program in place of the profile; one that knows no such annotation must not run without a filter.
        assert.ok(Buffer.from(program!, 'base64').length > 64);
        assert.equal(Buffer.from(program!, 'base64').length % 8, 0);
        assert.notEqual(profile.defaultAction, 'SCMP_ACT_ALLOW');
        assert.equal(runtime.ownCgroups, false);
      } else {
        assert.equal(program, undefined);
        assert.notEqual(profile.defaultAction, 'SCMP_ACT_ALLOW');
        assert.ok(profile.syscalls.some(({ names, action }) => action === 'SCMP_ACT_ALLOW' && names.includes('read')));
      }
      const { linux, annotations: given } = configOf({ seccomp, annotations });
      assert.equal(linux.seccomp, seccomp);
      assert.equal(given, annotations);
      const flags = runtime.flags('/state', '/log');
      assert.ok(flags.includes('--root=/state'));
      assert.equal(flags.includes('--cgroup-manager=disabled'), !runtime.ownCgroups);
    });
