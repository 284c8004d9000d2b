/**
 * The node: owns one host's machines. Verbs write their intent, act, and write the fact; whatever they leave unfinished
 * the reconciler finishes. The truth about a sandbox is its row.
 */
import { CoppiceError, isCoppiceError } from '../contract/errors.ts';
import {
  type CreateSandboxRequest,
  type CreateSandboxResult,
  ENVD_VERSION,
  type LeakReport,
  type ListSandboxesQuery,
  type ListSandboxesResult,
  type NodeApi,
  type NodeStatus,
  type SandboxView,
  type TemplateView,
} from '../contract/node-api.ts';
import type { IsolationBackend } from '../isolation/backend.ts';
import type { NetworkFabric } from '../network/fabric.ts';
import type { Log } from '../telemetry/log.ts';
import { Admission } from './admission.ts';
import { Deadlines } from './deadlines.ts';
import { accessToken } from './identifiers.ts';
import { takeCensus } from './leaks.ts';
import { Member } from './member.ts';
import { type GrowthWish, Nursery, type ReadyTemplate } from './nursery.ts';
import { Pool } from './pool.ts';
import { ReceiptClock } from './receipt.ts';
import type { MachineRow, Owner, Rows } from './rows.ts';
import { AT_START } from './state.ts';

export interface NodeOptions {
  readonly backend: IsolationBackend;
  readonly accelerator: string;
  readonly fabric: NetworkFabric;
  readonly rows: Rows;
  readonly templates: readonly ReadyTemplate[];
  readonly machinesFolder: string;
  readonly firstUid: number | undefined;
  readonly seed: Buffer;
  /** Hot entries per template at rest, and at most. */
  readonly pool: { readonly least: number; readonly most: number };
  readonly memoryBudgetMB?: number;
  readonly notices: readonly string[];
  readonly log: Log;
}

/** The guest's answer at hand-out: generous, since a loaded host wakes an emulated guest late; then the next entry is tried. */
const HANDOVER_DEADLINE_MS = 5_000;
/** Answers of a fresh clone until they take no longer than they ever will: emulated code is translated as it runs. */
const REHEARSALS = 6;
/** A parked clock drifts by some millionths; after this long it is compared again at the claim. */
const CLOCK_DRIFTS_MS = 10 * 60_000;
/** How often rows and host are compared while nothing happens. */
const RECONCILE_MS = 30_000;
/** Entries that may fail at hand-out before a create gives up. */
const HANDOVER_TRIES = 3;
/** Refreshes and connects add to a deadline; nothing may move it beyond this. */
const LONGEST_LIFE_MS = 24 * 3_600_000;

export class Node implements NodeApi {
  readonly #options: NodeOptions;
  readonly #log: Log;
  readonly #rows: Rows;
  readonly #nursery: Nursery;
  readonly #admission: Admission;
  readonly #deadlines = new Deadlines((id) => void this.#expire(id));
  /** Handed-out sandboxes, by id. */
  readonly #sandboxes = new Map<string, Member>();
  readonly #pools = new Map<string, Pool<Member>>();
  readonly #burials = new Map<string, Promise<void>>();
  /** Creates under way: an end waits for theirs. */
  readonly #creating = new Set<Promise<unknown>>();
  readonly #abort = new AbortController();
  #reconciling: NodeJS.Timeout | undefined;

  constructor(options: NodeOptions) {
    this.#options = options;
    this.#log = options.log;
    this.#rows = options.rows;
    this.#admission = new Admission(options.memoryBudgetMB);
    this.#nursery = new Nursery(options);
  }

  /** Repairs what an earlier process left, then begins to fill the hot tier. */
  async start(): Promise<void> {
    await this.#repair();
    for (const template of this.#options.templates) {
      this.#pools.set(
        template.templateID,
        new Pool<Member>({
          name: template.aliases[0] ?? template.templateID,
          grow: (signal) => this.#growHot(template, signal),
          drop: (member) => this.#bury(member, 'no longer needed'),
          room: () => this.#admission.fits(template.shape.memoryMB),
          ...this.#options.pool,
          log: this.#log,
        }),
      );
    }
    for (const pool of this.#pools.values()) pool.refill();
    this.#reconciling = setInterval(() => void this.#reconcile(), RECONCILE_MS);
    this.#reconciling.unref();
  }

  /** Everything ends: creates under way first, then the hot tier, then every sandbox. */
  async stop(): Promise<void> {
    this.#abort.abort();
    clearInterval(this.#reconciling);
    this.#deadlines.stop();
    await Promise.allSettled(this.#creating);
    await Promise.all([...this.#pools.values()].map((pool) => pool.close()));
    await Promise.all([...this.#sandboxes.values()].map((member) => this.#bury(member, 'the service stopped')));
    await Promise.all(this.#burials.values());
  }

  /** For tests of a crash: forgets everything as it stands, as SIGKILL would. */
  abandon(): void {
    this.#abort.abort();
    clearInterval(this.#reconciling);
    this.#deadlines.stop();
    for (const pool of this.#pools.values()) pool.abandon();
    for (const member of this.#sandboxes.values()) member.end('abandoned');
  }

  /** Resolves when each template has `count` hot entries, or when memory does not allow it. */
  async warm(count: number, signal?: AbortSignal): Promise<void> {
    for (const pool of this.#pools.values()) await pool.filled(count, signal);
  }

  /** A live sandbox, for the traffic server. */
  member(sandboxID: string): Member | undefined {
    return this.#sandboxes.get(sandboxID);
  }

  members(): IterableIterator<Member> {
    return this.#sandboxes.values();
  }

  createSandbox(request: CreateSandboxRequest, signal?: AbortSignal): Promise<CreateSandboxResult> {
    const creating = this.#create(request, signal);
    this.#creating.add(creating);
    creating.finally(() => this.#creating.delete(creating)).catch(() => {});
    return creating;
  }

  async #create(request: CreateSandboxRequest, signal?: AbortSignal): Promise<CreateSandboxResult> {
    const clock = new ReceiptClock('create');
    if (this.#abort.signal.aborted) throw new CoppiceError('unavailable', 'the node is stopping');
    const template = this.#resolve(request.template);
    if (request.network.allowInternetAccess === true && !this.#options.fabric.enforcing) {
      throw new CoppiceError('unsupported_policy', 'allow_internet_access: guests have no network on this host');
    }
    const release = this.#pools.get(template.templateID)!.hold();
    try {
      for (let attempt = 1; ; attempt++) {
        const acquired = await this.#acquire(template, request, clock, signal);
        const { member } = acquired;
        try {
          const sandbox = await this.#handOver(acquired, template, request, clock, signal);
          const receipt = clock.finish();
          // After the answer: nobody waits for a line in a log.
          setImmediate(() => {
            this.#log.info({ sandboxID: member.id, template: template.aliases[0], receipt }, 'sandbox created');
          });
          return { sandbox, receipt };
        } catch (error) {
          await this.#bury(member, 'hand-over failed');
          if (signal?.aborted) throw new CoppiceError('aborted', 'the client gave up', { cause: error });
          if (isCoppiceError(error) && error.code !== 'guest_unresponsive') throw error;
          this.#log.warn({ error, sandboxID: member.id, attempt }, 'a machine failed at hand-over');
          if (attempt === HANDOVER_TRIES) {
            throw new CoppiceError('guest_unresponsive', 'no machine answered at hand-over', { cause: error });
          }
        }
      }
    } finally {
      release();
    }
  }

  async getSandbox(teamID: string, sandboxID: string): Promise<SandboxView> {
    return this.#view(this.#owned(teamID, sandboxID));
  }

  async listSandboxes(query: ListSandboxesQuery): Promise<ListSandboxesResult> {
    const rows = this.#rows.ofTeam(query.teamID, query.order).filter((row) => this.#sandboxes.has(row.id));
    const sign = query.order === 'asc' ? 1 : -1;
    const { after } = query;
    const matching = rows.filter(
      (row) =>
        query.states.includes('running') &&
        (query.startedAfterMs === undefined || row.owner!.startedAtMs >= query.startedAfterMs) &&
        (query.template === undefined || this.#names(row.templateID).includes(query.template)) &&
        Object.entries(query.metadata ?? {}).every(([key, value]) => row.owner!.metadata[key] === value) &&
        (after === undefined || sign * comparePosition(positionOf(row), after) > 0),
    );
    const page = matching.slice(0, query.limit);
    const last = page.at(-1);
    return {
      sandboxes: page.map((row) => this.#view(row)),
      ...(last && matching.length > page.length ? { next: positionOf(last) } : {}),
      totalRunning: rows.length,
    };
  }

  async connectSandbox(
    teamID: string,
    sandboxID: string,
    timeoutSeconds: number,
  ): Promise<{ sandbox: SandboxView; resumed: boolean }> {
    this.#owned(teamID, sandboxID);
    this.#moveDeadline(sandboxID, timeoutSeconds, true);
    return { sandbox: this.#view(this.#owned(teamID, sandboxID)), resumed: false };
  }

  async setSandboxTimeout(teamID: string, sandboxID: string, timeoutSeconds: number): Promise<void> {
    this.#owned(teamID, sandboxID);
    this.#moveDeadline(sandboxID, timeoutSeconds, false);
  }

  async killSandbox(teamID: string, sandboxID: string): Promise<void> {
    this.#owned(teamID, sandboxID);
    const member = this.#sandboxes.get(sandboxID);
    if (member) await this.#bury(member, 'killed by its owner');
  }

  async listTemplates(): Promise<readonly TemplateView[]> {
    return this.#options.templates.map((template) => {
      const spawns = this.#rows.spawns(template.templateID);
      return {
        templateID: template.templateID,
        buildID: template.buildID,
        aliases: template.aliases,
        ...template.shape,
        envdVersion: ENVD_VERSION,
        isolation: this.#options.backend.kind,
        createdAtMs: template.createdAtMs,
        updatedAtMs: template.createdAtMs,
        spawnCount: spawns.count,
        ...(spawns.lastAtMs === undefined ? {} : { lastSpawnedAtMs: spawns.lastAtMs }),
        hot: this.#pools.get(template.templateID)?.size ?? 0,
      };
    });
  }

  async status(): Promise<NodeStatus> {
    const pools = [...this.#pools.values()];
    return {
      backend: this.#options.backend.name,
      accelerator: this.#options.accelerator,
      rootless: this.#options.firstUid === undefined,
      ready: pools.length > 0,
      notices: this.#options.notices,
      sandboxes: this.#sandboxes.size,
      hot: pools.reduce((sum, pool) => sum + pool.size, 0),
      hotTarget: pools.reduce((sum, pool) => sum + pool.target, 0),
    };
  }

  async leaks(): Promise<LeakReport> {
    const known = new Set(this.#rows.all().map((row) => row.id));
    const census = await takeCensus(this.#options.backend, this.#options.fabric, this.#options.machinesFolder, known);
    // A machine that was made or ended while the host was being counted is in one list and not in the other.
    if (census.details.length === 0) return census;
    const later = new Set([...known, ...this.#rows.all().map((row) => row.id), ...this.#burials.keys()]);
    return takeCensus(this.#options.backend, this.#options.fabric, this.#options.machinesFolder, later);
  }

  // ---- making and handing over

  async #growHot(template: ReadyTemplate, signal: AbortSignal): Promise<Member> {
    const env = (id: string): Record<string, string> => environment(template, id, {});
    const member = await this.#growAdmitted(template, { signal, allowInternet: true, env });
    try {
      // A rehearsal: what the claim will ask of it has then been done once.
      const agent = await member.agent();
      await agent.identity({ env: env(member.id) }, signal);
      for (let count = 0; count < REHEARSALS; count++) await agent.ping(signal);
      // Parked, it sends nothing; a claim that wants no internet takes its grant back before it wakes.
      member.machine.park();
      if (!this.#rows.move(member.id, 'preparing', 'hot')) throw new Error('the row of a growing entry changed');
    } catch (error) {
      await this.#bury(member, 'growth failed');
      throw error;
    }
    return member;
  }

  async #growAdmitted(template: ReadyTemplate, wish: GrowthWish): Promise<Member> {
    const ticket = `growing:${crypto.randomUUID()}`;
    this.#admission.take(ticket, template.shape.memoryMB);
    try {
      const member = await this.#nursery.grow(template, wish);
      this.#admission.adopt(member.id, template.shape.memoryMB);
      void member.machine.exited.then(({ reason }) => this.#died(member, reason));
      return member;
    } finally {
      this.#admission.release(ticket);
    }
  }

  async #acquire(
    template: ReadyTemplate,
    request: CreateSandboxRequest,
    clock: ReceiptClock,
    signal?: AbortSignal,
  ): Promise<Acquired> {
    const pool = this.#pools.get(template.templateID)!;
    const hot = pool.take();
    clock.path(hot ? 'hot' : 'cold');
    if (hot) return { member: hot, path: 'hot' };
    while (!this.#admission.fits(template.shape.memoryMB)) {
      // Idle entries of other templates give way to a sandbox that somebody wants now.
      if (!(await this.#shedOne(pool))) break;
    }
    const member = await this.#growAdmitted(template, {
      signal: signal ? AbortSignal.any([signal, this.#abort.signal]) : this.#abort.signal,
      allowInternet: request.network.allowInternetAccess !== false,
      env: (id) => environment(template, id, request.envVars),
      stage: (name) => clock.stage(name),
    });
    return { member, path: 'cold' };
  }

  async #shedOne(except: Pool<Member>): Promise<boolean> {
    for (const pool of this.#pools.values()) if (pool !== except && (await pool.shed())) return true;
    return false;
  }

  async #handOver(
    { member, path }: Acquired,
    template: ReadyTemplate,
    request: CreateSandboxRequest,
    clock: ReceiptClock,
    signal?: AbortSignal,
  ): Promise<SandboxView> {
    const now = Date.now();
    const owner: Owner = {
      teamID: request.teamID,
      secure: request.secure,
      metadata: request.metadata,
      env: request.envVars,
      allowInternet: request.network.allowInternetAccess,
      startedAtMs: now,
      endAtMs: now + request.timeoutSeconds * 1000,
    };
    if (!this.#rows.claim(member.id, owner))
      throw new CoppiceError('guest_unresponsive', 'the entry was gone at its claim');
    clock.stage('claim');
    await this.#allowInternet(member, request.network.allowInternetAccess !== false);
    clock.stage('policy');
    this.#assign(member, template, owner);
    if (path === 'hot') {
      member.machine.unpark();
      const deadline = AbortSignal.timeout(HANDOVER_DEADLINE_MS);
      const agent = await member.agent();
      const bounded = signal ? AbortSignal.any([signal, deadline]) : deadline;
      // Its environment is there already unless the caller adds to it, and its clock ran on while it was parked.
      const stale = now - member.clockSetAtMs > CLOCK_DRIFTS_MS;
      if (stale || Object.keys(owner.env).length > 0) {
        await agent.identity({ env: member.env, clockMs: Date.now() }, bounded);
      } else await agent.ping(bounded);
      clock.stage('guest');
    }
    if (!this.#rows.move(member.id, 'creating', 'running'))
      throw new CoppiceError('guest_unresponsive', 'the sandbox was ended while it was made');
    this.#rows.countSpawn(template.templateID);
    this.#sandboxes.set(member.id, member);
    this.#deadlines.set(member.id, owner.endAtMs);
    clock.stage('commit');
    return this.#viewOf(member.id, template.templateID, member.generation, owner);
  }

  /** One transaction when the policy differs from what stands; none on the usual claim. */
  async #allowInternet(member: Member, allowInternet: boolean): Promise<void> {
    if (!member.attachment || member.internet === allowInternet) return;
    await this.#options.fabric.setPolicy(member.id, { allowInternet });
    member.internet = allowInternet;
  }

  #assign(member: Member, template: ReadyTemplate, owner: Owner): void {
    member.assign({
      env: environment(template, member.id, owner.env),
      ...(owner.secure ? { accessToken: accessToken(this.#options.seed, member.id) } : {}),
    });
  }

  // ---- ending

  /** Durable intent, then streams cut, then everything undone. Callers may come twice; the work is done once. */
  #bury(member: Member, reason: string): Promise<void> {
    const underway = this.#burials.get(member.id);
    if (underway) return underway;
    this.#rows.intendKill(member.id);
    this.#sandboxes.delete(member.id);
    this.#deadlines.delete(member.id);
    member.end(reason);
    const burial = this.#nursery
      .bury(member.id, member.machine, this.#uidOf(member.id))
      .then(() => this.#log.info({ sandboxID: member.id, reason }, 'machine ended'))
      .catch((error) =>
        this.#log.error({ error, sandboxID: member.id }, 'a machine could not be ended; the reconciler tries again'),
      )
      .finally(() => {
        this.#admission.release(member.id);
        this.#burials.delete(member.id);
      });
    this.#burials.set(member.id, burial);
    return burial;
  }

  #uidOf(id: string): number | undefined {
    return this.#rows.get(id)?.uid;
  }

  async #expire(id: string): Promise<void> {
    const member = this.#sandboxes.get(id);
    if (member) await this.#bury(member, 'its time was up');
  }

  #died(member: Member, reason: string): void {
    if (member.ended || this.#abort.signal.aborted) return;
    for (const pool of this.#pools.values()) if (pool.forget(member)) pool.refill();
    void this.#bury(member, `its machine ended: ${reason}`);
  }

  // ---- repair

  /** At start: every row of the process before is adopted or swept, and so is everything that has no row. */
  async #repair(): Promise<void> {
    const { backend, fabric } = this.#options;
    for (const row of this.#rows.all()) {
      const machine = AT_START[row.state] === 'adopt' && row.record ? await backend.adopt(row.record) : undefined;
      const template = this.#options.templates.find((known) => known.templateID === row.templateID);
      if (!machine || !template || !row.owner || row.owner.endAtMs <= Date.now()) {
        this.#rows.intendKill(row.id);
        await this.#nursery.bury(row.id, machine, row.uid);
        this.#log.warn({ sandboxID: row.id, state: row.state }, 'swept what an earlier run left');
        continue;
      }
      const attachment = (await fabric.attached()).find((one) => one.id === row.id);
      const member = new Member({
        id: row.id,
        templateID: row.templateID,
        generation: row.generation,
        memoryMB: row.memoryMB,
        languages: template.languages,
        machine,
        ...(attachment ? { attachment } : {}),
        log: this.#log,
      });
      this.#assign(member, template, row.owner);
      machine.unpark();
      try {
        await member.agent();
      } catch (error) {
        // Neither whole nor reachable: its owner is better served by a clear end.
        this.#log.warn({ error, sandboxID: row.id }, 'a running sandbox does not answer its new node');
        await this.#bury(member, 'it did not answer after a restart of the node');
        continue;
      }
      this.#admission.adopt(row.id, row.memoryMB);
      this.#sandboxes.set(row.id, member);
      this.#deadlines.set(row.id, row.owner.endAtMs);
      void machine.exited.then(({ reason }) => this.#died(member, reason));
      this.#log.info({ sandboxID: row.id }, 'adopted a running sandbox');
    }
    await this.#sweepStrangers();
  }

  async #reconcile(): Promise<void> {
    try {
      for (const row of this.#rows.all()) {
        if (row.state === 'killing' && !this.#burials.has(row.id)) await this.#nursery.bury(row.id, undefined, row.uid);
      }
      await this.#sweepStrangers();
      for (const pool of this.#pools.values()) pool.refill();
    } catch (error) {
      this.#log.error({ error }, 'reconciling failed');
    }
  }

  /** Ends what is on the host in this home's name and in no row. */
  async #sweepStrangers(): Promise<void> {
    const { backend, fabric, machinesFolder } = this.#options;
    const known = (): Set<string> => new Set([...this.#rows.all().map((row) => row.id), ...this.#burials.keys()]);
    const strangers = new Set<string>();
    for (const item of await backend.census(machinesFolder)) strangers.add(item.id);
    for (const attachment of await fabric.attached()) strangers.add(attachment.id);
    for (const id of strangers) {
      if (known().has(id)) continue;
      await backend.sweep(id, machinesFolder);
      await fabric.detach(id);
      this.#log.warn({ sandboxID: id }, 'swept a machine that no row accounts for');
    }
  }

  // ---- reading

  #resolve(name: string): ReadyTemplate {
    const template = this.#options.templates.find((one) => this.#names(one.templateID).includes(name));
    if (!template) throw new CoppiceError('template_not_found', `template '${name}' not found`);
    return template;
  }

  #names(templateID: string): string[] {
    const template = this.#options.templates.find((one) => one.templateID === templateID);
    if (!template) return [templateID];
    return [templateID, `${templateID}:default`, ...template.aliases.flatMap((alias) => [alias, `${alias}:default`])];
  }

  #owned(teamID: string, sandboxID: string): MachineRow {
    const row = this.#rows.get(sandboxID);
    if (!row?.owner || row.owner.teamID !== teamID || row.state !== 'running' || !this.#sandboxes.has(sandboxID)) {
      throw new CoppiceError(
        'sandbox_not_found',
        `Sandbox "${sandboxID}" doesn't exist or you don't have access to it`,
      );
    }
    return row;
  }

  #moveDeadline(id: string, timeoutSeconds: number, longerOnly: boolean): void {
    const wanted = Date.now() + Math.min(timeoutSeconds * 1000, LONGEST_LIFE_MS);
    const endAtMs = this.#rows.setEnd(id, wanted, longerOnly);
    if (endAtMs !== undefined) this.#deadlines.set(id, endAtMs);
  }

  #view(row: MachineRow): SandboxView {
    return this.#viewOf(row.id, row.templateID, row.generation, row.owner!);
  }

  #viewOf(id: string, templateID: string, generation: string, owner: Owner): SandboxView {
    const template = this.#options.templates.find((one) => one.templateID === templateID);
    const shape = template?.shape ?? { cpuCount: 1, memoryMB: 0, diskSizeMB: 0 };
    return {
      sandboxID: id,
      teamID: owner.teamID,
      templateID,
      ...(template?.aliases[0] ? { alias: template.aliases[0] } : {}),
      state: 'running',
      startedAtMs: owner.startedAtMs,
      endAtMs: owner.endAtMs,
      ...shape,
      envdVersion: ENVD_VERSION,
      ...(owner.secure ? { envdAccessToken: accessToken(this.#options.seed, id) } : {}),
      metadata: owner.metadata,
      ...(owner.allowInternet === undefined ? {} : { allowInternetAccess: owner.allowInternet }),
      generation,
    };
  }
}

/** A machine for one create: `cold` ones were grown for it, with its environment, and have answered already. */
interface Acquired {
  readonly member: Member;
  readonly path: 'hot' | 'cold';
}

/** What every process of a sandbox finds in its environment; the caller's wishes win. */
function environment(
  template: ReadyTemplate,
  sandboxID: string,
  wishes: Readonly<Record<string, string>>,
): Record<string, string> {
  return {
    ...template.env,
    E2B_SANDBOX: 'true',
    E2B_SANDBOX_ID: sandboxID,
    E2B_TEMPLATE_ID: template.templateID,
    ...wishes,
  };
}

type Position = { readonly startedAtMs: number; readonly sandboxID: string };

function positionOf(row: MachineRow): Position {
  return { startedAtMs: row.owner!.startedAtMs, sandboxID: row.id };
}

function comparePosition(a: Position, b: Position): number {
  if (a.startedAtMs !== b.startedAtMs) return a.startedAtMs - b.startedAtMs;
  return a.sandboxID < b.sandboxID ? -1 : a.sandboxID > b.sandboxID ? 1 : 0;
}
