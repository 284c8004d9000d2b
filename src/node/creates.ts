/** Creating a sandbox: an entry of the hot tier, or a machine grown for this one, claimed and handed over. */
import { CoppiceError, isCoppiceError } from '../contract/errors.ts';
import type { CreateSandboxRequest, CreateSandboxResult, SandboxView } from '../contract/node-api.ts';
import type { Backends } from '../isolation/backends.ts';
import type { Log } from '../telemetry/log.ts';
import { type HeldTemplate, noAccess } from './built-templates.ts';
import type { Fleet } from './fleet.ts';
import type { HotTier } from './hot-tier.ts';
import type { KnownTemplates } from './known-templates.ts';
import { runHooks } from './lifecycle-hooks.ts';
import type { Member } from './member.ts';
import { environment, type GrowthWish, type ReadyTemplate } from './nursery.ts';
import type { Policies } from './policies.ts';
import type { Pool } from './pool.ts';
import { ReceiptClock } from './receipt.ts';
import type { Owner, Rows } from './rows.ts';
import type { Snapshots } from './snapshots.ts';
import type { Views } from './views.ts';
import type { VolumeService } from './volume-service.ts';
import type { Mounted, Volumes } from './volumes.ts';

export interface CreatesOptions {
  readonly backends: Backends;
  readonly policies: Policies;
  readonly rows: Rows;
  readonly fleet: Fleet;
  readonly hot: HotTier;
  readonly templates: KnownTemplates;
  readonly snapshots: Snapshots;
  readonly views: Views;
  readonly volumes: Volumes;
  readonly volumeService: VolumeService;
  /** Aborts when the node stops. */
  readonly stopping: AbortSignal;
  readonly log: Log;
}

/** The guest's answer at hand-out: generous, since a loaded host wakes an emulated guest late; then the next entry is tried. */
const HANDOVER_DEADLINE_MS = 5_000;
/** A parked clock drifts by some millionths; after this long it is compared again at the claim. */
const CLOCK_DRIFTS_MS = 10 * 60_000;
/** Entries that may fail at hand-out before a create gives up. */
const HANDOVER_TRIES = 3;

export class Creates {
  readonly #options: CreatesOptions;

  constructor(options: CreatesOptions) {
    this.#options = options;
  }

  async create(request: CreateSandboxRequest, signal?: AbortSignal): Promise<CreateSandboxResult> {
    const clock = new ReceiptClock('create');
    if (this.#options.stopping.aborted) throw new CoppiceError('unavailable', 'the node is stopping');
    const { template, pool, release } = await this.#hold(request);
    try {
      this.#demandAble(request, template);
      return await this.#create({ template, pool, parentID: template.buildID }, request, clock, signal);
    } finally {
      release();
    }
  }

  /** A sandbox of `source.checkpoint`, which the caller keeps there meanwhile, that is told to be of `source`. */
  async createOf(
    source: ReadyTemplate,
    parentID: string,
    request: CreateSandboxRequest,
    signal?: AbortSignal,
  ): Promise<CreateSandboxResult> {
    return this.#create({ template: source, pool: undefined, parentID }, request, new ReceiptClock('create'), signal);
  }

  async #create(
    source: Source,
    request: CreateSandboxRequest,
    clock: ReceiptClock,
    signal?: AbortSignal,
  ): Promise<CreateSandboxResult> {
    const { policies, volumes } = this.#options;
    policies.demandAble(request.network);
    const { mounted, release } = volumes.hold(request.teamID, request.volumeMounts ?? []);
    try {
      return await this.#tryEach(source, request, mounted, clock, signal);
    } finally {
      release();
    }
  }

  async #tryEach(
    source: Source,
    request: CreateSandboxRequest,
    mounted: readonly Mounted[],
    clock: ReceiptClock,
    signal?: AbortSignal,
  ): Promise<CreateSandboxResult> {
    const { fleet, log } = this.#options;
    const { template } = source;
    for (let attempt = 1; ; attempt++) {
      const acquired = await this.#acquire(source, request, mounted, clock, signal);
      const { member } = acquired;
      try {
        const sandbox = await this.#handOver(acquired, source, request, mounted, clock, signal);
        const receipt = clock.finish();
        // After the answer: nobody waits for a line in a log.
        setImmediate(() => {
          log.info({ sandboxID: member.id, template: template.aliases[0], receipt }, 'sandbox created');
        });
        return { sandbox, receipt };
      } catch (error) {
        await fleet.bury(member, 'hand-over failed');
        if (signal?.aborted) throw new CoppiceError('aborted', 'the client gave up', { cause: error });
        if (isCoppiceError(error) && error.code !== 'guest_unresponsive') throw error;
        log.warn({ error, sandboxID: member.id, attempt }, 'a machine failed at hand-over');
        if (attempt === HANDOVER_TRIES) {
          throw new CoppiceError('guest_unresponsive', 'no machine answered at hand-over', { cause: error });
        }
      }
    }
  }

  /** What is asked for, kept until it is released: a snapshot that is deleted meanwhile keeps its files until then. */
  async #hold(
    request: CreateSandboxRequest,
  ): Promise<{ template: ReadyTemplate; pool: Pool<Member> | undefined; release: () => void }> {
    const { templates, snapshots, hot } = this.#options;
    const { teamID, template: name, isolation } = request;
    const named = templates.find(name);
    if (named) {
      const template = templates.inKind(named, isolation);
      const pool = hot.poolOf(template);
      return { template, pool, release: pool?.hold() ?? (() => {}) };
    }
    const own = await templates.hold(teamID, name, 'own');
    const held =
      (own !== 'foreign' && own) || (await snapshots.hold(teamID, name)) || (await this.#holdPublic(teamID, name));
    if (isolation === undefined || held.template.isolation === isolation) {
      const pool = hot.poolOf(held.template);
      const release = pool?.hold();
      return {
        template: held.template,
        pool,
        release: () => {
          held.release();
          release?.();
        },
      };
    }
    held.release();
    throw new CoppiceError(
      'bad_request',
      `'${name}' is of a ${held.template.isolation} and cannot run as a ${isolation}`,
    );
  }

  async #holdPublic(teamID: string, name: string): Promise<HeldTemplate> {
    const found = await this.#options.templates.hold(teamID, name, 'public');
    if (found === 'foreign') throw noAccess(name);
    if (!found) throw new CoppiceError('template_not_found', `template '${name}' not found`);
    return found;
  }

  #demandAble(request: CreateSandboxRequest, { isolation }: ReadyTemplate): void {
    const { backends, volumeService } = this.#options;
    const { memoryCheckpoint, diskSnapshot, lastingPark } = backends.of(isolation).capabilities;
    if ((request.volumeMounts ?? []).length > 0) volumeService.demandAble(isolation);
    if (request.onTimeout !== 'pause') return;
    if (request.pauseMemory === false ? diskSnapshot : memoryCheckpoint || lastingPark) return;
    throw new CoppiceError(
      'unsupported_policy',
      `autoPause is not supported for ${isolation} sandboxes: their pause is not implemented yet`,
    );
  }

  async #acquire(
    { template, pool, parentID }: Source,
    request: CreateSandboxRequest,
    mounted: readonly Mounted[],
    clock: ReceiptClock,
    signal?: AbortSignal,
  ): Promise<Acquired> {
    const { hot, fleet, volumes, volumeService, stopping } = this.#options;
    const later = volumeService.serves(template.isolation);
    // What waits was born without them.
    const entry = mounted.length === 0 || later ? pool?.take() : undefined;
    clock.path(entry ? 'hot' : 'cold');
    if (entry) return { member: entry, path: 'hot' };
    while (!fleet.fits(template)) {
      if (!(await hot.shedOne(pool))) break;
    }
    const wish: GrowthWish = {
      signal: signal ? AbortSignal.any([signal, stopping]) : stopping,
      allowInternet: request.network.allowInternetAccess !== false,
      volumes: later ? [] : volumes.machineVolumes(mounted),
      env: (id) => environment(template, id, request.envVars),
      forPool: false,
      stage: (name) => clock.stage(name),
      onShell: () => clock.path('shell'),
    };
    return { member: await fleet.grow(template, wish, parentID), path: 'cold' };
  }

  async #handOver(
    { member, path }: Acquired,
    { template, pool }: Source,
    request: CreateSandboxRequest,
    mounted: readonly Mounted[],
    clock: ReceiptClock,
    signal?: AbortSignal,
  ): Promise<SandboxView> {
    const { rows, fleet, views, volumeService } = this.#options;
    const now = Date.now();
    const owner: Owner = {
      teamID: request.teamID,
      secure: request.secure,
      metadata: request.metadata,
      env: request.envVars,
      allowInternet: request.network.allowInternetAccess,
      publicTraffic: request.network.publicTraffic ?? true,
      maskRequestHost: request.network.maskRequestHost,
      volumes: mounted,
      startedAtMs: now,
      endAtMs: now + request.timeoutSeconds * 1000,
      onTimeout: request.onTimeout ?? 'kill',
      pauseMemory: request.pauseMemory ?? true,
      autoResume: request.autoResume ?? false,
      timeoutMs: request.timeoutSeconds * 1000,
    };
    if (!rows.claim(member.id, owner)) throw new CoppiceError('guest_unresponsive', 'the entry was gone at its claim');
    clock.stage('claim');
    await this.#options.policies.settle(member, owner);
    clock.stage('policy');
    const { maskRequestHost } = owner;
    const env = environment(template, member.id, owner.env);
    member.assign({ env, maskRequestHost, ...views.tokensOf(member.id, owner) });
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
    if (mounted.length > 0 && volumeService.serves(template.isolation)) {
      await volumeService.mount(member, mounted, signal);
      clock.stage('volumes');
    }
    await this.#tellPrograms(member, template, signal);
    if (!rows.move(member.id, 'creating', 'running'))
      throw new CoppiceError('guest_unresponsive', 'the sandbox was ended while it was made');
    // Snapshots come and go, and nobody is told how often one was used.
    if (pool && template.buildID === template.baseID) rows.countSpawn(template.templateID);
    fleet.handOut(member, owner.endAtMs);
    clock.stage('commit');
    const { id, generation } = member;
    return views.of({ id, templateID: template.templateID, generation, state: 'running', owner }, template);
  }

  /** Programs that were running in a snapshot learn that they are somebody else's, and may fix what only they know of. */
  async #tellPrograms(member: Member, template: ReadyTemplate, signal?: AbortSignal): Promise<void> {
    if (template.checkpoint.manifest.memory !== 'own') return;
    const agent = await member.agent();
    for (const event of ['after-resume', 'hand-out'] as const) await runHooks(agent, event, this.#options.log, signal);
  }
}

/** What a create is made of. `pool`: where such machines wait, if anywhere. `parentID`: as in MachineRow. */
interface Source {
  readonly template: ReadyTemplate;
  readonly pool: Pool<Member> | undefined;
  readonly parentID: string;
}

/** A machine for one create: `cold` ones were grown for it, with its environment, and have answered already. */
interface Acquired {
  readonly member: Member;
  readonly path: 'hot' | 'cold';
}
