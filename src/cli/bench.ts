/** `coppice bench …`: runs a rig of benchmarks/rigs and keeps its result as JSON. */
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { runCreateRig } from '../../benchmarks/rigs/create.ts';
import type { Summary } from '../../benchmarks/rigs/statistics.ts';
import { openHome } from '../store/home.ts';
import { createLog } from '../telemetry/log.ts';
import { holdServiceLock } from './lock.ts';
import { createProgress } from './progress.ts';
import { type OutputOptions, print, table } from './report.ts';
import { setUp } from './set-up.ts';
import { readSettings } from './settings.ts';

export interface BenchCreateOptions extends OutputOptions {
  readonly n: number;
  readonly clones: number;
  readonly template: string;
  readonly out: string;
}

export async function benchCreate(options: BenchCreateOptions): Promise<void> {
  const home = openHome(readSettings().homeFolder);
  const log = createLog({ name: 'bench', file: join(home.logs, 'bench.log') });
  const progress = createProgress();
  const abort = new AbortController();
  process.once('SIGINT', () => abort.abort(new Error('interrupted')));
  const lock = holdServiceLock(home);
  try {
    await setUp(home, log, progress, abort.signal);
    const result = await runCreateRig({
      ...options,
      home,
      log,
      signal: abort.signal,
      onStage: (stage) => progress.step(stage),
    });
    progress.done();
    await mkdir(options.out, { recursive: true });
    const file = join(options.out, `create-${result.accelerator}-${result.template}.json`);
    await writeFile(file, `${JSON.stringify(result, null, 2)}\n`);
    print(options, result, () => {
      const row = (name: string, summary: Summary): string[] => [
        name,
        String(summary.n),
        ...[summary.p50, summary.p90, summary.p95, summary.p99, summary.max].map((ms) => ms.toFixed(1)),
      ];
      return [
        table(
          ['MILLISECONDS', 'N', 'P50', 'P90', 'P95', 'P99', 'MAX'],
          [
            row('floor: SIGCONT to answer', result.floor_sigcont_to_answer_ms),
            row('create, hot hit', result.hot_create_ms),
            row('create, pool miss', result.miss_create_ms),
          ],
        ),
        `memory per idle clone  ${result.memory_per_clone_mib.by_mem_available} MiB of MemAvailable, ${result.memory_per_clone_mib.by_private_pages} MiB private pages (${result.memory_per_clone_mib.clones} clones)`,
        `idle CPU per clone     ${result.idle_cpu_per_clone_percent.of_one_core} % of a core`,
        `written to ${file}`,
      ].join('\n');
    });
  } finally {
    progress.stop();
    lock.release();
  }
}
