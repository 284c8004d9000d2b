/** Calls of the OCI runtime, and what every jail's configuration has of it. */
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { command } from './command.ts';
import { agentProcess, type JailConfig, OOM_SCORE, ociConfig } from './config.ts';
import { CONFIG_FILE, RUNTIME_LOG } from './names.ts';
import type { Runtime } from './runtime.ts';

export interface Launcher {
  readonly runtime: Runtime;
  /** Configuration of a jail of this runtime. */
  configure(jail: Omit<JailConfig, 'openFiles' | 'seccomp' | 'annotations'>): Record<string, unknown>;
  /** Runs the bundle at `folder`. `network`: path of the namespace that it is to be in. */
  run(
    id: string,
    folder: string,
    config: Record<string, unknown>,
    options: { readonly groups: readonly string[]; readonly detached: boolean; readonly network?: string | undefined },
  ): Promise<void>;
  /** Starts the agent in a jail, with an open socket that it is to listen on. */
  startAgent(
    id: string,
    folder: string,
    options: { readonly groups: readonly string[]; readonly listener: number; readonly network: string },
  ): Promise<void>;
  /** Removes what the runtime has noted of a jail that is no more. */
  forget(id: string): void;
}

/** Where `run` leaves the pid of a detached jail's first process. */
export const PID_FILE = 'pid';

export function createLauncher(runtime: Runtime, stateFolder: string): Launcher {
  const common = (): Pick<JailConfig, 'openFiles' | 'seccomp' | 'annotations'> => ({
    openFiles: openFilesLimit(),
    ...runtime.filter(),
  });

  /** In those cgroups, so that all it starts is in them. What it complains of goes into the error. */
  const call = async (
    folder: string,
    groups: readonly string[],
    args: readonly string[],
    { passed, network }: { readonly passed?: number; readonly network?: string | undefined } = {},
  ): Promise<void> => {
    const log = join(folder, RUNTIME_LOG);
    const entering = groups.map((group) => `echo $$ > '${group}/cgroup.procs'`);
    // crun's exec sets no score: what is started has this one from its first instruction on.
    const script = [...entering, `echo ${OOM_SCORE} > /proc/self/oom_score_adj`, 'exec "$@"'].join(' && ');
    const flags = runtime.flags(stateFolder, log);
    try {
      // A runtime that enters the user namespace first may enter no network of the host's after that.
      const enter = runtime.ownUserNamespace && network !== undefined ? ['nsenter', `--net=${network}`] : [];
      await command('/bin/sh', ['-c', script, 'sh', ...enter, runtime.name, ...flags, ...args], passed);
    } catch (error) {
      let said = '';
      try {
        said = readFileSync(log, 'utf8').trim().slice(-1_000);
      } catch {
        // It said nothing.
      }
      throw new Error(`${(error as Error).message}${said ? `: ${said}` : ''}`);
    }
  };

  return {
    runtime,
    configure: (jail) => ociConfig({ ...jail, ...common() }),

    async run(id, folder, config, { groups, detached, network }) {
      writeFileSync(join(folder, CONFIG_FILE), JSON.stringify(config));
      const detach = detached ? ['--detach', `--pid-file=${join(folder, PID_FILE)}`] : [];
      await call(folder, groups, ['run', ...detach, `--bundle=${folder}`, id], { network });
    },

    async startAgent(id, folder, { groups, listener, network }) {
      const file = join(folder, 'agent.json');
      writeFileSync(file, JSON.stringify(agentProcess(openFilesLimit())));
      const exec = ['exec', '--detach', '--preserve-fds=1', `--process=${file}`, id];
      await call(folder, groups, exec, { passed: listener, network });
    },

    forget: (id) => rmSync(join(stateFolder, id), { recursive: true, force: true }),
  };
}

/** This process' own limit. */
function openFilesLimit(): number {
  return Number(/^Max open files\s+\d+\s+(\d+)/m.exec(readFileSync('/proc/self/limits', 'utf8'))![1]);
}
