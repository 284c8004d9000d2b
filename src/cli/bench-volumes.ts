/** `coppice bench volumes`: creates with a volume and files in it, beside creates without and the sandbox's own disk. */
import { runVolumesRig } from '../../benchmarks/rigs/volumes.ts';
import { type BenchOptions, HEADER, keep, row, withHome } from './bench.ts';
import { print, table } from './report.ts';

export async function benchVolumes(options: BenchOptions): Promise<void> {
  const result = await withHome((surroundings) => runVolumesRig({ ...options, ...surroundings }));
  const file = await keep(options.out, `volumes-${result.accelerator}-${result.template}.json`, result);
  print(options, result, () =>
    [
      table(HEADER, [
        row('create', result.create_ms),
        row('create with a volume', result.create_with_volume_ms),
        ...Object.entries(result.files_ms).flatMap(([act, { in_volume, on_own_disk }]) => [
          row(`${act}, in the volume`, in_volume),
          row('  on its own disk', on_own_disk),
        ]),
      ]),
      `written to ${file}`,
    ].join('\n'),
  );
}
