/** Creating a sandbox: an entry of the hot tier, or a machine grown for this one, claimed and handed over. */
import { CoppiceError, isCoppiceError } from '../contract/errors.ts';
import type { CreateSandboxRequest, CreateSandboxResult, SandboxView } from '../contract/node-api.ts';
import type { Backends } from '../isolation/backends.ts';
import type { NetworkFabric } from '../network/fabric.ts';
import type { Log } from '../telemetry/log.ts';
import type { Fleet } from './fleet.ts';
import type { HotTier } from './hot-tier.ts';
import type { KnownTemplates } from './known-templates.ts';
import type { Member } from './member.ts';
import { environment, type ReadyTemplate } from './nursery.ts';
import { ReceiptClock } from './receipt.ts';
import type { Owner, Rows } from './rows.ts';
import type { Snapshots } from './snapshots.ts';
import type { Views } from './views.ts';

export interface CreatesOptions {
  readonly backends: Backends;
  readonly fabric: NetworkFabric;
  readonly rows: Rows;
  readonly fleet: Fleet;
  readonly hot: HotTier;
  readonly templates: KnownTemplates;
  readonly snapshots: Snapshots;
  readonly views: Views;
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
    const { fabric, fleet, stopping, log } = this.#options;
    const clock = new ReceiptClock('create');
    if (stopping.aborted) throw new CoppiceError('unavailable', 'the node is stopping');
    const { template, release } = await this.#hold(request);
    try {
      this.#demandAble(request, template);
      if (request.network.allowInternetAccess === true && !fabric.enforcing) {
        throw new CoppiceError('unsupported_policy', 'allow_internet_access: guests have no network on this host');
      }
      for (let attempt = 1; ; attempt++) {
        const acquired = await this.#acquire(template, request, clock, signal);
        const { member } = acquired;
        try {
          const sandbox = await this.#handOver(acquired, template, request, clock, signal);
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
    } finally {
      release();
    }
  }

  /** What is asked for, kept until it is released: a snapshot that is deleted meanwhile keeps its files until then. */
  async #hold(request: CreateSandboxRequest): Promise<{ template: ReadyTemplate; release: () => void }> {
    const { templates, snapshots, hot } = this.#options;
    const { teamID, template: name, isolation } = request;
    const named = templates.find(name);
    if (named) {
      const template = templates.inKind(named, isolation);
      return { template, release: hot.of(template.templateID)?.hold() ?? (() => {}) };
    }
    const held = await snapshots.hold(teamID, name);
    if (!held) throw new CoppiceError('template_not_found', `template '${name}' not found`);
    if (isolation === undefined || held.template.isolation === isolation) return held;
    held.release();
    throw new CoppiceError(
      'bad_request',
      `snapshot '${name}' is of a ${held.template.isolation} and cannot run as a ${isolation}`,
    );
  }

  #demandAble(request: CreateSandboxRequest, { isolation }: ReadyTemplate): void {
    if (request.onTimeout !== 'pause' || this.#options.backends.of(isolation).capabilities.pause) return;
    throw new CoppiceError(
      'unsupported_policy',
      `autoPause is not supported for ${isolation} sandboxes: their pause is not implemented yet`,
    );
  }

  async #acquire(
    template: ReadyTemplate,
    request: CreateSandboxRequest,
    clock: ReceiptClock,
    signal?: AbortSignal,
  ): Promise<Acquired> {
    const { hot, fleet, stopping } = this.#options;
    const pool = hot.of(template.templateID);
    const entry = pool?.take();
    clock.path(entry ? 'hot' : 'cold');
    if (entry) return { member: entry, path: 'hot' };
    while (!fleet.fits(template)) {
      if (!(await hot.shedOne(pool))) break;
    }
    const member = await fleet.grow(template, {
      signal: signal ? AbortSignal.any([signal, stopping]) : stopping,
      allowInternet: request.network.allowInternetAccess !== false,
      env: (id) => environment(template, id, request.envVars),
      forPool: false,
      stage: (name) => clock.stage(name),
    });
    return { member, path: 'cold' };
  }

  async #handOver(
    { member, path }: Acquired,
    template: ReadyTemplate,
    request: CreateSandboxRequest,
    clock: ReceiptClock,
    signal?: AbortSignal,
  ): Promise<SandboxView> {
    const { rows, fleet, hot, views } = this.#options;
    const now = Date.now();
    const owner: Owner = {
      teamID: request.teamID,
      secure: request.secure,
      metadata: request.metadata,
      env: request.envVars,
      allowInternet: request.network.allowInternetAccess,
      startedAtMs: now,
      endAtMs: now + request.timeoutSeconds * 1000,
      onTimeout: request.onTimeout ?? 'kill',
    };
    if (!rows.claim(member.id, owner)) throw new CoppiceError('guest_unresponsive', 'the entry was gone at its claim');
    clock.stage('claim');
    await this.#allowInternet(member, request.network.allowInternetAccess !== false);
    clock.stage('policy');
    member.assign({ env: environment(template, member.id, owner.env), ...views.tokenOf(member.id, owner) });
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
    if (!rows.move(member.id, 'creating', 'running'))
      throw new CoppiceError('guest_unresponsive', 'the sandbox was ended while it was made');
    // Snapshots come and go, and nobody is told how often one was used.
    if (hot.of(template.templateID)) rows.countSpawn(template.templateID);
    fleet.handOut(member, owner.endAtMs);
    clock.stage('commit');
    const { id, generation } = member;
    return views.of({ id, templateID: template.templateID, generation, state: 'running', owner }, template);
  }

  /** One transaction when the policy differs from what stands; none on the usual claim. */
  async #allowInternet(member: Member, allowInternet: boolean): Promise<void> {
    if (!member.attachment || member.internet === allowInternet) return;
    await this.#options.fabric.setPolicy(member.id, { allowInternet });
    member.internet = allowInternet;
  }
}

/** A machine for one create: `cold` ones were grown for it, with its environment, and have answered already. */
interface Acquired {
  readonly member: Member;
  readonly path: 'hot' | 'cold';
}
