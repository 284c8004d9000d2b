/** `coppice bench load`: many programs at once for minutes; fails when anything failed, leaked or grew. */
import { type LoadResult, runLoadRig } from '../../benchmarks/rigs/load.ts';
import { HEADER, keep, row, withHome } from './bench.ts';
import { type OutputOptions, print, table } from './report.ts';

export interface BenchLoadOptions extends OutputOptions {
  readonly flows: number;
  readonly seconds: number;
  readonly template: string;
  readonly out: string;
}

/** Of each message; the JSON has every failure. */
const LINES = 10;

export async function benchLoad(options: BenchLoadOptions): Promise<void> {
  const result = await withHome((surroundings) => runLoadRig({ ...options, ...surroundings }));
  const file = await keep(options.out, `load-${result.isolation}.json`, result);
  print(options, result, () => [text(result), `written to ${file}`].join('\n'));
  if (!result.held) process.exitCode = 1;
}

function text(result: LoadResult): string {
  const { stages_ms: stages, readings, growth, leaks, failures } = result;
  const messages = Map.groupBy(failures, ({ stage, message }) => `${stage}: ${message}`);
  return [
    table(
      HEADER,
      Object.entries(stages).map(([stage, summary]) => row(stage, summary)),
    ),
    `flows        ${result.flows} in ${result.seconds} s, ${result.flows_at_once} at once: ${result.flows_per_second} a second, ${result.failed} failed`,
    ...[...messages].slice(0, LINES).map(([message, of]) => `  ${of.length} times ${message}`),
    table(
      ['SECOND', 'SANDBOXES', 'CONTROL RSS', 'PSS', 'HANDLES', 'FILES', 'NODE RSS', 'PSS', 'HANDLES', 'FILES'],
      readings.map(({ at_s: at, sandboxes, control, node }) => [
        ...[at, sandboxes].map(String),
        ...[control, node].flatMap((one) => [
          ...[one.rss_mib, one.pss_mib].map((mib) => mib.toFixed(1)),
          ...[one.handles, one.files].map(String),
        ]),
      ]),
    ),
    ...growth
      .filter(({ exceeded }) => exceeded)
      .map(({ process, of, from, to, slack }) => `grew         ${of} of ${process}: ${from} to ${to}, slack ${slack}`),
    `leaks        ${leaks.after_load.length} after the load, ${leaks.after_stop.length} after the stop`,
    ...[...leaks.after_load, ...leaks.after_stop].slice(0, LINES).map((leak) => `  ${leak}`),
  ].join('\n');
}
