/**
 * Templates of teams, from a client's wish to something that sandboxes are made of. A build's row is written before its work
 * begins and says how it ended; work that the end of a process cut off begins anew with the next, on what its steps gave
 * already.
 *
 *     <folder>/<buildID>/golden/
 */
import { randomUUID } from 'node:crypto';
import { mkdir, readdir, rm } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import type {
  BuildApi,
  BuildFile,
  BuildLogQuery,
  BuildName,
  BuildReason,
  BuildTicket,
  BuildView,
  BuildWish,
  TemplateTag,
} from '../contract/build-api.ts';
import { CoppiceError, isCoppiceError } from '../contract/errors.ts';
import type { Log } from '../telemetry/log.ts';
import { type BuildRequest, parseBuildRequest } from '../templates/build-request.ts';
import { BASE_STEP, stepOf } from '../templates/build-steps.ts';
import type { BuildFiles } from './build-files.ts';
import { BuildLog } from './build-log.ts';
import type { BuildRow, BuildRows, TemplateRow } from './build-rows.ts';
import { type BuildLimits, demandShape } from './build-shape.ts';
import { type BuiltTemplates, noAccess } from './built-templates.ts';
import { newTemplateID } from './identifiers.ts';
import { DEFAULT_TAG, type KnownTemplates } from './known-templates.ts';
import type { Rows } from './rows.ts';
import { Semaphore } from './semaphore.ts';
import type { StepResults } from './step-results.ts';
import type { TemplateBuilder } from './template-builder.ts';
import { demandTags, demandTemplateName, isBuildID, parseTemplateName, tagsOf } from './template-names.ts';

export interface BuildJobsOptions {
  readonly rows: Rows;
  /** Exists. */
  readonly folder: string;
  readonly templates: KnownTemplates;
  readonly built: BuiltTemplates;
  readonly files: BuildFiles;
  readonly steps: StepResults;
  readonly builder: TemplateBuilder;
  readonly limits: BuildLimits;
  /** A build can no longer be asked for. */
  readonly onRetired: (buildID: string) => Promise<void>;
  /** See BuildingOptions. */
  readonly sweepImages: () => Promise<void>;
  readonly log: Log;
}

/** A step computes, and so does a golden boot: more at once only makes each of them slower. */
const BUILDS_AT_ONCE = Math.max(1, Math.floor(availableParallelism() / 2));
/** Under way of one team, those that wait for their turn included. */
const MOST_PER_TEAM = 20;
const MOST_TEMPLATES_PER_TEAM = 1_000;
const BUILD_DEADLINE_MS = 3_600_000;
/** Beginnings of one build: one that takes the node down with it each time is not tried for ever. */
const MOST_ATTEMPTS = 3;
/** What came to nothing can be asked about for so long. */
const REMEMBERED_MS = 7 * 24 * 3_600_000;

interface Running {
  readonly abort: AbortController;
  readonly over: Promise<void>;
}

export class BuildJobs implements BuildApi {
  readonly #options: BuildJobsOptions;
  readonly #rows: BuildRows;
  readonly #running = new Map<string, Running>();
  readonly #turns = new Semaphore(BUILDS_AT_ONCE);
  readonly #removing = new Map<string, Promise<void>>();
  /** Image files of builds that were removed may be nobody's now. */
  #unswept = false;
  #sweeping: Promise<void> = Promise.resolve();
  #stopping = false;

  constructor(options: BuildJobsOptions) {
    this.#options = options;
    this.#rows = options.rows.builds;
  }

  async requestBuild(wish: BuildWish): Promise<BuildTicket> {
    const { templates, rows, limits } = this.#options;
    const { teamID } = wish;
    const named = demandTemplateName(wish.name);
    const { name } = named;
    const tags = tagsOf(named, demandTags(wish.tags));
    const shape = demandShape(wish, limits);
    if (templates.find(name)) throw new CoppiceError('conflict', `the name '${name}' belongs to a built-in template`);
    if (rows.snapshots.find(teamID, { name }).length > 0)
      throw new CoppiceError('conflict', `the name '${name}' belongs to a snapshot`);
    this.#demandRoom(teamID);
    if (this.#rows.countTemplates(teamID) >= MOST_TEMPLATES_PER_TEAM)
      throw new CoppiceError('too_many_builds', `there are ${MOST_TEMPLATES_PER_TEAM} templates already; delete some`);
    const buildID = randomUUID();
    const template = this.#rows.request({ teamID, name, templateID: newTemplateID(), buildID, tags, shape });
    return { templateID: template.templateID, buildID, name, tags, public: template.public };
  }

  async startBuild(which: BuildName, request: string): Promise<void> {
    const { buildID } = this.#demandBuild(which);
    this.#demandRoom(which.teamID);
    let failure: CoppiceError | undefined;
    try {
      parseBuildRequest(JSON.parse(request));
    } catch (error) {
      if (error instanceof SyntaxError) throw new CoppiceError('bad_request', 'the build is no JSON', { cause: error });
      // What a client's program asked for in a step is told where it waits for the steps.
      if (!isCoppiceError(error) || stepOf(error) === BASE_STEP) throw error;
      failure = error;
    }
    if (!this.#rows.start(buildID, request)) throw new CoppiceError('bad_request', 'build is not in waiting state');
    if (failure) this.#fail(buildID, failure);
    else this.#begin(buildID);
  }

  async getBuild(query: BuildLogQuery): Promise<BuildView> {
    const { buildID, templateID, state, reason } = this.#demandBuild(query);
    return {
      templateID,
      buildID,
      status: state === 'deleting' ? 'error' : state,
      ...(reason ? { reason } : {}),
      logs: this.#rows.said(buildID, query),
    };
  }

  async buildFile(teamID: string, templateID: string, hash: string): Promise<BuildFile> {
    const { files, built } = this.#options;
    const template = built.demandOwn(teamID, templateID);
    const present = (await files.size(template.templateID, hash)) !== undefined;
    return { present, ticket: files.ticket(template.templateID, hash) };
  }

  async tagTemplate(
    teamID: string,
    target: string,
    tags: readonly string[],
  ): Promise<{ readonly buildID: string; readonly tags: readonly string[] }> {
    const template = this.#demandOwn(teamID, target);
    const wanted = demandTags(tags);
    if (wanted.length === 0) throw new CoppiceError('bad_request', 'give at least one tag');
    const { built } = this.#options;
    const buildID = built.buildOf(template, target);
    if (buildID === undefined) throw notFound(target);
    this.#rows.tag(template.templateID, wanted, buildID);
    await this.reconcile();
    return { buildID, tags: wanted };
  }

  async untagTemplate(teamID: string, name: string, tags: readonly string[]): Promise<void> {
    const template = this.#demandOwn(teamID, name);
    const wanted = demandTags(tags);
    if (wanted.includes(DEFAULT_TAG))
      throw new CoppiceError('bad_request', `the tag '${DEFAULT_TAG}' cannot be deleted`);
    this.#rows.untag(template.templateID, wanted);
    await this.reconcile();
  }

  async listTags(teamID: string, text: string): Promise<readonly TemplateTag[]> {
    return this.#rows.tags(this.#demandOwn(teamID, text).templateID);
  }

  async publishTemplate(teamID: string, text: string, isPublic: boolean): Promise<readonly string[]> {
    const template = this.#demandOwn(teamID, text);
    this.#rows.setPublic(template.templateID, isPublic);
    return [template.name];
  }

  async cancelBuilds(teamID: string): Promise<number> {
    const cancelled = [...this.#rows.inState('building'), ...this.#rows.inState('waiting')].filter(
      (build) => build.teamID === teamID,
    );
    const reason = new CoppiceError('aborted', 'the build was cancelled by the operator');
    for (const { buildID } of cancelled) {
      this.#fail(buildID, reason);
      this.#running.get(buildID)?.abort.abort(reason);
    }
    await Promise.all(cancelled.map(({ buildID }) => this.#running.get(buildID)?.over));
    for (const { buildID } of cancelled)
      await rm(this.#options.built.folderOf(buildID), { recursive: true, force: true });
    return cancelled.length;
  }

  /** False: there is no such template of the team. `forbidden`: it is another's. */
  async deleteTemplate(teamID: string, text: string): Promise<boolean> {
    const { built, log } = this.#options;
    const found = built.resolve(teamID, text);
    if (!found) return false;
    if (found === 'foreign' || found.teamID !== teamID) throw noAccess(text);
    const { templateID, name } = found;
    const { tag } = parseTemplateName(text) ?? {};
    if (tag !== undefined && !isBuildID(tag)) {
      this.#rows.untag(templateID, [tag]);
    } else {
      const builds = this.#rows.ofTemplate(templateID);
      this.#rows.deleteTemplate(templateID);
      for (const { buildID } of builds) this.#running.get(buildID)?.abort.abort();
      await Promise.all(builds.map(({ buildID }) => this.#running.get(buildID)?.over));
      log.info({ templateID, name }, 'template deleted');
    }
    await this.reconcile();
    return true;
  }

  /** Goes on with what an earlier process was building; what nothing accounts for goes. */
  async atStart(): Promise<void> {
    const { files, steps, folder, log } = this.#options;
    await files.atStart();
    await steps.atStart();
    await this.reconcile();
    for (const name of await this.strays()) {
      await rm(join(folder, name), { recursive: true, force: true });
      log.warn({ name }, 'swept files of a build that no row accounts for');
    }
  }

  /** Once machines can be made. */
  resume(): void {
    for (const { buildID } of this.#rows.inState('building')) {
      new BuildLog(this.#rows, buildID).say('warn', 'The node was restarted; the build begins again.');
      this.#begin(buildID);
    }
  }

  /** No more work; what is under way is cut off, and begins anew with the next process. */
  async stop(): Promise<void> {
    const underway = [...this.#running];
    this.abandon();
    await Promise.all(underway.map(([, { over }]) => over));
    await this.#sweeping;
    for (const [buildID] of underway) this.#rows.pardon(buildID);
  }

  /** For tests of a crash. */
  abandon(): void {
    this.#stopping = true;
    for (const { abort } of this.#running.values()) abort.abort();
  }

  /** Names in the folders that no row accounts for. */
  async strays(): Promise<readonly string[]> {
    const { folder, steps } = this.#options;
    const known = new Set(this.#rows.withFiles().map(({ buildID }) => buildID));
    const names = await readdir(folder);
    return [...names.filter((name) => !known.has(name)), ...(await steps.strays())];
  }

  /** Finishes what is to be deleted. Errors are logged: it is tried again at the next turn. */
  async reconcile(): Promise<void> {
    const { files, steps, log } = this.#options;
    try {
      this.#rows.retire(Date.now() - REMEMBERED_MS);
      for (const row of this.#rows.inState('deleting')) await this.#remove(row);
      await files.tidy((templateID) => this.#rows.template(templateID) !== undefined);
      await steps.reconcile();
      this.#sweep();
    } catch (error) {
      log.error({ error }, 'what builds left could not be removed; it is tried again');
    }
  }

  /** Unless something still needs it. */
  async #remove({ buildID }: BuildRow): Promise<void> {
    const { built, folder, rows, onRetired } = this.#options;
    if (this.#running.has(buildID)) return;
    const underway = this.#removing.get(buildID);
    if (underway) return underway;
    const removal = (async () => {
      // Its hot machines lie on it too.
      await onRetired(buildID);
      if (built.isHeld(buildID) || rows.bases().has(buildID)) return;
      built.forget(buildID);
      await rm(join(folder, buildID), { recursive: true, force: true });
      this.#rows.forget(buildID);
      this.#unswept = true;
    })().finally(() => this.#removing.delete(buildID));
    this.#removing.set(buildID, removal);
    return removal;
  }

  /** What is being built has no row yet that would keep its images: so only while nothing is, and nothing begins meanwhile. */
  #sweep(): void {
    if (!this.#unswept || this.#running.size > 0 || this.#stopping) return;
    this.#unswept = false;
    this.#sweeping = this.#options
      .sweepImages()
      .catch((error: unknown) => this.#options.log.error({ error }, 'images of builds could not be swept'));
  }

  #demandRoom(teamID: string): void {
    if (this.#rows.countBuilding(teamID) < MOST_PER_TEAM) return;
    throw new CoppiceError(
      'too_many_builds',
      `you have reached the maximum number of concurrent template builds (${MOST_PER_TEAM})`,
    );
  }

  #demandOwn(teamID: string, text: string): TemplateRow {
    if (this.#options.templates.find(parseTemplateName(text)?.name ?? '')) throw noAccess(text);
    return this.#options.built.demandOwn(teamID, text);
  }

  /** As E2B has it: an unknown build is the caller's mistake, an unknown template is not found. */
  #demandBuild({ teamID, templateID, buildID }: BuildName): BuildRow {
    const template = this.#demandOwn(teamID, templateID);
    if (!isBuildID(buildID)) throw new CoppiceError('bad_request', 'Invalid build id');
    const build = this.#rows.get(buildID);
    if (build?.templateID !== template.templateID)
      throw new CoppiceError('bad_request', `Build '${buildID}' not found`);
    return build;
  }

  #begin(buildID: string): void {
    const abort = new AbortController();
    if (this.#stopping) return;
    const over = this.#work(buildID, abort.signal).finally(() => {
      this.#running.delete(buildID);
      void this.reconcile();
    });
    this.#running.set(buildID, { abort, over });
  }

  /** Never rejects. */
  async #work(buildID: string, signal: AbortSignal): Promise<void> {
    const { built, builder, log } = this.#options;
    const said = new BuildLog(this.#rows, buildID);
    const deadline = new AbortController();
    let done: (() => void) | undefined;
    let timer: NodeJS.Timeout | undefined;
    try {
      done = await this.#turns.take(signal);
      await this.#sweeping;
      timer = setTimeout(() => deadline.abort(), BUILD_DEADLINE_MS).unref();
      const row = this.#rows.get(buildID);
      if (row?.state !== 'building' || row.request === undefined) return;
      if (this.#rows.attempt(buildID) > MOST_ATTEMPTS)
        throw new CoppiceError('internal', `the build was cut off ${MOST_ATTEMPTS} times`);
      const request: BuildRequest = parseBuildRequest(JSON.parse(row.request));
      // Of an attempt that was killed.
      await rm(built.folderOf(buildID), { recursive: true, force: true });
      await mkdir(built.folderOf(buildID), { mode: 0o755 });
      const { templateID, teamID, name, shape } = row;
      const job = { buildID, templateID, teamID, name, shape, request };
      const both = AbortSignal.any([signal, deadline.signal]);
      both.throwIfAborted();
      const result = await builder.build(job, built.goldenOf(buildID), said, both);
      signal.throwIfAborted();
      said.say('info', 'Build finished, the template is ready.');
      if (this.#rows.publish(buildID, { ...result, image: built.relative(result.image) }))
        log.info({ template: name, templateID, buildID }, 'template built');
    } catch (error) {
      // By the end of the node: it is taken up again. By a deletion: nobody is left to be told. Cancelled: it was told.
      if (signal.aborted) return;
      await rm(built.folderOf(buildID), { recursive: true, force: true });
      const late = deadline.signal.aborted;
      this.#fail(
        buildID,
        late ? new CoppiceError('aborted', `the build took longer than ${BUILD_DEADLINE_MS / 60_000} minutes`) : error,
      );
    } finally {
      clearTimeout(timer);
      done?.();
    }
  }

  #fail(buildID: string, error: unknown): void {
    const { log } = this.#options;
    const reason = reasonOf(error);
    new BuildLog(this.#rows, buildID).say('error', `Build failed: ${reason.message}`, reason.step);
    this.#rows.fail(buildID, reason);
    const expected = isCoppiceError(error) && error.code !== 'internal';
    if (expected) log.info({ buildID, ...reason }, 'a template could not be built');
    else log.error({ error, buildID }, 'a template could not be built');
  }
}

function reasonOf(error: unknown): BuildReason {
  const step = stepOf(error);
  const message = isCoppiceError(error) ? error.message : 'an internal error occurred; the log of the node says more';
  return { message, ...(step === undefined ? {} : { step }) };
}

function notFound(text: string): CoppiceError {
  return new CoppiceError('template_not_found', `template '${text.slice(0, 128)}' not found`);
}
