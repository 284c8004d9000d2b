/** Program: runs what jail-floors.ts asks for and prints its rows as JSON. Its mounts are seen by nobody else. */
import { execFileSync, spawn } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { ForeignFloors, ForeignRow, InsideOptions } from './jail-floors.ts';
import { summarize } from './statistics.ts';

const { folder, rootfs, n } = JSON.parse(process.argv[2]!) as InsideOptions;
const WARM_UP = 2;
const COMMAND_DEADLINE_MS = 30_000;

const at = (...parts: string[]): string => {
  const path = join(folder, ...parts);
  mkdirSync(path, { recursive: true });
  return path;
};
const lower = at('lower');
const root = at('bundle', 'rootfs');
execFileSync('mount', ['-o', 'ro,loop,noatime', rootfs, lower]);
const layers = `lowerdir=${lower},upperdir=${at('upper')},workdir=${at('work')}`;
execFileSync('mount', ['-t', 'overlay', '-o', layers, 'overlay', root]);
// podman's locks; they would outlive it.
execFileSync('mount', ['-t', 'tmpfs', 'tmpfs', '/dev/shm']);
hideHalfUnified();

const limits = readFileSync('/proc/self/limits', 'utf8');
const limit = (name: string): string =>
  new RegExp(`^${name}\\s+(\\d+)\\s+(\\d+)`, 'm').exec(limits)?.[2] ?? 'unlimited';
const files = limit('Max open files');
const processes = limit('Max processes');

let runs = 0;
const bundle = join(folder, 'bundle');
const oci = (name: string, flags: readonly string[], note: string): Promise<ForeignRow> =>
  row(
    name,
    () => {
      makeBundle(name);
      return () => [...flags, `--root=${join(folder, `state-${name}`)}`, 'run', `--bundle=${bundle}`, `floor${runs++}`];
    },
    note,
  );

const result: ForeignFloors = {
  crun_run: await oci('crun', [], "crun's own specification, no user namespace, its own cgroup"),
  crun_run_without_cgroups: await oci('crun', ['--cgroup-manager=disabled'], 'the same without cgroups'),
  runc_run: await oci('runc', [], "runc's own specification, no user namespace, its own cgroup"),
  podman_run: await row(
    'podman',
    () => () => [
      `--root=${join(folder, 'podman')}`,
      `--runroot=${join(folder, 'podman-run')}`,
      `--tmpdir=${join(folder, 'podman-tmp')}`,
      '--cgroup-manager=cgroupfs',
      '--events-backend=none',
      'run',
      '--rm',
      '--network=none',
      // No more than this process has: the default of podman is refused where the host allows less.
      ...(files === 'unlimited' ? [] : [`--ulimit=nofile=${files}:${files}`]),
      ...(processes === 'unlimited' ? [] : [`--ulimit=nproc=${processes}:${processes}`]),
      '--rootfs',
      root,
      '/bin/true',
    ],
    'podman run --rm --network=none --rootfs, as root, its default runtime',
  ),
};
process.stdout.write(JSON.stringify(result));

/** crun refuses a host whose controllers are split over both versions of cgroups. */
function hideHalfUnified(): void {
  const file = '/sys/fs/cgroup/unified/cgroup.controllers';
  if (existsSync(file) && readFileSync(file, 'utf8').trim() !== '') execFileSync('umount', ['/sys/fs/cgroup/unified']);
}

function makeBundle(runtime: string): void {
  rmSync(join(bundle, 'config.json'), { force: true });
  execFileSync(runtime, ['spec'], { cwd: bundle });
  const file = join(bundle, 'config.json');
  const config = JSON.parse(readFileSync(file, 'utf8'));
  config.process.terminal = false;
  config.process.args = ['/bin/true'];
  config.root.readonly = false;
  writeFileSync(file, JSON.stringify(config));
}

async function row(tool: string, prepare: () => () => readonly string[], note: string): Promise<ForeignRow> {
  let version: string;
  try {
    version = execFileSync(tool, ['--version'], { encoding: 'utf8' }).split('\n')[0]!.trim();
  } catch {
    return { ms: null, version: null, note: `${tool} is not installed` };
  }
  const args = prepare();
  const samples: number[] = [];
  for (let round = -WARM_UP; round < n; round++) {
    const begun = performance.now();
    const failure = await ended(tool, args());
    if (failure) return { ms: null, version, note: `refused here: ${failure}` };
    if (round >= 0) samples.push(performance.now() - begun);
  }
  return { ms: summarize(samples), version, note };
}

/** undefined: it ended well. */
async function ended(file: string, args: readonly string[]): Promise<string | undefined> {
  const child = spawn(file, args, {
    stdio: ['ignore', 'ignore', 'pipe'],
    timeout: COMMAND_DEADLINE_MS,
    killSignal: 'SIGKILL',
  });
  let said = '';
  child.stderr.on('data', (chunk: Buffer) => {
    said = (said + chunk.toString()).slice(-500);
  });
  const [code, signal] = await new Promise<[number | null, string | null]>((resolve, reject) => {
    child.once('error', reject);
    child.once('exit', (...end) => resolve(end));
  });
  return code === 0 ? undefined : `${code ?? signal} ${said.trim()}`;
}
