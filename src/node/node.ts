/**
 * The node: owns one host's machines. Verbs write their intent, act, and write the fact; whatever they leave unfinished
 * the reconciler finishes. The truth about a sandbox is its row.
 */
import { CoppiceError } from '../contract/errors.ts';
import {
  type BackendStatus,
  type CreateSandboxRequest,
  type CreateSandboxResult,
  ENVD_VERSION,
  type LeakReport,
  type ListSandboxesQuery,
  type ListSandboxesResult,
  type ListSnapshotsQuery,
  type ListSnapshotsResult,
  type NodeApi,
  type NodeStatus,
  type SandboxView,
  type SnapshotView,
  type TemplateView,
} from '../contract/node-api.ts';
import type { Backends } from '../isolation/backends.ts';
import type { NetworkFabric } from '../network/fabric.ts';
import type { Log } from '../telemetry/log.ts';
import { Creates } from './creates.ts';
import { Fleet } from './fleet.ts';
import { HotTier } from './hot-tier.ts';
import { KnownTemplates } from './known-templates.ts';
import { takeCensus } from './leaks.ts';
import type { Member } from './member.ts';
import { Nursery, type ReadyTemplate, type UidRanges } from './nursery.ts';
import { notFound } from './ownership.ts';
import { Pauses } from './pauses.ts';
import { Repair } from './repair.ts';
import type { MachineRow, Rows } from './rows.ts';
import { Snapshots } from './snapshots.ts';
import { Turns } from './turns.ts';
import { Views } from './views.ts';

export interface NodeOptions {
  readonly backends: Backends;
  /** What status tells of them. */
  readonly backendStatus: readonly BackendStatus[];
  readonly fabric: NetworkFabric;
  readonly rows: Rows;
  readonly templates: readonly ReadyTemplate[];
  readonly machinesFolder: string;
  /** Exists. */
  readonly snapshotsFolder: string;
  readonly uids: UidRanges | undefined;
  readonly seed: Buffer;
  /** Hot entries per template at rest, and at most. */
  readonly pool: { readonly least: number; readonly most: number };
  readonly memoryBudgetMB?: number;
  /** Whether places for machines (id, users, network) are made ahead of demand. */
  readonly ahead?: boolean;
  readonly notices: readonly string[];
  readonly log: Log;
}

/** How often rows and host are compared while nothing happens. */
const RECONCILE_MS = 30_000;
/** Refreshes and connects add to a deadline; nothing may move it beyond this. */
const LONGEST_LIFE_MS = 24 * 3_600_000;

export class Node implements NodeApi {
  readonly #options: NodeOptions;
  readonly #rows: Rows;
  readonly #templates: KnownTemplates;
  readonly #views: Views;
  readonly #nursery: Nursery;
  readonly #fleet: Fleet;
  readonly #hot: HotTier;
  readonly #creates: Creates;
  readonly #pauses: Pauses;
  readonly #snapshots: Snapshots;
  readonly #repair: Repair;
  readonly #turns = new Turns();
  /** Verbs that make something: an end waits for them. */
  readonly #underway = new Set<Promise<unknown>>();
  readonly #abort = new AbortController();
  #reconciling: NodeJS.Timeout | undefined;

  constructor(options: NodeOptions) {
    const { backends, fabric, rows, machinesFolder, snapshotsFolder, memoryBudgetMB, log } = options;
    const stopping = this.#abort.signal;
    this.#options = options;
    this.#rows = rows;
    const templates = new KnownTemplates(options.templates, rows.snapshots, snapshotsFolder);
    const views = new Views(templates, options.seed);
    const nursery = new Nursery(options);
    const fleet = new Fleet({
      backends,
      nursery,
      rows,
      memoryBudgetMB,
      onDue: (member) => this.#pauses.due(member),
      onDeath: (member) => this.#hot.forget(member),
      log,
    });
    const hot = new HotTier({ fleet, rows, size: options.pool, log });
    const snapshots = new Snapshots({
      backends,
      rows: rows.snapshots,
      templates,
      folder: snapshotsFolder,
      stopping,
      log,
    });
    const common = { backends, fabric, rows, fleet, templates, snapshots, views, log };
    this.#templates = templates;
    this.#views = views;
    this.#nursery = nursery;
    this.#fleet = fleet;
    this.#hot = hot;
    this.#snapshots = snapshots;
    this.#creates = new Creates({ ...common, hot, stopping });
    this.#pauses = new Pauses({ ...common, turns: this.#turns });
    this.#repair = new Repair({ ...common, pauses: this.#pauses, nursery, machinesFolder });
  }

  /** Repairs what an earlier process left, then begins to fill the hot tier. */
  async start(): Promise<void> {
    await this.#repair.atStart();
    this.#hot.start(this.#templates.all);
    this.#reconciling = setInterval(() => {
      void this.#repair.now().then(() => this.#hot.refill());
    }, RECONCILE_MS);
    this.#reconciling.unref();
  }

  /** Everything ends: verbs under way first, then the hot tier, then every sandbox, running or paused. Snapshots stay. */
  async stop(): Promise<void> {
    this.#abort.abort();
    clearInterval(this.#reconciling);
    this.#fleet.freeze();
    await Promise.allSettled(this.#underway);
    await this.#hot.close();
    await this.#nursery.close();
    await this.#fleet.clear('the service stopped');
  }

  /** For tests of a crash: forgets everything as it stands, as SIGKILL would. */
  abandon(): void {
    this.#abort.abort();
    clearInterval(this.#reconciling);
    this.#fleet.freeze();
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

  async connectSandbox(
    teamID: string,
    sandboxID: string,
    timeoutSeconds: number,
  ): Promise<{ sandbox: SandboxView; resumed: boolean }> {
    for (;;) {
      const row = this.#owned(teamID, sandboxID);
      if (row.state === 'running') {
        this.#moveDeadline(sandboxID, timeoutSeconds, true);
        return { sandbox: this.#views.ofRow(this.#owned(teamID, sandboxID)), resumed: false };
      }
      // False: somebody else has resumed it meanwhile.
      if (await this.#resume(sandboxID, timeoutSeconds))
        return { sandbox: this.#views.ofRow(this.#owned(teamID, sandboxID)), resumed: true };
    }
  }

  async resumeSandbox(teamID: string, sandboxID: string, timeoutSeconds: number): Promise<SandboxView> {
    const runs = this.#owned(teamID, sandboxID).state === 'running';
    if (runs || !(await this.#resume(sandboxID, timeoutSeconds)))
      throw new CoppiceError('conflict', `Sandbox "${sandboxID}" is already running`);
    return this.#views.ofRow(this.#owned(teamID, sandboxID));
  }

  async pauseSandbox(teamID: string, sandboxID: string): Promise<void> {
    this.#owned(teamID, sandboxID);
    await this.#track(this.#pauses.pause(sandboxID));
  }

  async refreshSandbox(teamID: string, sandboxID: string, timeoutSeconds: number): Promise<void> {
    await this.#demandRunning(teamID, sandboxID);
    this.#moveDeadline(sandboxID, timeoutSeconds, true);
  }

  async setSandboxTimeout(teamID: string, sandboxID: string, timeoutSeconds: number): Promise<void> {
    await this.#demandRunning(teamID, sandboxID);
    this.#moveDeadline(sandboxID, timeoutSeconds, false);
  }

  async killSandbox(teamID: string, sandboxID: string): Promise<void> {
    this.#owned(teamID, sandboxID);
    const member = this.#fleet.sandbox(sandboxID) ?? this.#fleet.paused(sandboxID);
    if (member) await this.#fleet.bury(member, 'killed by its owner');
  }

  async createSnapshot(
    teamID: string,
    sandboxID: string,
    options: { readonly name?: string; readonly signal?: AbortSignal },
  ): Promise<SnapshotView> {
    this.#owned(teamID, sandboxID);
    const taking = this.#turns.take(sandboxID, async () => {
      const row = this.#owned(teamID, sandboxID);
      const member = this.#fleet.sandbox(sandboxID) ?? this.#fleet.paused(sandboxID);
      if (!member) throw notFound(sandboxID);
      return this.#snapshots.take(row, member.machine, options);
    });
    return this.#track(taking);
  }

  async listSnapshots(query: ListSnapshotsQuery): Promise<ListSnapshotsResult> {
    return this.#snapshots.list(query);
  }

  async deleteSnapshot(teamID: string, snapshot: string): Promise<void> {
    await this.#snapshots.delete(teamID, snapshot);
  }

  async listTemplates(): Promise<readonly TemplateView[]> {
    return this.#templates.all.map((template) => {
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
        hot: this.#hot.of(template.templateID)?.size ?? 0,
      };
    });
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
    const strays = await this.#snapshots.strays();
    const known = new Set(this.#rows.all().map((row) => row.id));
    const census = await takeCensus(backends, fabric, machinesFolder, known, strays);
    // A machine that was made or ended while the host was being counted is in one list and not in the other.
    if (census.details.length === 0) return census;
    const later = new Set([...known, ...this.#rows.all().map((row) => row.id), ...this.#fleet.buried()]);
    return takeCensus(backends, fabric, machinesFolder, later, strays);
  }

  #resume(id: string, timeoutSeconds: number): Promise<boolean> {
    return this.#track(this.#pauses.resume(id, Math.min(timeoutSeconds * 1000, LONGEST_LIFE_MS)));
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
