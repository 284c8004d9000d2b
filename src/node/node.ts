/**
 * The node: owns one host's machines. Verbs write their intent, act, and write the fact; whatever they leave unfinished
 * the reconciler finishes. The truth about a sandbox is its row.
 */
import type {
  BuildFile,
  BuildLogQuery,
  BuildName,
  BuildTicket,
  BuildView,
  BuildWish,
  TemplateTag,
} from '../contract/build-api.ts';
import { CoppiceError } from '../contract/errors.ts';
import {
  type BackendStatus,
  type CreateSandboxRequest,
  type CreateSandboxResult,
  ENVD_PORT,
  ENVD_VERSION,
  type EventsQuery,
  type EventsResult,
  type ForkResult,
  type ForkWish,
  type LeakReport,
  type ListSandboxesQuery,
  type ListSandboxesResult,
  type ListSnapshotsQuery,
  type ListSnapshotsResult,
  type LogEntry,
  type LogsQuery,
  type NetworkUpdate,
  type NodeApi,
  type NodeStatus,
  type Receipt,
  type ResumeResult,
  type ResumeWish,
  type SandboxMetric,
  type SandboxView,
  type SnapshotView,
  type TemplateView,
} from '../contract/node-api.ts';
import type { VolumeAndToken, VolumeView } from '../contract/volume-api.ts';
import { sameSecret } from '../envd/auth.ts';
import type { Backends } from '../isolation/backends.ts';
import type { NetworkFabric } from '../network/fabric.ts';
import type { Log } from '../telemetry/log.ts';
import type { Place } from './berths.ts';
import type { BuildFiles } from './build-files.ts';
import type { BuildJobs } from './build-jobs.ts';
import { viewsOfBuilt } from './build-views.ts';
import { type Building, type BuildingOptions, openBuilding } from './building.ts';
import { BuiltTemplates } from './built-templates.ts';
import { Captures } from './captures.ts';
import { Chronicle } from './chronicle.ts';
import { Creates } from './creates.ts';
import { Fleet } from './fleet.ts';
import { Forks } from './forks.ts';
import { HotTier } from './hot-tier.ts';
import { Journal } from './journal.ts';
import { KeptSandboxes } from './kept.ts';
import { KnownTemplates } from './known-templates.ts';
import { takeCensus } from './leaks.ts';
import type { Member } from './member.ts';
import { Metrics } from './metrics.ts';
import { Nursery, type ReadyTemplate, type UidRanges } from './nursery.ts';
import { notFound } from './ownership.ts';
import { Pauses } from './pauses.ts';
import { Policies } from './policies.ts';
import { ReceiptClock } from './receipt.ts';
import { Repair } from './repair.ts';
import { Revival } from './revival.ts';
import type { MachineRow, Owner, Rows } from './rows.ts';
import { Snapshots } from './snapshots.ts';
import type { Knock } from './traffic/server.ts';
import { Turns } from './turns.ts';
import { Views } from './views.ts';
import { VolumeService, type VolumeServiceOptions } from './volume-service.ts';
import { Volumes, type VolumesOptions } from './volumes.ts';

export interface NodeOptions {
  readonly backends: Backends;
  /** What status tells of them. */
  readonly backendStatus: readonly BackendStatus[];
  readonly fabric: NetworkFabric;
  readonly rows: Rows;
  /** Open; default one in memory. */
  readonly journal?: Journal;
  readonly templates: readonly ReadyTemplate[];
  /** A build of a template that has a newer one; undefined: it is not there any more. */
  readonly olderBuild?: (buildID: string) => Promise<ReadyTemplate | undefined>;
  readonly machinesFolder: string;
  /** Exists, as the next. */
  readonly snapshotsFolder: string;
  readonly pausedFolder: string;
  readonly volumes: Pick<VolumesOptions, 'folder' | 'sizeMB' | 'makeImage'> & Pick<VolumeServiceOptions, 'serve'>;
  /** undefined: teams build no templates. */
  readonly building?: BuildingOptions;
  readonly uids: UidRanges | undefined;
  readonly seed: Buffer;
  /** Hot entries per template at rest, and at most. */
  readonly pool: { readonly least: number; readonly most: number };
  readonly memoryBudgetMB?: number;
  /** Whether places for machines (id, users, network, a shell) are made ahead of demand. */
  readonly ahead?: boolean;
  readonly notices: readonly string[];
  readonly log: Log;
}

/** How often rows and host are compared while nothing happens. */
const RECONCILE_MS = 30_000;
/** Refreshes and connects add to a deadline; nothing may move it beyond this. */
const LONGEST_LIFE_MS = 24 * 3_600_000;
/** Traffic that resumes a sandbox gives it the time of its create, and at least this. */
const LEAST_AUTO_RESUME_SECONDS = 300;

export class Node implements NodeApi {
  readonly #options: NodeOptions;
  readonly #rows: Rows;
  readonly #templates: KnownTemplates;
  readonly #views: Views;
  readonly #journal: Journal;
  readonly #chronicle: Chronicle;
  readonly #metrics: Metrics;
  readonly #nursery: Nursery;
  readonly #fleet: Fleet;
  readonly #hot: HotTier;
  readonly #creates: Creates;
  readonly #pauses: Pauses;
  readonly #forks: Forks;
  readonly #policies: Policies;
  readonly #volumes: Volumes;
  readonly #volumeService: VolumeService;
  readonly #snapshots: Snapshots;
  readonly #kept: KeptSandboxes;
  readonly #building: Building | undefined;
  readonly #repair: Repair;
  readonly #turns = new Turns();
  /** Verbs that make something: an end waits for them. */
  readonly #underway = new Set<Promise<unknown>>();
  readonly #abort = new AbortController();
  #reconciling: NodeJS.Timeout | undefined;

  constructor(options: NodeOptions) {
    const { backends, fabric, rows, machinesFolder, snapshotsFolder, memoryBudgetMB, seed, log } = options;
    const stopping = this.#abort.signal;
    this.#options = options;
    this.#rows = rows;
    const built =
      options.building && new BuiltTemplates({ rows: rows.builds, folder: options.building.buildsFolder, backends });
    const templates = new KnownTemplates({
      all: options.templates,
      snapshots: rows.snapshots,
      snapshotsFolder,
      olderBuild: options.olderBuild ?? (async () => undefined),
      built,
    });
    const journal = options.journal ?? new Journal(':memory:');
    const chronicle = new Chronicle({ rows, journal, templateOf: (row) => templates.of(row), log });
    rows.tell = (id, fact) => chronicle.note(id, fact);
    const views = new Views(templates, seed);
    const kept = new KeptSandboxes(options.pausedFolder);
    const room = ({ base }: Place): boolean => base === undefined || fleet.fits(base);
    const ahead = options.ahead ? { most: Math.max(1, Math.ceil(options.pool.most / 3)), room } : undefined;
    const nursery = new Nursery({ ...options, kept, ahead });
    const fleet: Fleet = new Fleet({
      backends,
      nursery,
      rows,
      memoryBudgetMB,
      onDue: (member) => this.#pauses.due(member),
      onDeath: (id) => this.#hot.forget(id),
      onHandOut: (member) => {
        const { id } = member;
        member.notes = {
          note: (level, message, fields) => journal.note(id, level, message, fields),
          line: (level, message, fields) => journal.line(id, level, message, fields),
        };
      },
      log,
    });
    const hot = new HotTier({ fleet, rows, size: options.pool, log });
    const captures = new Captures({ backends, templates, log });
    const snapshots = new Snapshots({
      backends,
      rows: rows.snapshots,
      templates,
      folder: snapshotsFolder,
      captures,
      kept,
      onDeleted: (buildID) => hot.drain(buildID),
      stopping,
      log,
    });
    const volumes = new Volumes({ ...options.volumes, rows, backends, seed, log });
    const { serve } = options.volumes;
    const volumeService = new VolumeService({ backends, fabric, rows, volumes, serve, log });
    const policies = new Policies({ fabric, rows, fleet, turns: this.#turns });
    const revival = new Revival({ backends, templates, views, log });
    const turns = this.#turns;
    const common = {
      backends,
      fabric,
      policies,
      volumes,
      volumeService,
      rows,
      fleet,
      templates,
      snapshots,
      captures,
      kept,
      revival,
      views,
      turns,
      stopping,
      log,
    };
    const creates = new Creates({ ...common, hot });
    this.#building =
      options.building && built && openBuilding(options.building, { ...common, built, hot, seed, memoryBudgetMB });
    this.#journal = journal;
    this.#chronicle = chronicle;
    this.#metrics = new Metrics({
      running: () => fleet.sandboxes(),
      has: (id) => fleet.has(id),
      cpuCountOf: (id) => {
        const row = rows.get(id);
        return (row && templates.of(row)?.shape.cpuCount) ?? 1;
      },
      log,
    });
    this.#templates = templates;
    this.#views = views;
    this.#nursery = nursery;
    this.#fleet = fleet;
    this.#hot = hot;
    this.#snapshots = snapshots;
    this.#kept = kept;
    this.#policies = policies;
    this.#volumes = volumes;
    this.#volumeService = volumeService;
    this.#creates = creates;
    this.#pauses = new Pauses(common);
    this.#forks = new Forks({ ...common, creates });
    this.#repair = new Repair({ ...common, pauses: this.#pauses, nursery, machinesFolder });
  }

  /** Repairs what an earlier process left, then begins to fill the hot tier. */
  async start(): Promise<void> {
    await this.#repair.atStart();
    await this.#building?.jobs.atStart();
    await this.#volumes.atStart();
    await this.#volumeService.atStart();
    this.#chronicle.atStart();
    this.#metrics.start();
    this.#hot.start(this.#templates.all);
    this.#building?.jobs.resume();
    this.#reconciling = setInterval(() => {
      void this.#tidy();
    }, RECONCILE_MS);
    this.#reconciling.unref();
  }

  /**
   * Every machine ends: verbs under way first, then the hot tier, then sandboxes. What is kept on disk stays: snapshots,
   * paused sandboxes, and those that their owners want paused when their time is up.
   */
  async stop(): Promise<void> {
    this.#abort.abort();
    this.#metrics.stop();
    clearInterval(this.#reconciling);
    this.#fleet.freeze();
    await this.#building?.jobs.stop();
    await Promise.allSettled(this.#underway);
    await this.#hot.close();
    await this.#nursery.close();
    const wished = [...this.#fleet.sandboxes()].filter(({ id }) => this.#rows.get(id)?.owner?.onTimeout === 'pause');
    for (const { id } of [...wished, ...this.#fleet.allAside()]) await this.#pauses.keep(id);
    await this.#fleet.clear('the service stopped');
    await this.#volumeService.stop();
    await this.#volumes.close();
    this.#journal.flush();
  }

  /** For tests of a crash: forgets everything as it stands, as SIGKILL would. */
  abandon(): void {
    this.#abort.abort();
    this.#metrics.stop();
    clearInterval(this.#reconciling);
    this.#fleet.freeze();
    this.#building?.jobs.abandon();
    this.#hot.abandon();
    this.#nursery.abandon();
    for (const member of this.#fleet.sandboxes()) member.end('abandoned');
  }

  /** Resolves when each template has `count` hot entries, or when memory does not allow it. */
  async warm(count: number, signal?: AbortSignal): Promise<void> {
    await this.#hot.filled(count, signal);
  }

  /** A live sandbox, for the traffic server. */
  member(sandboxID: string): Member | undefined {
    return this.#fleet.sandbox(sandboxID);
  }

  members(): IterableIterator<Member> {
    return this.#fleet.sandboxes();
  }

  /**
   * For traffic to a sandbox that does not run: resumes it if its owner wished so, or waits for who is at it already.
   * undefined: there is nothing to wait for. Where a token is demanded, the knock of who has none wakes nobody.
   */
  wake(sandboxID: string, knock: Knock): Promise<Member | undefined> | undefined {
    const row = this.#rows.get(sandboxID);
    if (!row?.owner || !this.#fleet.has(sandboxID)) return undefined;
    const { owner, state, kept } = row;
    // One on its way out of a pause is waited for, whoever asked.
    const waits =
      state === 'resuming' || (owner.autoResume && kept?.memory !== false && this.#mayWake(row, owner, knock));
    if (!waits) return undefined;
    const timeoutSeconds = Math.max(owner.timeoutMs / 1000, LEAST_AUTO_RESUME_SECONDS);
    const awake =
      state === 'resuming' ? this.#turns.take(sandboxID, async () => {}) : this.#resume(sandboxID, { timeoutSeconds });
    return awake.then(() => this.#fleet.sandbox(sandboxID));
  }

  #mayWake(row: MachineRow, owner: Owner, knock: Knock): boolean {
    const { accessToken, trafficToken } = this.#views.tokensOf(row.id, owner);
    const [wanted, shown] =
      knock.port === ENVD_PORT ? [accessToken, knock.accessToken] : [trafficToken, knock.trafficToken];
    return wanted === undefined || (shown !== undefined && sameSecret(shown, wanted));
  }

  createSandbox(request: CreateSandboxRequest, signal?: AbortSignal): Promise<CreateSandboxResult> {
    return this.#track(this.#creates.create(request, signal));
  }

  async getSandbox(teamID: string, sandboxID: string): Promise<SandboxView> {
    return this.#views.ofRow(this.#owned(teamID, sandboxID));
  }

  async listSandboxes(query: ListSandboxesQuery): Promise<ListSandboxesResult> {
    const rows = this.#rows.ofTeam(query.teamID, query.order).filter((row) => this.#fleet.has(row.id));
    return this.#views.page(rows, query);
  }

  async connectSandbox(teamID: string, sandboxID: string, wish: ResumeWish): Promise<ResumeResult> {
    for (;;) {
      const row = this.#owned(teamID, sandboxID);
      if (row.state === 'running') {
        this.#moveDeadline(sandboxID, wish.timeoutSeconds, true);
        return { sandbox: this.#views.ofRow(this.#owned(teamID, sandboxID)), resumed: false };
      }
      const receipt = await this.#resume(sandboxID, wish);
      // None: somebody else has resumed it meanwhile.
      if (receipt) return { sandbox: this.#views.ofRow(this.#owned(teamID, sandboxID)), resumed: true, receipt };
    }
  }

  async resumeSandbox(teamID: string, sandboxID: string, wish: ResumeWish): Promise<ResumeResult> {
    const runs = this.#owned(teamID, sandboxID).state === 'running';
    const receipt = runs ? undefined : await this.#resume(sandboxID, wish);
    if (!receipt) throw new CoppiceError('conflict', `Sandbox "${sandboxID}" is already running`);
    return { sandbox: this.#views.ofRow(this.#owned(teamID, sandboxID)), resumed: true, receipt };
  }

  async pauseSandbox(teamID: string, sandboxID: string, wish: { readonly memory: boolean }): Promise<Receipt> {
    this.#owned(teamID, sandboxID);
    return this.#track(this.#pauses.pause(sandboxID, wish.memory));
  }

  async forkSandbox(teamID: string, sandboxID: string, wish: ForkWish, signal?: AbortSignal): Promise<ForkResult> {
    this.#owned(teamID, sandboxID);
    const result = await this.#track(this.#forks.fork(sandboxID, wish, signal));
    const forks = result.forks.flatMap((one) => ('sandbox' in one ? [one.sandbox.sandboxID] : []));
    this.#chronicle.remark(sandboxID, 'forked', { forks: forks.join(' ') });
    return result;
  }

  async rollbackSandbox(teamID: string, sandboxID: string, snapshot: string): Promise<ResumeResult> {
    this.#owned(teamID, sandboxID);
    const to = this.#snapshots.ofSandbox(teamID, sandboxID, snapshot);
    if (!to)
      throw new CoppiceError('template_not_found', `sandbox ${sandboxID} has no snapshot '${snapshot.slice(0, 128)}'`);
    const { memory, buildID: parentID } = to;
    // What is there goes only for what can be used, and is not deleted meanwhile.
    const { release } = await this.#snapshots.holdRow(to);
    try {
      const receipt = await this.#track(
        this.#pauses.rollBack(sandboxID, this.#snapshots.folderOf(to), { memory, parentID }),
      );
      return { sandbox: this.#views.ofRow(this.#owned(teamID, sandboxID)), resumed: true, receipt };
    } finally {
      release();
    }
  }

  async refreshSandbox(teamID: string, sandboxID: string, timeoutSeconds: number): Promise<void> {
    await this.#demandRunning(teamID, sandboxID);
    this.#moveDeadline(sandboxID, timeoutSeconds, true);
  }

  async setSandboxTimeout(teamID: string, sandboxID: string, timeoutSeconds: number): Promise<void> {
    await this.#demandRunning(teamID, sandboxID);
    this.#moveDeadline(sandboxID, timeoutSeconds, false);
  }

  async updateNetwork(teamID: string, sandboxID: string, network: NetworkUpdate): Promise<void> {
    this.#owned(teamID, sandboxID);
    await this.#track(this.#policies.update(sandboxID, network));
  }

  createVolume(teamID: string, name: string): Promise<VolumeAndToken> {
    return this.#track(this.#volumes.create(teamID, name));
  }

  async listVolumes(teamID: string): Promise<readonly VolumeView[]> {
    return this.#volumes.list(teamID);
  }

  async getVolume(teamID: string, volumeID: string): Promise<VolumeAndToken> {
    return this.#volumes.get(teamID, volumeID);
  }

  deleteVolume(teamID: string, volumeID: string): Promise<void> {
    return this.#track(this.#volumes.delete(teamID, volumeID));
  }

  async killSandbox(teamID: string, sandboxID: string): Promise<void> {
    this.#owned(teamID, sandboxID);
    await this.#fleet.bury(sandboxID, 'killed by its owner');
  }

  async createSnapshot(
    teamID: string,
    sandboxID: string,
    options: { readonly name?: string; readonly signal?: AbortSignal },
  ): Promise<{ readonly snapshot: SnapshotView; readonly receipt: Receipt }> {
    this.#owned(teamID, sandboxID);
    const clock = new ReceiptClock('snapshot');
    const taking = this.#turns.take(sandboxID, async () => {
      const row = this.#owned(teamID, sandboxID);
      const member = this.#fleet.sandbox(sandboxID);
      const machine = member?.machine ?? this.#fleet.aside(sandboxID)?.machine;
      const taken = await this.#snapshots.take(row, {
        ...options,
        member,
        machine,
        onCapture: (ms) => clock.paused(ms),
      });
      this.#rows.setParent(sandboxID, taken.buildID);
      clock.stage('capture');
      return { snapshot: await this.#snapshots.view(taken), receipt: clock.finish() };
    });
    return this.#track(taking);
  }

  async listSnapshots(query: ListSnapshotsQuery): Promise<ListSnapshotsResult> {
    return this.#snapshots.list(query);
  }

  async deleteSnapshot(teamID: string, snapshot: string): Promise<void> {
    if (await this.#building?.jobs.deleteTemplate(teamID, snapshot)) return;
    await this.#snapshots.delete(teamID, snapshot);
  }

  async sandboxMetrics(
    teamID: string,
    sandboxID: string,
    span: { readonly startMs?: number; readonly endMs?: number },
  ): Promise<readonly SandboxMetric[]> {
    this.#owned(teamID, sandboxID);
    return this.#metrics.of(sandboxID, span);
  }

  async latestMetrics(teamID: string, sandboxIDs: readonly string[]): Promise<ReadonlyMap<string, SandboxMetric>> {
    const own = [...new Set(sandboxIDs)].filter((id) => this.#rows.get(id)?.owner?.teamID === teamID);
    const found = await Promise.all(own.map(async (id) => [id, await this.#metrics.latest(id)] as const));
    return new Map(found.flatMap(([id, metric]) => (metric === undefined ? [] : [[id, metric] as const])));
  }

  async listLogs(query: LogsQuery): Promise<readonly LogEntry[]> {
    return this.#journal.logs(query);
  }

  async listEvents(query: EventsQuery, signal?: AbortSignal): Promise<EventsResult> {
    return this.#journal.events(query, signal);
  }

  requestBuild(wish: BuildWish): Promise<BuildTicket> {
    return this.#jobs.requestBuild(wish);
  }

  async startBuild(build: BuildName, request: string): Promise<void> {
    if (this.#abort.signal.aborted) throw new CoppiceError('unavailable', 'the node is stopping');
    await this.#jobs.startBuild(build, request);
  }

  getBuild(query: BuildLogQuery): Promise<BuildView> {
    return this.#jobs.getBuild(query);
  }

  buildFile(teamID: string, templateID: string, hash: string): Promise<BuildFile> {
    return this.#jobs.buildFile(teamID, templateID, hash);
  }

  tagTemplate(
    teamID: string,
    target: string,
    tags: readonly string[],
  ): Promise<{ readonly buildID: string; readonly tags: readonly string[] }> {
    return this.#jobs.tagTemplate(teamID, target, tags);
  }

  untagTemplate(teamID: string, template: string, tags: readonly string[]): Promise<void> {
    return this.#jobs.untagTemplate(teamID, template, tags);
  }

  listTags(teamID: string, template: string): Promise<readonly TemplateTag[]> {
    return this.#jobs.listTags(teamID, template);
  }

  cancelBuilds(teamID: string): Promise<number> {
    return this.#jobs.cancelBuilds(teamID);
  }

  publishTemplate(teamID: string, template: string, isPublic: boolean): Promise<readonly string[]> {
    return this.#jobs.publishTemplate(teamID, template, isPublic);
  }

  get #jobs(): BuildJobs {
    if (!this.#building) throw new CoppiceError('not_implemented', 'this node builds no templates');
    return this.#building.jobs;
  }

  /** For the traffic server: the files of volumes. */
  get volumes(): Volumes {
    return this.#volumes;
  }

  /** Takes archives for builds, for the traffic server. undefined: none are taken. */
  get uploads(): BuildFiles | undefined {
    return this.#building?.files;
  }

  async listTemplates(): Promise<readonly TemplateView[]> {
    const { building } = this.#options;
    const ofTeams = building ? viewsOfBuilt(this.#rows, (buildID) => this.#hot.count(buildID)) : [];
    const builtIn = this.#templates.all.map((template) => {
      const spawns = this.#rows.spawns(template.templateID);
      return {
        templateID: template.templateID,
        buildID: template.buildID,
        aliases: template.aliases,
        ...template.shape,
        envdVersion: ENVD_VERSION,
        isolation: template.isolation,
        createdAtMs: template.createdAtMs,
        updatedAtMs: template.createdAtMs,
        spawnCount: spawns.count,
        ...(spawns.lastAtMs === undefined ? {} : { lastSpawnedAtMs: spawns.lastAtMs }),
        hot: this.#hot.count(template.buildID),
      };
    });
    return [...builtIn, ...ofTeams];
  }

  async status(): Promise<NodeStatus> {
    return {
      backends: this.#options.backendStatus,
      rootless: this.#options.uids === undefined,
      ready: this.#hot.started,
      notices: this.#options.notices,
      sandboxes: this.#fleet.size,
      hot: this.#hot.size,
      hotTarget: this.#hot.target,
    };
  }

  async leaks(): Promise<LeakReport> {
    const { backends, fabric, machinesFolder } = this.#options;
    const strays = [
      ...(await this.#snapshots.strays()),
      ...(await this.#kept.strays(this.#rows.all())),
      ...((await this.#building?.jobs.strays()) ?? []),
      ...(await this.#volumes.strays()),
    ];
    const known = (): string[] => [...this.#rows.all().map((row) => row.id), ...this.#fleet.buried()];
    const census = await takeCensus(backends, fabric, machinesFolder, known, strays);
    // What was both made and undone while the host was being counted is in neither list.
    return census.details.length === 0 ? census : takeCensus(backends, fabric, machinesFolder, known, strays);
  }

  /** Rows and host are compared; what is beyond demand is given up, what is short of it is made. */
  async #tidy(): Promise<void> {
    await this.#repair.now();
    await this.#building?.jobs.reconcile();
    await this.#hot.trim();
    await this.#nursery.trim();
    this.#hot.refill();
  }

  #resume(id: string, wish: ResumeWish): Promise<Receipt | undefined> {
    const timeoutSeconds = Math.min(wish.timeoutSeconds, LONGEST_LIFE_MS / 1000);
    return this.#track(this.#pauses.resume(id, { ...wish, timeoutSeconds }));
  }

  #track<T>(verb: Promise<T>): Promise<T> {
    this.#underway.add(verb);
    verb.finally(() => this.#underway.delete(verb)).catch(() => {});
    return verb;
  }

  /** A sandbox of the team, running or paused or between the two. */
  #owned(teamID: string, sandboxID: string): MachineRow {
    const row = this.#rows.get(sandboxID);
    const alive = row !== undefined && row.state !== 'killing' && this.#fleet.has(sandboxID);
    if (!alive || row.owner?.teamID !== teamID) throw notFound(sandboxID);
    return row;
  }

  /** Waits for a resume that is under way. */
  async #demandRunning(teamID: string, sandboxID: string): Promise<void> {
    if (this.#owned(teamID, sandboxID).state === 'resuming') await this.#turns.take(sandboxID, async () => {});
    if (this.#owned(teamID, sandboxID).state !== 'running') throw notFound(sandboxID);
  }

  #moveDeadline(id: string, timeoutSeconds: number, longerOnly: boolean): void {
    const wanted = Date.now() + Math.min(timeoutSeconds * 1000, LONGEST_LIFE_MS);
    const endAtMs = this.#rows.setEnd(id, wanted, longerOnly);
    if (endAtMs !== undefined) this.#fleet.moveDeadline(id, endAtMs);
  }
}
