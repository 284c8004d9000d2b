/**
 * One cgroup a machine, with limits on memory, CPU and tasks: cgroup v2 where its controllers are, else the v1
 * hierarchies (some hosts have both, with every controller in v1). Path: <mount>/coppice/<home>/<id>, where <home> tells
 * the machines folders and backends of several homes apart. What cannot be limited is said in `notices`, never passed over.
 */
import { createHash } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { mkdir, readdir, readFile, rmdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { CoppiceError } from '../contract/errors.ts';

export interface CgroupLimits {
  readonly memoryBytes: number;
  /** Cores, fractions allowed. */
  readonly cpus: number;
  readonly tasks: number;
}

export interface CgroupUsage {
  /** Bytes that only this group's processes hold: anonymous memory and tmpfs, not the page cache. */
  readonly memoryBytes: number;
  /** Of the page cache what is charged to the group. */
  readonly cacheBytes: number;
  /** Undefined: memory is not limited here. */
  readonly limitBytes: number | undefined;
  readonly cpuSeconds: number;
}

export interface CgroupOptions {
  /** Keeps the groups of one backend apart from another's, with limits of their own. [a-z]{1,16} */
  readonly family?: string;
  /** Limit of memory for all groups together, bytes. */
  readonly memoryBytes?: number;
  /** For tests: a file in the format of /proc/self/mounts. */
  readonly mountsFile?: string;
}

export interface Cgroups {
  /** Controllers that can be limited here. */
  readonly controllers: readonly string[];
  /** Whether `freeze` works here. */
  readonly freezes: boolean;
  /** One line for each controller that cannot, with the reason. */
  readonly notices: readonly string[];
  /** Makes the group of a machine, or finds it, and sets its limits. */
  create(id: string, limits: CgroupLimits): Promise<void>;
  /** Puts a process with all its threads in the group. */
  add(id: string, pid: number): Promise<void>;
  /** Where a group is below each mount. */
  path(id: string): string;
  /** The folders of a group, one a hierarchy: a process that writes its pid to `cgroup.procs` of each is in it. */
  folders(id: string): readonly string[];
  /** Pids in the group. Empty when there is none. */
  processes(id: string): readonly number[];
  /** Stops every process of the group from running, or lets them go on. Returns before the last has stopped. Idempotent. */
  freeze(id: string, frozen: boolean): void;
  /** Whether the group is to be frozen, and whether it is. Neither, when it is gone. */
  freezing(id: string): { readonly asked: boolean; readonly done: boolean };
  /** What the group holds and has used. */
  usage(id: string): Promise<CgroupUsage>;
  /** What it has used of the CPU, without a wait. undefined: it is gone, or that is not counted here. */
  cpuSeconds(id: string): number | undefined;
  /** Removes the group, waiting a bounded time for its last task to leave. Idempotent. */
  remove(id: string): Promise<void>;
  /** Ids of the groups of this home. */
  list(): Promise<readonly string[]>;
}

const PARENT = 'coppice';
const CONTROLLERS = ['memory', 'cpu', 'pids'] as const;
type Limited = (typeof CONTROLLERS)[number];
/** Hierarchies of their own in v1; in v2 every group has what they do. */
const V1_ONLY = ['freezer', 'cpuacct'] as const;
type Controller = Limited | (typeof V1_ONLY)[number];
const CPU_PERIOD_US = 100_000;
const ID = /^[a-z0-9]{1,32}$/;

interface Hierarchy {
  readonly version: 1 | 2;
  readonly mount: string;
  readonly controllers: readonly Controller[];
}

/** Where a home's groups live under a mount: stable, short, and free of the home's own characters. */
export function homeTag(machinesFolder: string): string {
  return createHash('sha256').update(machinesFolder).digest('hex').slice(0, 8);
}

/** Reads the mounts (proc(5) mounts format) and finds for each controller the hierarchy that has it. */
async function hierarchies(mounts: string): Promise<readonly Hierarchy[]> {
  const found: Hierarchy[] = [];
  const missing = new Set<Limited>(CONTROLLERS);
  const lines = mounts.split('\n').map((line) => line.split(' '));
  for (const [, mount, type] of lines) {
    if (type !== 'cgroup2' || mount === undefined) continue;
    const offered = await readFile(join(mount, 'cgroup.controllers'), 'utf8').then(
      (text) => text.trim().split(/\s+/),
      (): string[] => [],
    );
    const ours = CONTROLLERS.filter((name) => missing.has(name) && offered.includes(name));
    for (const name of ours) missing.delete(name);
    if (ours.length > 0) found.push({ version: 2, mount, controllers: ours });
  }
  for (const [, mount, type, options] of lines) {
    if (type !== 'cgroup' || mount === undefined) continue;
    const offered = (options ?? '').split(',');
    const ours = CONTROLLERS.filter((name) => missing.has(name) && offered.includes(name));
    for (const name of ours) missing.delete(name);
    const others = found.some(({ version }) => version === 2) ? [] : V1_ONLY.filter((name) => offered.includes(name));
    if (ours.length + others.length > 0) found.push({ version: 1, mount, controllers: [...ours, ...others] });
  }
  return found;
}

/** File and value of each limit. `memory.swap.max` is absent without swap accounting, so it is optional. */
function settings(version: 1 | 2, controller: Controller, limits: CgroupLimits): readonly [string, string][] {
  const memory = String(Math.round(limits.memoryBytes));
  const quota = String(Math.max(1000, Math.round(limits.cpus * CPU_PERIOD_US)));
  const tasks = String(Math.round(limits.tasks));
  if (controller === 'freezer' || controller === 'cpuacct') return [];
  if (controller === 'pids') return [['pids.max', tasks]];
  if (controller === 'memory') return version === 2 ? [['memory.max', memory]] : [['memory.limit_in_bytes', memory]];
  return version === 2
    ? [['cpu.max', `${quota} ${CPU_PERIOD_US}`]]
    : [
        ['cpu.cfs_period_us', String(CPU_PERIOD_US)],
        ['cpu.cfs_quota_us', quota],
      ];
}

/** Finds out what can be limited, by making the home's group and removing it again. */
export async function openCgroups(machinesFolder: string, options: CgroupOptions = {}): Promise<Cgroups> {
  const { family, memoryBytes, mountsFile = '/proc/self/mounts' } = options;
  const tag = `${homeTag(machinesFolder)}${family === undefined ? '' : `-${family}`}`;
  const notices: string[] = [];
  const usable: Hierarchy[] = [];
  const all = await hierarchies(await readFile(mountsFile, 'utf8').catch(() => ''));
  for (const hierarchy of all) {
    try {
      await prepare(hierarchy, tag, memoryBytes);
      usable.push(hierarchy);
      await rmdir(join(hierarchy.mount, PARENT, tag)).catch(() => {});
    } catch (error) {
      const code = (error as NodeJS.ErrnoException).code ?? String(error);
      notices.push(
        `no ${limited(hierarchy).join(', ')} limit for machines: ${hierarchy.mount} cannot be used (${code}); run the node as root or delegate a cgroup`,
      );
    }
  }
  const controllers = usable.flatMap(limited);
  for (const name of CONTROLLERS)
    if (!all.some((hierarchy) => limited(hierarchy).includes(name)))
      notices.push(`no ${name} limit for machines: no cgroup hierarchy has the controller; mount cgroup2 with it`);

  const home = (hierarchy: Hierarchy) => join(hierarchy.mount, PARENT, tag);
  const group = (hierarchy: Hierarchy, id: string) => {
    if (!ID.test(id)) throw new CoppiceError('bad_request', 'machine id must match [a-z0-9]{1,32}');
    return join(home(hierarchy), id);
  };

  const having = (name: Controller) =>
    usable.find(({ version, controllers: all }) => version === 2 || all.includes(name));
  const freezer = having('freezer');
  const accounting = having('cpuacct');

  const cpuSeconds = (id: string): number | undefined => {
    if (!accounting) return undefined;
    const file = accounting.version === 2 ? 'cpu.stat' : 'cpuacct.usage';
    try {
      const text = readFileSync(join(group(accounting, id), file), 'utf8');
      return accounting.version === 2 ? Number(/^usage_usec (\d+)$/m.exec(text)?.[1] ?? 0) / 1e6 : Number(text) / 1e9;
    } catch (error) {
      if (isGone(error)) return undefined;
      throw error;
    }
  };

  return {
    controllers,
    freezes: freezer !== undefined,
    notices,
    async create(id, limits) {
      await Promise.all(
        usable.map(async (hierarchy) => {
          const folder = group(hierarchy, id);
          await makeGroup(hierarchy, tag, folder, memoryBytes);
          for (const controller of hierarchy.controllers)
            for (const [file, value] of settings(hierarchy.version, controller, limits))
              await writeFile(join(folder, file), value);
        }),
      );
    },
    async add(id, pid) {
      await Promise.all(usable.map((hierarchy) => writeFile(join(group(hierarchy, id), 'cgroup.procs'), String(pid))));
    },
    path: (id) => `/${PARENT}/${tag}/${id}`,
    folders: (id) => usable.map((hierarchy) => group(hierarchy, id)),
    processes(id) {
      const [first] = usable;
      if (!first) return [];
      try {
        const text = readFileSync(join(group(first, id), 'cgroup.procs'), 'utf8').trim();
        return text === '' ? [] : text.split('\n').map(Number);
      } catch (error) {
        if (isGone(error)) return [];
        throw error;
      }
    },
    freeze(id, frozen) {
      if (!freezer) throw new CoppiceError('host_unfit', 'no cgroup hierarchy of this host can freeze');
      const [file, value] =
        freezer.version === 2 ? ['cgroup.freeze', frozen ? '1' : '0'] : ['freezer.state', frozen ? 'FROZEN' : 'THAWED'];
      try {
        writeFileSync(join(group(freezer, id), file), value);
      } catch (error) {
        if (!isGone(error)) throw error;
      }
    },
    freezing(id) {
      const read = (file: string): string => {
        try {
          return readFileSync(join(group(freezer!, id), file), 'utf8').trim();
        } catch (error) {
          if (isGone(error)) return '';
          throw error;
        }
      };
      if (!freezer) return { asked: false, done: false };
      return freezer.version === 2
        ? { asked: read('cgroup.freeze') === '1', done: /^frozen 1$/m.test(read('cgroup.events')) }
        : { asked: read('freezer.self_freezing') === '1', done: read('freezer.state') === 'FROZEN' };
    },
    async usage(id) {
      const read = async (file: string): Promise<string> => {
        const hierarchy = having('memory');
        return hierarchy ? readFile(join(group(hierarchy, id), file), 'utf8') : '';
      };
      const memory = await read('memory.stat');
      const bytes = (key: string) => Number(new RegExp(`^${key} (\\d+)$`, 'm').exec(memory)?.[1] ?? 0);
      const limit = Number(
        (await read(having('memory')?.version === 2 ? 'memory.max' : 'memory.limit_in_bytes')) || NaN,
      );
      return {
        // v2 says anon and file, v1 rss and cache; shmem is both's, and in the latter of each.
        memoryBytes: (bytes('anon') || bytes('rss')) + bytes('shmem'),
        cacheBytes: Math.max(0, (bytes('file') || bytes('cache')) - bytes('shmem')),
        limitBytes: Number.isFinite(limit) ? limit : undefined,
        cpuSeconds: cpuSeconds(id) ?? 0,
      };
    },
    cpuSeconds,
    async remove(id) {
      await Promise.all(
        usable.map(async (hierarchy) => {
          await removeGroup(group(hierarchy, id));
          await rmdir(home(hierarchy)).catch(() => {});
        }),
      );
    },
    async list() {
      const names = await Promise.all(
        usable.map((hierarchy) => readdir(home(hierarchy), { withFileTypes: true }).catch(() => [])),
      );
      return [
        ...new Set(
          names
            .flat()
            .filter((entry) => entry.isDirectory())
            .map((entry) => entry.name),
        ),
      ];
    },
  };
}

const limited = ({ controllers }: Hierarchy): Limited[] => CONTROLLERS.filter((name) => controllers.includes(name));

/** A group that is not there, or whose removal is under way. */
const isGone = (error: unknown): boolean => ['ENOENT', 'ENODEV'].includes((error as NodeJS.ErrnoException).code ?? '');

/** Makes coppice/<home>; on v2 also lets its children have the controllers. */
async function prepare(hierarchy: Hierarchy, tag: string, memoryBytes: number | undefined): Promise<void> {
  const folders = [hierarchy.mount, join(hierarchy.mount, PARENT), join(hierarchy.mount, PARENT, tag)];
  for (const folder of folders) {
    if (folder !== hierarchy.mount)
      await mkdir(folder).catch((error: NodeJS.ErrnoException) => {
        if (error.code !== 'EEXIST') throw error;
      });
    if (hierarchy.version === 2)
      await writeFile(
        join(folder, 'cgroup.subtree_control'),
        hierarchy.controllers.map((controller) => `+${controller}`).join(' '),
      );
  }
  if (memoryBytes === undefined || !hierarchy.controllers.includes('memory')) return;
  const file = hierarchy.version === 2 ? 'memory.max' : 'memory.limit_in_bytes';
  await writeFile(join(hierarchy.mount, PARENT, tag, file), String(Math.round(memoryBytes)));
}

/** The home's group comes and goes with its machines, so another machine's end may remove it in between. */
async function makeGroup(
  hierarchy: Hierarchy,
  tag: string,
  folder: string,
  memoryBytes: number | undefined,
): Promise<void> {
  for (let attempt = 0; ; attempt++) {
    try {
      await mkdir(folder);
      return;
    } catch (error) {
      const code = (error as NodeJS.ErrnoException).code;
      if (code === 'EEXIST') return;
      if (code !== 'ENOENT' || attempt >= 10) throw error;
      await prepare(hierarchy, tag, memoryBytes).catch((cause: NodeJS.ErrnoException) => {
        if (cause.code !== 'ENOENT') throw cause;
      });
    }
  }
}

/** Removes one group. Idempotent. rmdir answers EBUSY while a task is leaving: tried for about a second. */
export async function removeGroup(folder: string): Promise<void> {
  for (let attempt = 0; ; attempt++) {
    try {
      await rmdir(folder);
      return;
    } catch (error) {
      const code = (error as NodeJS.ErrnoException).code;
      if (code === 'ENOENT') return;
      if (code !== 'EBUSY' || attempt >= 40)
        throw new CoppiceError('internal', `cgroup cannot be removed (${code}): ${folder}`, { cause: error });
      await sleep(Math.min(2 ** attempt, 30));
    }
  }
}
