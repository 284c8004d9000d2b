/**
 * Rig: volumes. What a create waits for its volume, and what files cost in it, each beside the same act without: a create of the
 * same service, the sandbox's own disk. Clocks are in the result.
 */
import { Sandbox } from 'e2b';
import { measureCreates } from './creates.ts';
import { withService } from './service.ts';
import { type Summary, summarize } from './statistics.ts';
import { openSubject, type RigOptions, type SubjectFacts } from './subject.ts';

export interface VolumesRigOptions extends RigOptions {
  /** Rounds of each row. */
  readonly n: number;
}

export type FileAct = (typeof ACTS)[number][0];

export interface VolumesResult extends SubjectFacts {
  readonly rig: 'volumes';
  readonly clock: string;
  readonly create_ms: Summary;
  readonly create_with_volume_ms: Summary;
  /** The server's own stages of those, median each. */
  readonly create_with_volume_stages_ms: Readonly<Record<string, number>>;
  readonly files_ms: Readonly<Record<FileAct, { readonly in_volume: Summary; readonly on_own_disk: Summary }>>;
}

const MIB = 64;
const FILES = 300;
const PATH = '/mnt/volume';
/** Shell, in an empty folder, in this order. Past the guest's own memory: O_DIRECT. */
const ACTS = [
  [`write ${MIB} MiB`, `dd if=/dev/zero of=big bs=1M count=${MIB} oflag=direct conv=fsync`],
  [`read ${MIB} MiB`, 'dd if=big of=/dev/null bs=1M iflag=direct'],
  [`make ${FILES} files`, `i=0; while [ $i -lt ${FILES} ]; do echo x >f$i; i=$((i+1)); done`],
  ['list them', 'ls -l'],
  ['remove them', 'rm f*'],
] as const;
const ROUND_DEADLINE_MS = 120_000;

export async function runVolumesRig(options: VolumesRigOptions): Promise<VolumesResult> {
  const { home, log, signal, n, template, onStage } = options;
  const { template: subject, facts } = await openSubject(options);
  return withService({ home, log, signal, pool: 2 }, async (service) => {
    const { client } = service;
    const name = `bench-${Date.now()}`;
    const { body } = await client.ask(201, 'POST', '/volumes', { name });
    const { volumeID } = body as unknown as { volumeID: string };
    try {
      const creates = { template, n, hot: 2, signal };
      onStage('creates without a volume');
      const without = await measureCreates(service, creates);
      onStage('creates with one');
      const more = { volumeMounts: [{ name, path: PATH }] };
      const having = await measureCreates(service, { ...creates, more });
      onStage('files');
      const sandbox = await Sandbox.create(template, { ...service.sdk, volumeMounts: { [PATH]: name } });
      try {
        return {
          rig: 'volumes',
          clock: `creates: POST sent to 201 received, c=1, of a service at rest with a hot entry, which a ${subject.isolation} ${subject.isolation === 'jail' ? 'with a volume cannot be made of' : 'is made of in both'}; files: a command's begin to its end by the guest's own clock, its start included`,
          ...facts(),
          create_ms: without.total,
          create_with_volume_ms: having.total,
          create_with_volume_stages_ms: having.stages,
          files_ms: await measureFiles(sandbox, n, signal),
        };
      } finally {
        await sandbox.kill();
      }
    } finally {
      await client.ask(204, 'DELETE', `/volumes/${volumeID}`);
    }
  });
}

async function measureFiles(sandbox: Sandbox, n: number, signal: AbortSignal): Promise<VolumesResult['files_ms']> {
  const rounds = { in_volume: [] as number[][], on_own_disk: [] as number[][] };
  // The first is not counted.
  for (let round = -1; round < n; round++)
    for (const [where, folder] of [
      ['in_volume', `${PATH}/bench`],
      ['on_own_disk', '/home/user/bench'],
    ] as const) {
      signal.throwIfAborted();
      const { stdout } = await sandbox.commands.run(script(folder), { timeoutMs: ROUND_DEADLINE_MS });
      const took = stdout
        .trim()
        .split('\n')
        .map((ns) => Number(ns) / 1e6);
      if (took.length !== ACTS.length || !took.every((ms) => ms > 0)) throw new Error(`no times: ${stdout}`);
      if (round >= 0) rounds[where].push(took);
    }
  const summary = (where: keyof typeof rounds, act: number): Summary =>
    summarize(rounds[where].map((took) => took[act]!));
  return Object.fromEntries(
    ACTS.map(([name], act) => [
      name,
      { in_volume: summary('in_volume', act), on_own_disk: summary('on_own_disk', act) },
    ]),
  ) as VolumesResult['files_ms'];
}

/** Prints the nanoseconds of each act, a line each; fails when one does. */
function script(folder: string): string {
  const acts = ACTS.map(
    ([, act]) => `begun=$(date +%s%N); { ${act}; } >/dev/null 2>&1; echo $(($(date +%s%N) - begun))`,
  );
  return ['set -e', `mkdir -p ${folder}`, `cd ${folder}`, ...acts, 'rm big'].join('\n');
}
