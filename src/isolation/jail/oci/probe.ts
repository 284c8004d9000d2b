/** Whether this host runs jails, and by which runtime: each part looked for, and then one jail run. */
import { execFile } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { promisify } from 'node:util';
import type { BackendProbe } from '../../backend.ts';
import { openCgroups } from '../../cgroup.ts';
import { UIDS_EACH } from './config.ts';
import { createKeeper, type Keeper } from './keeper.ts';
import type { RuntimeName } from './runtime.ts';

const run = promisify(execFile);
const FILE_SYSTEMS = ['ext4', 'overlay'] as const;
const LIMITS = ['memory', 'pids'] as const;

export interface Choice {
  readonly probe: BackendProbe;
  /** Of the runtime that works; undefined where none does. */
  readonly keeper: Keeper | undefined;
}

export interface ProbeOptions {
  readonly folder: string;
  readonly uids: { readonly first: number; readonly slots: number } | undefined;
  /** In order of preference. */
  readonly runtimes: readonly RuntimeName[];
}

/** Never rejects: why there are no jails is in the notices. */
export async function chooseRuntime({ folder, uids, runtimes }: ProbeOptions): Promise<Choice> {
  const unfit = await whyUnfit(folder, uids);
  if (unfit !== undefined) return none([unfit]);
  const { arch } = process;
  if (arch !== 'x64' && arch !== 'arm64') return none([`no filter of system calls for ${arch}`]);
  const failures: string[] = [];
  for (const runtime of runtimes) {
    let version: string;
    try {
      version = (await run(runtime, ['--version'])).stdout.split('\n')[0]!.trim();
    } catch {
      failures.push(`${runtime} does not run; install the package ${runtime}`);
      continue;
    }
    const keeper = createKeeper({ folder, runtime, architecture: arch });
    try {
      // The last range: nobody is given it before all others are taken.
      await keeper.ask('test', { uid: uids!.first + (uids!.slots - 1) * UIDS_EACH });
      return { keeper, probe: { usable: true, accelerator: 'native', version, notices: [] } };
    } catch (error) {
      failures.push(`${version}: ${(error as Error).message}`);
    }
  }
  return none(failures);
}

function none(reasons: readonly string[]): Choice {
  const notices = reasons.map((reason) => `no jails: ${reason}`);
  return { keeper: undefined, probe: { usable: false, accelerator: 'none', version: 'none', notices } };
}

async function whyUnfit(folder: string, uids: ProbeOptions['uids']): Promise<string | undefined> {
  if (process.getuid?.() !== 0) return 'they need a node that is root';
  if (!uids || uids.slots === 0) return 'this host maps too few users to give each jail its own';
  const known = readFileSync('/proc/filesystems', 'utf8').split(/\s+/);
  const missing = FILE_SYSTEMS.filter((name) => !known.includes(name));
  if (missing.length > 0) return `the kernel has no ${missing.join(', ')}; load the module`;
  if (!existsSync('/dev/loop-control')) return 'there are no loop devices; load the module loop';
  const cgroups = await openCgroups(folder);
  const unlimited = LIMITS.filter((name) => !cgroups.controllers.includes(name));
  if (unlimited.length > 0) return `no cgroup limits ${unlimited.join(' and ')} here: ${cgroups.notices.join('; ')}`;
  return cgroups.freezes ? undefined : 'no cgroup freezes here';
}
