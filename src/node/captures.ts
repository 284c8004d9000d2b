/** Captures machines: what has to be done in the guest before and after, and on which golden checkpoint the result lies. */
import type { HookEvent } from '../channel/protocol.ts';
import { CoppiceError } from '../contract/errors.ts';
import type { Capture, IsolationBackend, Machine } from '../isolation/backend.ts';
import type { Backends } from '../isolation/backends.ts';
import type { Log } from '../telemetry/log.ts';
import type { KnownTemplates } from './known-templates.ts';
import { runHooks } from './lifecycle-hooks.ts';
import type { Member } from './member.ts';
import type { ReadyTemplate } from './nursery.ts';
import type { MachineRow } from './rows.ts';

export interface CapturesOptions {
  readonly backends: Backends;
  readonly templates: KnownTemplates;
  readonly log: Log;
}

export interface CaptureWish {
  readonly memory: boolean;
  readonly goesOn: boolean;
  /** It runs, and can be asked. */
  readonly member?: Member;
  readonly signal?: AbortSignal;
}

/** For a guest to write out what it holds of its disk; what has not been written by then is not in the capture. */
const SYNC_MS = 5_000;
/** The guest's clock is set after a capture if it answers by then. */
const CLOCK_MS = 2_000;

export class Captures {
  readonly #options: CapturesOptions;

  constructor(options: CapturesOptions) {
    this.#options = options;
  }

  /** Publishes a checkpoint at `out`. Nobody parks or wakes the machine meanwhile. Throws as IsolationBackend.capture. */
  async capture(row: MachineRow, machine: Machine, out: string, wish: CaptureWish): Promise<Capture> {
    const { memory, goesOn, member, signal } = wish;
    const backend = this.backendOf(row);
    if (!backend.capture) throw new CoppiceError('not_implemented', `${backend.kind}s cannot be captured`);
    const base = await this.#options.templates.base(row.baseID);
    const { ownKernel, agentOnDemand } = backend.capabilities;
    // An agent on demand is not started for it.
    const told = member !== undefined && !agentOnDemand;
    // Of a sandbox that goes on, what its kernel has yet to write is in its memory, at the same instant; of one that does not,
    // the disk may come to stand alone.
    const synced = ownKernel && !(memory && goesOn);
    const guestReady = (async () => {
      if (told) await this.#tell(member, 'before-pause');
      if (synced && member) await this.#sync(member, signal);
    })();
    let woken: Promise<void> | undefined;
    const onGoesOn = (): void => {
      woken ??= (async () => {
        if (ownKernel && member) await this.#setClock(member);
        if (told) await this.#tell(member, 'after-resume');
      })();
    };
    const { image, shape, checkpoint } = base;
    try {
      const request = { image, shape, base: checkpoint, memory, goesOn, guestReady, onGoesOn };
      return await backend.capture(machine, request, out, signal);
    } finally {
      await guestReady;
      // Where it failed before the machine was stopped, or without a word of it, too.
      if (goesOn) onGoesOn();
      await woken;
    }
  }

  /**
   * The template that a checkpoint of this sandbox, or its disk alone, makes machines of. Throws as
   * IsolationBackend.openCheckpoint.
   */
  async open(row: MachineRow, folder: string, use: 'whole' | 'disk'): Promise<ReadyTemplate> {
    const base = await this.#options.templates.base(row.baseID);
    const checkpoint = await this.backendOf(base).openCheckpoint(folder, { base: base.checkpoint, use });
    return { ...base, checkpoint };
  }

  /** host_unfit: it does not work on this host. */
  backendOf(of: MachineRow | ReadyTemplate): IsolationBackend {
    const { backends, templates } = this.#options;
    if ('isolation' in of) return backends.of(of.isolation);
    const isolation = templates.of(of)?.isolation;
    const backend = backends.all.find(({ name, kind }) => name === of.record?.backend || kind === isolation);
    if (backend) return backend;
    throw new CoppiceError('host_unfit', `the backend of sandbox ${of.id} does not work on this host`);
  }

  async #tell(member: Member, event: HookEvent): Promise<void> {
    const { log } = this.#options;
    await member
      .agent()
      .then((agent) => runHooks(agent, event, log))
      .catch((error: unknown) => log.warn({ error, sandboxID: member.id, event }, 'a guest could not be told'));
  }

  async #sync(member: Member, signal?: AbortSignal): Promise<void> {
    const { log } = this.#options;
    const asked = { timeoutMs: SYNC_MS, ...(signal ? { signal } : {}) };
    const synced = await member
      .agent()
      .then((agent) => agent.sync(asked))
      .catch((error: unknown) => {
        log.warn({ error, sandboxID: member.id }, 'a guest was not asked to write out its disk');
        return false;
      });
    if (!synced) log.warn({ sandboxID: member.id }, 'a guest had not written out its disk when it was captured');
  }

  /** It stood still with the machine. */
  async #setClock(member: Member): Promise<void> {
    try {
      const agent = await member.agent();
      await agent.identity({ clockMs: Date.now() }, AbortSignal.timeout(CLOCK_MS));
    } catch (error) {
      this.#options.log.warn({ error, sandboxID: member.id }, 'the clock of a captured sandbox was not set');
    }
  }
}
