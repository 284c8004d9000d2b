/**
 * Builds a template: a builder with the base's root filesystem runs the steps, what they leave becomes a root filesystem of
 * its own, and a machine of that is booted, warmed and captured. The builder is a jail, which runs at the host's speed
 * whatever the template is to run as; where there are no jails, the steps run in the machine that is captured.
 */
import { randomUUID } from 'node:crypto';
import { readFile, statfs, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import type { AgentClient } from '../channel/agent.ts';
import { isCoppiceError } from '../contract/errors.ts';
import {
  type Checkpoint,
  contentOf,
  type IsolationBackend,
  type Machine,
  type MachineImage,
  type MachineShape,
} from '../isolation/backend.ts';
import type { Backends } from '../isolation/backends.ts';
import type { Log } from '../telemetry/log.ts';
import {
  type BuildContext,
  baseKey,
  type PlannedStep,
  parseSettled,
  planFinish,
  planSteps,
  settleCommand,
  stepKey,
} from '../templates/build-plan.ts';
import { BASE_STEP, FINAL_STEP, stepError, stepOf } from '../templates/build-steps.ts';
import type { RootFacts } from '../templates/guest-root.ts';
import { imageWith } from '../templates/image.ts';
import { obtainMergedRootfs } from '../templates/merged-rootfs.ts';
import { throwIfAborted } from '../templates/run.ts';
import type { BuildBases, BuilderBase } from './build-base.ts';
import type { BuildFiles } from './build-files.ts';
import type { BuildLog } from './build-log.ts';
import type { BuildResult } from './build-rows.ts';
import { ask, runStep } from './build-run.ts';
import type { BuilderMachines } from './builder-machines.ts';
import { captureGolden } from './golden.ts';
import { newEntropy, newMachineID } from './identifiers.ts';
import type { LentPlace, ReadyTemplate } from './nursery.ts';
import type { Runtime, StartProgram } from './runtime.ts';
import { startProgram } from './start-program.ts';
import type { StepResults } from './step-results.ts';
import type { BuildJob, TemplateBuilder } from './template-builder.ts';

export interface ImageBuilderOptions {
  readonly backends: Backends;
  readonly machines: BuilderMachines;
  readonly bases: BuildBases;
  readonly files: BuildFiles;
  readonly steps: StepResults;
  readonly imagesFolder: string;
  readonly log: Log;
}

/** MiB that steps can write. It is a hole until they do. */
const BUILDER_DISK_MB = 16_384;
/** Compilers and package managers take more than what they make. */
const BUILDER_LEAST_MEMORY_MB = 2_048;
/** A step that took less is done again sooner than its result is kept. */
const WORTH_KEEPING_MS = 2_000;
/** Beside a step's checkpoint. */
const FACTS_FILE = 'facts.json';
/** No build begins with less than this left on the disk. */
const LEAST_FREE_BYTES = 2 * 2 ** 30;
/** What says nothing about whether a program is ready. */
const MERE_WAIT = /^\s*sleep\s+[\d.]+\s*$/;

interface Run {
  readonly job: BuildJob;
  readonly base: BuilderBase;
  readonly planned: readonly PlannedStep[];
  /** What holds after the last step. */
  readonly context: BuildContext;
  readonly shape: MachineShape;
  readonly out: string;
  readonly log: BuildLog;
  readonly signal: AbortSignal;
}

/** A disk that steps have left. */
interface Left {
  readonly checkpoint: Checkpoint;
  readonly facts: RootFacts;
}

export class ImageBuilder implements TemplateBuilder {
  readonly #options: ImageBuilderOptions;

  constructor(options: ImageBuilderOptions) {
    this.#options = options;
  }

  async build(job: BuildJob, out: string, log: BuildLog, signal: AbortSignal): Promise<BuildResult> {
    const { bases, backends, imagesFolder } = this.#options;
    await demandRoom(imagesFolder);
    const base = await bases.obtain(job, log, signal);
    try {
      const planned = planSteps(job.request.steps, base.context, base.facts);
      const context = planned.at(-1)?.after ?? base.context;
      const { cpuCount, memoryMB } = job.shape;
      const shape = { cpuCount, memoryMB, diskSizeMB: Math.max(base.diskSizeMB, job.shape.diskSizeMB) };
      const run = { job, base, planned, context, shape, out, log, signal };
      return backends.has('jail') ? await this.#inJail(run) : await this.#inPlace(run);
    } finally {
      base.release();
    }
  }

  async #inJail(run: Run): Promise<BuildResult> {
    const { base, signal } = run;
    const left = await this.#runSteps(run);
    return ofFinish(signal, async () => {
      const image = left ? await this.#merge(run, left.checkpoint) : base.image;
      return this.#capture(run, image, left?.facts ?? base.facts);
    });
  }

  /** Where there are no jails: the disk of the captured machine holds what the steps leave. */
  async #inPlace(run: Run): Promise<BuildResult> {
    const { base, planned, signal } = run;
    const result = await ofFinish(signal, () =>
      this.#capture(run, base.image, base.facts, async (agent, bootSignal) => {
        for (const step of planned) await this.#step(agent, step, run, bootSignal);
      }),
    );
    return { ...result, inPlace: true };
  }

  async #step(agent: AgentClient, planned: PlannedStep, { job, log }: Run, signal: AbortSignal): Promise<void> {
    log.say('info', planned.label, planned.step.name);
    await runStep(agent, planned, { templateID: job.templateID, files: this.#options.files, log, signal });
  }

  /** undefined: no step changes the disk. What was built before is used as far as it goes. */
  async #runSteps(run: Run): Promise<Left | undefined> {
    const { steps } = this.#options;
    const { planned, log } = run;
    const last = planned.findLastIndex(({ actions }) => actions.length > 0);
    const known = last < 0 ? undefined : await this.#known(run);
    const release = known?.resultID === undefined ? () => {} : steps.hold(known.resultID);
    try {
      const after = known ? known.at + 1 : 0;
      for (const { label, step } of planned.slice(0, after)) log.say('info', `CACHED ${label}`, step.name);
      const left = known && (known.at < last ? await this.#runFrom(run, known, last) : known.left);
      for (const { label, step } of planned.slice(Math.max(after, last + 1))) log.say('info', label, step.name);
      return left;
    } finally {
      release();
    }
  }

  async #runFrom(run: Run, known: Known, last: number): Promise<Left> {
    const { planned, job, log, signal } = run;
    let left = known.left ?? (await this.#blank(run));
    let { previous } = known;
    await this.#options.machines.grown(this.#builderOf(run, left.checkpoint), log, signal, async (member) => {
      const agent = await member.agent();
      let since = performance.now();
      for (let at = known.at + 1; at <= last; at++) {
        const one = planned[at]!;
        const key = stepKey(previous, one.step);
        await this.#step(agent, one, run, signal);
        previous = isForced(job, one) ? randomUUID() : key;
        if (at < last && performance.now() - since < WORTH_KEEPING_MS) continue;
        const facts = parseSettled(await ask(agent, settleCommand(), signal));
        const kept = await this.#keep(run, key, {
          machine: member.machine,
          base: left.checkpoint,
          goesOn: at < last,
          facts,
        });
        left = { checkpoint: kept.checkpoint, facts };
        previous = kept.resultID;
        since = performance.now();
      }
    });
    return left;
  }

  async #keep(
    { base, job, signal }: Run,
    key: string,
    now: { readonly machine: Machine; readonly base: Checkpoint; readonly goesOn: boolean; readonly facts: RootFacts },
  ): Promise<{ readonly resultID: string; readonly checkpoint: Checkpoint }> {
    const { machine, goesOn, facts } = now;
    const request = { image: base.image, shape: builderShape(job), base: now.base, memory: false, goesOn };
    let checkpoint = now.base;
    const wish = { teamID: job.teamID, key, rootfs: base.image.rootfs };
    const resultID = await this.#options.steps.keep(wish, async (out) => {
      const captured = await this.#jails.capture!(machine, request, out, signal);
      checkpoint = captured.checkpoint;
      await writeFile(join(dirname(out), FACTS_FILE), JSON.stringify(facts));
      return captured.ownBytes;
    });
    return { resultID, checkpoint };
  }

  /** How far what was built before goes. */
  async #known({ base, planned, job }: Run): Promise<Known> {
    const { steps } = this.#options;
    let previous = baseKey(base.content, base.context);
    let found: Known = { at: -1, previous };
    for (const [at, one] of planned.entries()) {
      // Its result is another one, and so is everything after it.
      if (isForced(job, one)) break;
      const key = stepKey(previous, one.step);
      const resultID = steps.find(job.teamID, key)?.resultID;
      const left = resultID && (await this.#leftOf(resultID, base, job));
      previous = left ? resultID : key;
      if (left) found = { at, previous, resultID, left };
    }
    return found;
  }

  /** undefined: it cannot be used here any more. */
  async #leftOf(resultID: string, { image }: BuilderBase, job: BuildJob): Promise<Left | undefined> {
    const { steps, log } = this.#options;
    const folder = steps.folderOf(resultID);
    try {
      const checkpoint = await this.#jails.openCheckpoint(folder);
      const { imageHash, shape } = checkpoint.manifest;
      if (imageHash !== image.hash || shape.diskSizeMB !== builderShape(job).diskSizeMB) return undefined;
      const facts = JSON.parse(await readFile(join(dirname(folder), FACTS_FILE), 'utf8')) as RootFacts;
      return { checkpoint, facts };
    } catch (error) {
      log.warn({ error, resultID }, 'the result of a build step cannot be used');
      steps.drop(resultID);
      return undefined;
    }
  }

  async #blank({ base, job, out, signal }: Run): Promise<Left> {
    const folder = join(dirname(out), 'blank');
    const spec = { id: 'blank', folder, shape: builderShape(job), names: { hostname: '', machineID: '' } };
    const checkpoint = await this.#jails.makeGolden(base.image, spec, folder, async () => {}, { signal });
    return { checkpoint, facts: base.facts };
  }

  get #jails(): IsolationBackend {
    return this.#options.backends.of('jail');
  }

  /** What its builder is grown from. */
  #builderOf({ base, job }: Run, checkpoint: Checkpoint): ReadyTemplate {
    const { templateID, buildID, teamID, name } = job;
    return {
      templateID,
      buildID,
      baseID: base.baseID,
      tag: '',
      aliases: [name],
      isolation: 'jail',
      family: templateID,
      shape: builderShape(job),
      languages: [],
      env: {},
      image: base.image,
      createdAtMs: Date.now(),
      owner: { teamID, public: false },
      checkpoint,
    };
  }

  async #merge({ base, log, signal }: Run, checkpoint: Checkpoint): Promise<MachineImage> {
    log.say('info', 'Writing the root filesystem', FINAL_STEP);
    const artifact = await obtainMergedRootfs({
      imagesFolder: this.#options.imagesFolder,
      parts: [base.content, contentOf(checkpoint.manifest)],
      through: (folder) => this.#jails.merged!(checkpoint, base.image, folder),
      signal,
    });
    return imageWith(artifact.folder, base.image);
  }

  /** `prepare`: what the disk of the captured machine is still to be given. */
  async #capture(
    run: Run,
    image: MachineImage,
    facts: RootFacts,
    prepare?: (agent: AgentClient, signal: AbortSignal) => Promise<void>,
  ): Promise<BuildResult> {
    const { backends, machines, log: nodeLog } = this.#options;
    const { base, context, shape, job, log, signal, out } = run;
    const { isolation, languages } = base;
    const program = programOf(run, facts);
    const runtime: Runtime = {
      user: context.user,
      workdir: context.workdir,
      ...facts,
      ...(program ? { start: lasting(program) } : {}),
    };
    const result: BuildResult = { isolation, image, shape, languages, env: context.env, runtime };
    const start = program && ((agent: AgentClient, bound: AbortSignal) => this.#start(agent, program, run, bound));
    const backend = backends.of(isolation);
    if (!backend.capabilities.memoryCheckpoint) {
      const spec = { id: 'golden', folder: out, shape, names: { hostname: '', machineID: '' } };
      const checkpoint = await backend.makeGolden(image, spec, out, async () => {}, { signal });
      if (!start) return result;
      // Each of its machines starts it; that it starts at all is seen now.
      const template = { ...this.#builderOf(run, checkpoint), isolation, shape, languages, env: context.env, image };
      await machines.grown(template, log, signal, async (member) => start(await member.agent(), signal));
      return result;
    }
    const subject = { templateID: job.templateID, languages, runtime };
    let failure: unknown;
    /** A boot that fails tells of its console; what a command said is told instead. */
    const told =
      <T>(work: (agent: AgentClient, bound: AbortSignal) => Promise<T>, place: LentPlace) =>
      async (agent: AgentClient, bound: AbortSignal): Promise<void> => {
        try {
          await enterNetwork(agent, place, bound);
          await work(agent, bound);
        } catch (error) {
          failure ??= error;
          throw error;
        }
      };
    log.say('info', 'Booting a machine for the golden checkpoint', FINAL_STEP);
    await machines.lent({ isolation, shape }, log, signal, async (place) => {
      const { attachment, ...rest } = place;
      const names = { hostname: 'coppice', machineID: newMachineID() };
      const spec = { ...rest, shape, names, ...(attachment ? { network: attachment } : {}) };
      try {
        await captureGolden(backend, image, spec, out, subject, {
          signal,
          log: nodeLog,
          onStage: (stage) => log.say('debug', stage, FINAL_STEP),
          ...(prepare ? { prepare: told(prepare, place) } : {}),
          ...(start ? { start: told(start, place) } : {}),
        });
      } catch (error) {
        throw failure ?? error;
      }
    });
    return result;
  }

  async #start(agent: AgentClient, program: StartProgram, { log }: Run, signal: AbortSignal): Promise<void> {
    if (program.command) log.say('info', `Starting: ${program.command.args.at(-1)}`, FINAL_STEP);
    if (program.ready) log.say('info', `Waiting until ready: ${program.ready.args.at(-1)}`, FINAL_STEP);
    const output = log.output(FINAL_STEP);
    await startProgram(agent, program, { signal, onOutput: (bytes) => output.write(bytes) }).finally(output.end);
    log.say('info', 'The template is ready to be captured', FINAL_STEP);
  }
}

/** The result that a build goes on from. */
interface Known {
  /** Place of the last step that is in it; -1: none is. */
  readonly at: number;
  /** What the key of the next step is made of. */
  readonly previous: string;
  readonly resultID?: string;
  readonly left?: Left;
}

function isForced({ request }: BuildJob, { step }: PlannedStep): boolean {
  return request.force || step.force;
}

function builderShape({ shape: { cpuCount, memoryMB } }: BuildJob): MachineShape {
  return { cpuCount, memoryMB: Math.max(memoryMB, BUILDER_LEAST_MEMORY_MB), diskSizeMB: BUILDER_DISK_MB };
}

/** Its own, or that of the template that it is built from. */
function programOf({ job, base, context }: Run, facts: RootFacts): StartProgram | undefined {
  const { startCmd, readyCmd } = job.request;
  const plan = planFinish({ ...(startCmd ? { startCmd } : {}), ...(readyCmd ? { readyCmd } : {}) }, context, facts);
  if (!plan) return base.start;
  const { start, ready, everyMs, deadlineMs } = plan;
  return { ...(start ? { command: start } : {}), ready, everyMs, deadlineMs };
}

/** As each machine starts it that does not have it in memory: nobody waits there for time to pass. */
function lasting({ ready, ...rest }: StartProgram): StartProgram {
  return ready && !MERE_WAIT.test(ready.args.at(-1) ?? '') ? { ...rest, ready } : rest;
}

/** The guest has the network for as long as commands run in it. */
async function enterNetwork(agent: AgentClient, { attachment }: LentPlace, signal: AbortSignal): Promise<void> {
  const network = attachment
    ? { address: attachment.address, prefix: attachment.prefix, gateway: attachment.gateway }
    : null;
  await agent.identity({ network, entropy: newEntropy(), clockMs: Date.now() }, signal);
}

async function demandRoom(folder: string): Promise<void> {
  const { bavail, bsize } = await statfs(folder);
  if (bavail * bsize < LEAST_FREE_BYTES)
    throw stepError(BASE_STEP, 'the disk of this host has no room for a build', 'capacity');
}

/** Names the step of what fails after the last one. */
async function ofFinish<T>(signal: AbortSignal, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    throwIfAborted(signal);
    if (!isCoppiceError(error) || stepOf(error) !== undefined) throw error;
    throw stepError(FINAL_STEP, error.message, error.code, error);
  }
}
