/**
 * One cgroup a machine, with limits on memory, CPU and tasks: cgroup v2 where its controllers are, else the v1
 * hierarchies (some hosts have both, with every controller in v1). Path: <mount>/coppice/<home>/<id>, where <home> tells
 * the machines folders of several homes apart. What cannot be limited is said in `notices`, never passed over.
 */
import { createHash } from 'node:crypto';
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

export interface Cgroups {
  /** Controllers that can be limited here. */
  readonly controllers: readonly string[];
  /** One line for each controller that cannot, with the reason. */
  readonly notices: readonly string[];
  /** Makes the group of a machine, or finds it, and sets its limits. */
  create(id: string, limits: CgroupLimits): Promise<void>;
  /** Puts a process with all its threads in the group. */
  add(id: string, pid: number): Promise<void>;
  /** Removes the group, waiting a bounded time for its last task to leave. Idempotent. */
  remove(id: string): Promise<void>;
  /** Ids of the groups of this home. */
  list(): Promise<readonly string[]>;
}

const PARENT = 'coppice';
const CONTROLLERS = ['memory', 'cpu', 'pids'] as const;
type Controller = (typeof CONTROLLERS)[number];
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
  const missing = new Set<Controller>(CONTROLLERS);
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
    const ours = CONTROLLERS.filter((name) => missing.has(name) && (options ?? '').split(',').includes(name));
    for (const name of ours) missing.delete(name);
    if (ours.length > 0) found.push({ version: 1, mount, controllers: ours });
  }
  return found;
}

/** File and value of each limit. `memory.swap.max` is absent without swap accounting, so it is optional. */
function settings(version: 1 | 2, controller: Controller, limits: CgroupLimits): readonly [string, string][] {
  const memory = String(Math.round(limits.memoryBytes));
  const quota = String(Math.max(1000, Math.round(limits.cpus * CPU_PERIOD_US)));
  const tasks = String(Math.round(limits.tasks));
  if (controller === 'pids') return [['pids.max', tasks]];
  if (controller === 'memory') return version === 2 ? [['memory.max', memory]] : [['memory.limit_in_bytes', memory]];
  return version === 2
    ? [['cpu.max', `${quota} ${CPU_PERIOD_US}`]]
    : [
        ['cpu.cfs_period_us', String(CPU_PERIOD_US)],
        ['cpu.cfs_quota_us', quota],
      ];
}

/**
 * Finds out what can be limited, by making the home's group and removing it again.
 * @param mountsFile for tests: a file in the format of /proc/self/mounts.
 */
export async function openCgroups(machinesFolder: string, mountsFile = '/proc/self/mounts'): Promise<Cgroups> {
  const tag = homeTag(machinesFolder);
  const notices: string[] = [];
  const usable: Hierarchy[] = [];
  const all = await hierarchies(await readFile(mountsFile, 'utf8').catch(() => ''));
  for (const hierarchy of all) {
    try {
      await prepare(hierarchy, tag);
      usable.push(hierarchy);
      await rmdir(join(hierarchy.mount, PARENT, tag)).catch(() => {});
    } catch (error) {
      const code = (error as NodeJS.ErrnoException).code ?? String(error);
      notices.push(
        `no ${hierarchy.controllers.join(', ')} limit for machines: ${hierarchy.mount} cannot be used (${code}); run the node as root or delegate a cgroup`,
      );
    }
  }
  const controllers = usable.flatMap((hierarchy) => hierarchy.controllers);
  for (const name of CONTROLLERS)
    if (!all.some((hierarchy) => hierarchy.controllers.includes(name)))
      notices.push(`no ${name} limit for machines: no cgroup hierarchy has the controller; mount cgroup2 with it`);

  const home = (hierarchy: Hierarchy) => join(hierarchy.mount, PARENT, tag);
  const group = (hierarchy: Hierarchy, id: string) => {
    if (!ID.test(id)) throw new CoppiceError('bad_request', 'machine id must match [a-z0-9]{1,32}');
    return join(home(hierarchy), id);
  };

  return {
    controllers,
    notices,
    async create(id, limits) {
      await Promise.all(
        usable.map(async (hierarchy) => {
          const folder = group(hierarchy, id);
          await makeGroup(hierarchy, tag, folder);
          for (const controller of hierarchy.controllers)
            for (const [file, value] of settings(hierarchy.version, controller, limits))
              await writeFile(join(folder, file), value);
        }),
      );
    },
    async add(id, pid) {
      await Promise.all(usable.map((hierarchy) => writeFile(join(group(hierarchy, id), 'cgroup.procs'), String(pid))));
    },
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

/** Makes coppice/<home>; on v2 also lets its children have the controllers. */
async function prepare(hierarchy: Hierarchy, tag: string): Promise<void> {
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
}

/** The home's group comes and goes with its machines, so another machine's end may remove it in between. */
async function makeGroup(hierarchy: Hierarchy, tag: string, folder: string): Promise<void> {
  for (let attempt = 0; ; attempt++) {
    try {
      await mkdir(folder);
      return;
    } catch (error) {
      const code = (error as NodeJS.ErrnoException).code;
      if (code === 'EEXIST') return;
      if (code !== 'ENOENT' || attempt >= 10) throw error;
      await prepare(hierarchy, tag).catch((cause: NodeJS.ErrnoException) => {
        if (cause.code !== 'ENOENT') throw cause;
      });
    }
  }
}

/** rmdir answers EBUSY while a task is leaving: tried for about a second. */
async function removeGroup(folder: string): Promise<void> {
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
