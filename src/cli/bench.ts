/** `coppice bench …`: runs a rig of benchmarks/rigs and keeps its result as JSON. */
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { runCreateRig } from '../../benchmarks/rigs/create.ts';
import { type JailsResult, runJailsRig } from '../../benchmarks/rigs/jails.ts';
import type { Summary } from '../../benchmarks/rigs/statistics.ts';
import type { RigOptions } from '../../benchmarks/rigs/subject.ts';
import { openHome } from '../store/home.ts';
import { createLog } from '../telemetry/log.ts';
import { holdServiceLock } from './lock.ts';
import { createProgress } from './progress.ts';
import { type OutputOptions, print, table } from './report.ts';
import { setUp } from './set-up.ts';
import { readSettings } from './settings.ts';

export interface BenchOptions extends OutputOptions {
  readonly n: number;
  readonly template: string;
  readonly out: string;
}

export interface BenchCreateOptions extends BenchOptions {
  readonly clones: number;
}

export interface BenchJailsOptions extends BenchOptions {
  readonly idle: number;
  readonly many: number;
}

/** What every rig is given. */
type Surroundings = Omit<RigOptions, 'template'>;

export const HEADER = ['MILLISECONDS', 'N', 'P50', 'P90', 'P95', 'P99', 'MAX'];

export function row(name: string, summary: Summary | null): string[] {
  if (!summary) return [name, '-'];
  const { p50, p90, p95, p99, max } = summary;
  return [name, String(summary.n), ...[p50, p90, p95, p99, max].map((ms) => ms.toFixed(1))];
}

export async function benchCreate(options: BenchCreateOptions): Promise<void> {
  const result = await withHome((surroundings) => runCreateRig({ ...options, ...surroundings }));
  const file = await keep(options.out, `create-${result.accelerator}-${result.template}.json`, result);
  print(options, result, () =>
    [
      table(HEADER, [
        row('floor: waking to answer', result.floor_sigcont_to_answer_ms),
        row('create, hot hit', result.hot_create_ms),
        row('create, pool miss', result.miss_create_ms),
      ]),
      `memory per idle clone  ${result.memory_per_clone_mib.by_mem_available} MiB of MemAvailable, ${result.memory_per_clone_mib.by_private_pages} MiB private pages (${result.memory_per_clone_mib.clones} clones)`,
      `idle CPU per clone     ${result.idle_cpu_per_clone_percent.of_one_core} % of a core`,
      `written to ${file}`,
    ].join('\n'),
  );
}

export async function benchJails(options: BenchJailsOptions): Promise<void> {
  const result = await withHome((surroundings) => runJailsRig({ ...options, ...surroundings }));
  const runtime = result.version.split(' ')[0] ?? result.backend;
  const file = await keep(options.out, `jails-${runtime}-${result.template}.json`, result);
  print(options, result, () => [jailsText(result), `written to ${file}`].join('\n'));
  const { many } = result;
  if (many && (many.alive !== many.jails || many.exec.answered !== many.exec.asked || leaksOf(many) > 0))
    process.exitCode = 1;
}

function jailsText(result: JailsResult): string {
  const { create, sdk, code_interpreter: code, idle_memory_per_jail_mib: idle, many, floors } = result;
  const stages = (of: Readonly<Record<string, number>>): string =>
    Object.entries(of)
      .map(([name, ms]) => `${name} ${ms.toFixed(1)}`)
      .join(' · ');
  return [
    table(HEADER, [
      row('create, hot hit', create.hot.total),
      row('create, cold', create.cold.total),
      row('SDK, hot: create to first echo', sdk.hot.create_to_first_echo_ms),
      row('  create', sdk.hot.create_ms),
      row('  first echo', sdk.hot.first_echo_ms),
      row('  second echo', sdk.hot.second_echo_ms),
      row('SDK, cold: create to first echo', sdk.cold.create_to_first_echo_ms),
      row('  create', sdk.cold.create_ms),
      row('  first echo', sdk.cold.first_echo_ms),
      row('plain HTTP, hot: first echo', result.layers.fresh_first_echo_ms),
      row('  second echo', result.layers.fresh_second_echo_ms),
      row('run_code, warm', code?.warm_run_code_ms ?? null),
      row('run_code, first after a hot create', code?.first_run_code_ms ?? null),
      row('floor: thaw to answer', floors.thaw_to_answer_ms),
      row('floor: crun run', floors.crun_run.ms),
      row('floor: crun run without cgroups', floors.crun_run_without_cgroups.ms),
      row('floor: runc run', floors.runc_run.ms),
      row('floor: podman run', floors.podman_run.ms),
    ]),
    ...[floors.crun_run, floors.crun_run_without_cgroups, floors.runc_run, floors.podman_run]
      .filter(({ ms }) => ms === null)
      .map(({ note }) => `no figure: ${note}`),
    `one echo, by layer     ${stages(result.layers.of_one_echo_ms)}`,
    `stages, hot            ${stages(create.hot.stages)}`,
    `stages, cold           ${stages(create.cold.stages)}`,
    `memory per idle jail   ${idle.by_mem_available} MiB of MemAvailable, ${idle.by_kernel_counters} MiB by the kernel's counters, ${idle.by_charge ?? '-'} MiB by what cgroups are charged with (${idle.jails} jails)`,
    ...idle.rounds.map(
      ({ mem_available: seen, kernel_counters: counted, jails_own: own, node }) =>
        `  MemAvailable took ${seen.taken}, gave ${seen.returned}, noise ${seen.noise} · counters took ${counted.taken}, gave ${counted.returned}, noise ${counted.noise} · charged ${own.charged ?? '-'} to the jails, ${node.charged ?? '-'} to the node`,
    ),
    ...(many
      ? [
          `${many.jails} jails at once      made in ${many.created.seconds} s (${many.created.per_second}/s), ${many.alive} alive, ${many.exec.answered} of ${many.exec.asked} answered a command (p50 ${many.exec.first_echo_ms.p50} ms), killed in ${many.killed.seconds} s, ${leaksOf(many)} leaks`,
        ]
      : []),
  ].join('\n');
}

function leaksOf({ leaks }: NonNullable<JailsResult['many']>): number {
  return leaks.standing + leaks.after_kill + leaks.after_stop;
}

/** Runs a rig on this home, set up and locked; the first Ctrl-C ends it in order. */
export async function withHome<T>(rig: (surroundings: Surroundings) => Promise<T>): Promise<T> {
  const home = openHome(readSettings().homeFolder);
  const log = createLog({ name: 'bench', file: join(home.logs, 'bench.log') });
  const progress = createProgress();
  const abort = new AbortController();
  const interrupt = (): void => abort.abort(new Error('interrupted'));
  process.once('SIGINT', interrupt).once('SIGTERM', interrupt);
  const lock = holdServiceLock(home);
  try {
    await setUp(home, log, progress, abort.signal);
    const result = await rig({
      home,
      log,
      signal: abort.signal,
      onStage: (stage, fraction) => progress.step(stage, fraction === undefined ? {} : { fraction }),
    });
    progress.done();
    return result;
  } finally {
    progress.stop();
    lock.release();
    process.off('SIGINT', interrupt).off('SIGTERM', interrupt);
  }
}

export async function keep(folder: string, name: string, result: unknown): Promise<string> {
  await mkdir(folder, { recursive: true });
  const file = join(folder, name);
  await writeFile(file, `${JSON.stringify(result, null, 2)}\n`);
  return file;
}
