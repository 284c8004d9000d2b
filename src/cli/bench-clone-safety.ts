/** `coppice bench clone-safety`: whether any two of many clones have something that must be its own. */
import { type CloneSafetyResult, runCloneSafetyRig } from '../../benchmarks/rigs/clone-safety.ts';
import { keep, withHome } from './bench.ts';
import { type OutputOptions, print, table } from './report.ts';

export interface BenchCloneSafetyOptions extends OutputOptions {
  readonly count: number;
  readonly template: string;
  readonly out: string;
}

/** Of each hazard that was found. */
const LINES = 5;

export async function benchCloneSafety(options: BenchCloneSafetyOptions): Promise<void> {
  const result = await withHome((surroundings) => runCloneSafetyRig({ ...options, ...surroundings }));
  const file = await keep(options.out, `clone-safety-${result.accelerator}-${result.template}.json`, result);
  print(options, result, () => [text(result), `written to ${file}`].join('\n'));
  if (result.found > 0) process.exitCode = 1;
}

function text({ sandboxes, hazards, shared_by_design: shared, clock_skew_ms: skew }: CloneSafetyResult): string {
  const made = Object.entries(sandboxes).map(([origin, count]) => `${count} ${origin}`);
  return [
    table(
      ['HAZARD', 'RESULT', 'CHECKED', 'COLLISIONS'],
      hazards.map(({ hazard, result, checked, collisions }) => [
        hazard,
        result,
        String(checked),
        String(collisions.length),
      ]),
    ),
    ...hazards
      .filter(({ result }) => result === 'found')
      .flatMap(({ hazard, collisions, notes }) => [
        `${hazard}:`,
        ...collisions
          .slice(0, LINES)
          .map(({ what, value, sandboxes: holders }) => `  ${what} is ${value} in ${holders.length} sandboxes`),
        ...notes.slice(0, LINES).map((note) => `  ${note}`),
      ]),
    ...shared.map(({ what, values, of, why }) => `${what}: ${values} values in ${of} sandboxes, by design: ${why}`),
    `sandboxes    ${made.join(' · ')}`,
    `clock skew   p50 ${skew.p50} ms, p99 ${skew.p99} ms, max ${skew.max} ms`,
  ].join('\n');
}
