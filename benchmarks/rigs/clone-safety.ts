/**
 * Rig: clone safety. Many sandboxes of one template, from the hot tier, on a pool miss, from a snapshot and by fork, each
 * asked for all that must be its own; what two of them have in common is a hazard. Nothing is timed but clocks.
 */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { CoppiceError } from '../../src/contract/errors.ts';
import type { Checkpoint } from '../../src/isolation/backend.ts';
import { searchFolder } from './checkpoint-secrets.ts';
import { type Draw, draw, type Origin, prepareSource } from './clone-draw.ts';
import { type Evidence, findHazards, sharedByDesign } from './clone-hazards.ts';
import type { Hazard } from './clone-verdicts.ts';
import { drawWaves, type Made, type WaveOptions, type Waves } from './clone-waves.ts';
import { type RigService, withService } from './service.ts';
import { type Summary, summarize } from './statistics.ts';
import { openSubject, type RigOptions, type SubjectFacts } from './subject.ts';
import { deleteSnapshot, fork, takeSnapshot } from './verbs.ts';

export interface CloneSafetyRigOptions extends RigOptions {
  /** Sandboxes, a quarter of each origin. */
  readonly count: number;
}

export interface CloneSafetyResult extends SubjectFacts {
  readonly rig: 'clone-safety';
  readonly clock: string;
  readonly sandboxes: Readonly<Record<Exclude<Origin, 'source'>, number>>;
  /** How creates came by their machines, by origin; forks do not say. */
  readonly paths: Readonly<Record<string, Readonly<Record<string, number>>>>;
  readonly largest_wave: number;
  readonly clock_skew_ms: Summary;
  readonly hazards: readonly Hazard[];
  readonly shared_by_design: ReturnType<typeof sharedByDesign>;
  readonly found: number;
}

const HOT = 2;
const HOT_MOST = 4;
const LIFE_SECONDS = 7_200;
const OVERHEAD_MIB = 128;
/** Sandboxes of a wave, the hot tier and what else stands. */
const STANDING = 70;
/** The service makes at most so many forks at once. */
const FORKS = 50;

export async function runCloneSafetyRig(options: CloneSafetyRigOptions): Promise<CloneSafetyResult> {
  const { home, log, signal, count, onStage } = options;
  const { template, backend, facts } = await openSubject(options);
  if (!backend.capabilities.memoryCheckpoint)
    throw new CoppiceError('bad_request', `template '${options.template}' makes machines that share no memory image`);
  const python = template.languages.includes('python');
  const javascript = template.languages.includes('javascript');
  const memoryMB = STANDING * (template.shape.memoryMB + OVERHEAD_MIB);
  const service = { home, log, signal, memoryMB, connections: 4 };
  const shares = {
    hot: quarter(count, 0),
    cold: quarter(count, 1),
    snapshot: quarter(count, 2),
    fork: quarter(count, 3),
  };
  const waves: (Waves & { readonly origin: Origin })[] = [];
  const sources: { readonly before: Draw; readonly after: Draw }[] = [];
  const secrets = { files: 0, found: [] as string[] };
  const checkpoints = { verified: 0, changed: [] as string[] };
  let orphans = 0;

  const take = async (
    running: RigService,
    wish: Pick<WaveOptions, 'make' | 'onStanding'> & { readonly origin: Origin; readonly count: number },
  ): Promise<void> => {
    // Started by the owner of what was captured; in others it would be a fresh process.
    const captured = wish.origin === 'snapshot' || wish.origin === 'fork';
    const stage = `${wish.count} sandboxes: ${wish.origin}`;
    onStage(stage, 0);
    const onProgress = (done: number): void => onStage(stage, done / wish.count);
    waves.push({
      origin: wish.origin,
      ...(await drawWaves(running, { ...wish, python, javascript: javascript && captured, signal, onProgress })),
    });
  };
  const verify = async (folder: string, base?: Checkpoint): Promise<void> => {
    checkpoints.verified++;
    const fault = await backend.openCheckpoint(folder, { verify: true, ...(base ? { base } : {}) }).then(
      () => undefined,
      (error: unknown) => String(error),
    );
    if (fault !== undefined) checkpoints.changed.push(fault);
  };
  const search = async (folder: string, wanted: ReadonlyMap<string, Buffer>, known?: string): Promise<void> => {
    const { files, found } = await searchFolder(folder, wanted);
    secrets.files += files;
    for (const what of found) if (what !== known) secrets.found.push(`${what}, in ${folder.slice(home.folder.length)}`);
    // A search that does not find what is there proves nothing.
    if (known !== undefined && !found.has(known)) throw new Error(`${known} was not found in a snapshot of it`);
  };
  /** A sandbox that is used and captured, asked before and after. */
  const withSource = async (running: RigService, use: (source: Made, before: Draw) => Promise<void>): Promise<void> => {
    const source = await create(running, options.template);
    try {
      await prepareSource(running, source.sandboxID, { python, javascript });
      const about = {
        origin: 'source',
        wave: `source ${source.sandboxID}`,
        token: source.token,
        python,
        javascript,
      } as const;
      const before = await draw(running, source.sandboxID, about);
      await use(source, before);
      const after = await draw(running, source.sandboxID, about);
      sources.push({ before, after });
    } finally {
      await running.client.kill(source.sandboxID);
    }
  };
  const secretsOf = async (running: RigService): Promise<Map<string, Buffer>> => {
    const seed = await readFile(home.seedFile);
    return new Map([
      ["the service's key", Buffer.from(running.apiKey)],
      ["the service's seed", seed],
      ["the service's seed in hex", Buffer.from(seed.toString('hex'))],
    ]);
  };

  await withService({ ...service, pool: HOT, most: HOT_MOST }, async (running) => {
    await search(template.checkpoint.folder, await secretsOf(running));
    await take(running, {
      origin: 'hot',
      count: shares.hot,
      make: (wanted) =>
        times(wanted, async () => {
          await running.untilHot(1);
          return create(running, options.template);
        }),
    });
    if (shares.snapshot === 0) return;
    await withSource(running, async (source, before) => {
      const { buildID, snapshotID } = (await takeSnapshot(running.client, source.sandboxID)).value;
      const folder = join(home.snapshots, buildID, 'checkpoint');
      let there = true;
      const drop = async (): Promise<void> => {
        if (there) await deleteSnapshot(running.client, snapshotID);
        there = false;
      };
      try {
        const own = 'the generation of its source';
        const wanted = await secretsOf(running);
        wanted.set(own, Buffer.from(before.values['process.generation']!));
        if (source.token !== undefined) wanted.set("its source's token", Buffer.from(source.token));
        await search(folder, wanted, own);
        await take(running, {
          origin: 'snapshot',
          count: shares.snapshot,
          make: (some) => times(some, () => create(running, snapshotID)),
          onStanding: async (made, last) => {
            if (!last) return;
            await verify(folder, template.checkpoint);
            await drop();
            orphans = made.length;
          },
        });
      } finally {
        await drop();
      }
    });
  });
  await withService({ ...service, pool: 0 }, async (running) => {
    await take(running, {
      origin: 'cold',
      count: shares.cold,
      // Every second one without what is made ahead.
      make: (wanted) =>
        times(wanted, (index) =>
          create(running, options.template, index % 2 === 0 ? {} : { allow_internet_access: false }),
        ),
    });
    if (shares.fork === 0) return;
    await withSource(running, (source) =>
      take(running, {
        origin: 'fork',
        count: shares.fork,
        make: async (wanted) => {
          const wish = { count: Math.min(wanted, FORKS), timeout: LIFE_SECONDS };
          const { made, failures } = (await fork(running.client, source.sandboxID, wish)).value;
          if (made.length === 0) throw new Error(`no fork was made: ${failures[0]}`);
          return made.map(({ sandboxID, envdAccessToken: token }) => ({ sandboxID, token, path: undefined }));
        },
      }),
    );
  });
  await verify(template.checkpoint.folder);

  const draws = [...waves.flatMap((wave) => wave.draws), ...sources.map(({ after }) => after)];
  const foreignTokens: Evidence['foreignTokens'] = {
    offered: waves.reduce((sum, one) => sum + one.foreignTokens.offered, 0),
    accepted: waves.flatMap((one) => one.foreignTokens.accepted),
  };
  const hazards = findHazards({ draws, sources, foreignTokens, secrets, checkpoints, orphans });
  const sizes = Map.groupBy(draws, ({ wave }) => wave);
  return {
    rig: 'clone-safety',
    clock: "clock skew: by how much the guest's time lies outside of the time that asking for it took; 0 when within",
    ...facts(),
    sandboxes: shares,
    paths: Object.fromEntries(waves.map(({ origin, made }) => [origin, pathsOf(made)])),
    largest_wave: Math.max(...Array.from(sizes.values(), ({ length }) => length)),
    clock_skew_ms: summarize(draws.map(({ clockSkewMs }) => clockSkewMs)),
    hazards,
    shared_by_design: sharedByDesign(draws),
    found: hazards.filter(({ result }) => result === 'found').length,
  };
}

async function create({ client }: RigService, template: string, more: Record<string, unknown> = {}): Promise<Made> {
  const { body, path } = await client.create(template, LIFE_SECONDS, more);
  return { sandboxID: body.sandboxID, token: body.envdAccessToken, path };
}

/** One after the other. */
async function times<T>(count: number, work: (index: number) => Promise<T>): Promise<T[]> {
  const done: T[] = [];
  for (let index = 0; index < count; index++) done.push(await work(index));
  return done;
}

function quarter(count: number, index: number): number {
  return Math.floor((count + 3 - index) / 4);
}

function pathsOf(made: readonly Made[]): Record<string, number> {
  const counts: Record<string, number> = {};
  for (const { path = 'not said' } of made) counts[path] = (counts[path] ?? 0) + 1;
  return counts;
}
