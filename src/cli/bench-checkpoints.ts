/** `coppice bench checkpoints`: what capturing a sandbox and bringing it back takes. */
import { type CheckpointsResult, runCheckpointsRig } from '../../benchmarks/rigs/checkpoints.ts';
import { type BenchOptions, HEADER, keep, row, withHome } from './bench.ts';
import { bytes, print, table } from './report.ts';

export async function benchCheckpoints(options: BenchOptions): Promise<void> {
  const result = await withHome((surroundings) => runCheckpointsRig({ ...options, ...surroundings }));
  const file = await keep(options.out, `checkpoints-${result.accelerator}-${result.template}.json`, result);
  print(options, result, () => [text(result), `written to ${file}`].join('\n'));
}

function text({ create, sources, hot_tier_after_restart: back, floors }: CheckpointsResult): string {
  const { stop_and_cont_ms: stops } = floors;
  return [
    table(HEADER, [
      row('create, hot hit', create.hot.total),
      row('create, in a shell', create.in_a_shell.total),
      row('create, without a shell', create.without_a_shell.total),
      ...sources.flatMap((source) => [
        row(`${source.dirty_mib} MiB written: snapshot`, source.snapshot.total_ms),
        row('  its pause', source.snapshot.pause_ms ?? null),
        row('  pause', source.pause.total_ms),
        row('  its pause', source.pause.pause_ms ?? null),
        row('  resume', source.resume.total_ms),
        row('  rollback', source.rollback.total_ms),
        row('  create from a snapshot, hot hit', source.create_hot.total),
        row('  create from a snapshot, in a shell', source.create_in_a_shell.total),
        row('  create from a snapshot, without a shell', source.create_without_a_shell.total),
        ...source.forks.flatMap((forks) => [
          row(`  fork of ${forks.count}`, forks.total_ms),
          row('    each', forks.per_fork_ms),
          row('    its pause', forks.pause_ms ?? null),
        ]),
      ]),
      row('floor: waking to answer', floors.sigcont_to_answer_ms),
      row('floor: start of the program', floors.start_of_program_ms),
      row('floor: stop and cont', stops.total),
      row('  its pause', stops.pause),
      ...floors.read_of_own_pages.map(({ dirty_mib: dirty, own_mib: own, ms }) =>
        row(`floor: read of own pages, ${dirty} MiB written (${own.toFixed(1)} MiB)`, ms),
      ),
      row('restart to a service that serves', back.service_ready_ms),
      row('restart to its first hot entry', back.first_entry_ms),
      row(`restart to its ${back.entries_each} hot entries`, back.its_entries_ms),
      row(`restart to ${back.entries} hot entries of all templates`, back.all_entries_ms),
      row('  each', back.per_entry_ms),
    ]),
    ...sources.map(({ dirty_mib: dirty, own_bytes: own, forks, forks_not_measured: missing }) =>
      [
        `${dirty} MiB written: snapshots of ${bytes(own.min)} to ${bytes(own.max)}`,
        ...forks.map(({ count, memory_per_fork_mib: memory }) => `${memory.p50} MiB private each of ${count} forks`),
        ...forks.flatMap(({ count, not_made: failed }) =>
          failed > 0 ? [`${failed} of those made ${count} at once came to nothing`] : [],
        ),
        ...missing.map((why) => `no figure for forks, ${why}`),
      ].join(' · '),
    ),
  ].join('\n');
}
