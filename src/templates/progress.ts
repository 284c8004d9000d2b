/** What a build is doing and how long it still takes, from how long the same steps took before on this machine. */
import { mkdir, readFile, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';

export type BuildStep = 'kernel' | 'initrd' | 'agent-drive' | 'rootfs';

export interface BuildProgress {
  readonly step: BuildStep;
  /** For a person, e.g. `root filesystem of base: installing remaining packages inside the chroot`. */
  readonly label: string;
  /** `cached`: there was nothing to do. */
  readonly state: 'running' | 'done' | 'cached';
  /** 0..1 of this step. */
  readonly fraction?: number;
  /** Seconds until the whole build is ready, an estimate. */
  readonly etaSeconds?: number;
}

/** Seconds; used until the machine has done the step once. */
const FIRST_GUESS: Readonly<Record<BuildStep, number>> = { kernel: 8, initrd: 2, 'agent-drive': 8, rootfs: 100 };
const TICK_MS = 1_000;
/** A step that takes longer than expected stays below done. */
const MOST = 0.97;
const FILE = 'durations.json';

export interface ProgressTracker {
  /** Runs one step, with ticks while it runs; its duration is learned unless it was cached. */
  step<T extends { readonly cached: boolean }>(
    step: BuildStep,
    key: string,
    label: string,
    work: (setStage: (stage: string) => void) => Promise<T>,
  ): Promise<T>;
}

/**
 * @param tracks steps in the order in which they run; the tracks themselves run side by side. Each step is given with the
 *   key that its duration is kept under.
 */
export async function trackProgress(
  folder: string,
  tracks: readonly (readonly { readonly step: BuildStep; readonly key: string }[])[],
  onProgress: (event: BuildProgress) => void = () => {},
  now: () => number = () => performance.now(),
): Promise<ProgressTracker> {
  const learned = await readDurations(folder);
  const expected = (step: BuildStep, key: string) => learned[key] ?? FIRST_GUESS[step];
  const startedAt = new Map<string, number>();
  const ended = new Set<string>();
  const remaining = () =>
    Math.max(
      ...tracks.map((track) =>
        track.reduce((sum, { step, key }) => {
          if (ended.has(key)) return sum;
          const begun = startedAt.get(key);
          const spent = begun === undefined ? 0 : (now() - begun) / 1000;
          return sum + Math.max(expected(step, key) - spent, expected(step, key) * (1 - MOST));
        }, 0),
      ),
    );
  return {
    step: async (step, key, label, work) => {
      const begun = now();
      startedAt.set(key, begun);
      let stage = '';
      const report = (state: BuildProgress['state']) => {
        const fraction = state === 'running' ? Math.min(MOST, (now() - begun) / 1000 / expected(step, key)) : 1;
        const text = stage === '' || state !== 'running' ? label : `${label}: ${stage}`;
        onProgress({ step, label: text, state, fraction, etaSeconds: Math.ceil(remaining()) });
      };
      report('running');
      const timer = setInterval(() => report('running'), TICK_MS);
      try {
        const result = await work((next) => {
          stage = next;
          report('running');
        });
        ended.add(key);
        if (!result.cached) await learn(folder, key, (now() - begun) / 1000);
        report(result.cached ? 'cached' : 'done');
        return result;
      } finally {
        clearInterval(timer);
      }
    },
  };
}

async function readDurations(folder: string): Promise<Record<string, number>> {
  try {
    const parsed: unknown = JSON.parse(await readFile(join(folder, FILE), 'utf8'));
    if (typeof parsed !== 'object' || parsed === null) return {};
    return Object.fromEntries(
      Object.entries(parsed).filter(
        (entry): entry is [string, number] => typeof entry[1] === 'number' && entry[1] > 0 && entry[1] < 86_400,
      ),
    );
  } catch {
    return {};
  }
}

/** The mean of the last run and what was known before. A lost update of two builds at once costs a worse estimate only. */
async function learn(folder: string, key: string, seconds: number): Promise<void> {
  const durations = await readDurations(folder);
  const before = durations[key];
  durations[key] = Number((before === undefined ? seconds : (before + seconds) / 2).toFixed(2));
  const temporary = join(folder, `${FILE}.${process.pid}.tmp`);
  try {
    await mkdir(folder, { recursive: true });
    await writeFile(temporary, `${JSON.stringify(durations, null, 2)}\n`);
    await rename(temporary, join(folder, FILE));
  } catch {
    // An estimate is not worth failing a build for.
  }
}
