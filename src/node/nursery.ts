/**
 * Grows machines from golden checkpoints and makes each one itself: address, clock, entropy, names, generation. What
 * leaves here is safe to hand to anybody; nothing in it is shared with its siblings but read-only pages.
 */
import { randomUUID } from 'node:crypto';
import { mkdir } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import type { AgentClient } from '../channel/agent.ts';
import type { Identity } from '../channel/protocol.ts';
import { CoppiceError } from '../contract/errors.ts';
import { prestartInterpreter, reseedInterpreters } from '../envd/interpreter/index.ts';
import type {
  Checkpoint,
  Isolation,
  Machine,
  MachineImage,
  MachineShape,
  MachineSpec,
  MachineVolume,
} from '../isolation/backend.ts';
import type { Backends } from '../isolation/backends.ts';
import type { Attachment, NetworkFabric } from '../network/fabric.ts';
import type { Log } from '../telemetry/log.ts';
import { type Berth, Berths, type Place } from './berths.ts';
import { machineIDOf, newEntropy, newSandboxID } from './identifiers.ts';
import type { KeptSandboxes } from './kept.ts';
import { Member } from './member.ts';
import { notFound } from './ownership.ts';
import type { Rows } from './rows.ts';
import { DEFAULT_RUNTIME, type Runtime } from './runtime.ts';
import { Semaphore } from './semaphore.ts';
import { startProgram } from './start-program.ts';
import { rehearseCommand } from './warm-up.ts';

/** What is known of the template or snapshot that a machine was made from, for as long as the machine is there. */
export interface Template {
  readonly templateID: string;
  readonly buildID: string;
  /** Build of the golden checkpoint that it goes back to: of a template its own. */
  readonly baseID: string;
  /** The one of its builds that is meant when none is named: `default`. */
  readonly tag: string;
  readonly aliases: readonly string[];
  readonly isolation: Isolation;
  /** Templates of one family have the same root filesystem and differ in isolation alone. */
  readonly family: string;
  readonly shape: MachineShape;
  readonly languages: readonly string[];
  /** Environment that every process of its sandboxes gets. */
  readonly env: Readonly<Record<string, string>>;
  readonly image: MachineImage;
  readonly createdAtMs: number;
  /** Who built it, and whether others may make sandboxes of it; absent: it comes with Coppice. */
  readonly owner?: { readonly teamID: string; readonly public: boolean };
  /** Default: that of the templates that come with Coppice. */
  readonly runtime?: Runtime;
  /** True: part of its disk is in its golden checkpoint alone, so that nothing is built upon its root filesystem. */
  readonly inPlace?: boolean;
}

/** One that sandboxes can be made from now. */
export interface ReadyTemplate extends Template {
  readonly checkpoint: Checkpoint;
}

export interface GrowthWish {
  readonly signal: AbortSignal;
  /** What the fabric lets it do once it is grown. */
  readonly allowInternet: boolean;
  /** Default none. */
  readonly volumes?: readonly MachineVolume[];
  /** Environment of its processes, given its id. */
  readonly env: (sandboxID: string) => Readonly<Record<string, string>>;
  /** Nobody waits for it: whatever its first use would begin is begun now. */
  readonly forPool: boolean;
  /** Called as each stage ends. */
  readonly stage?: (name: string) => void;
  /** Called when what was made ahead is used. */
  readonly onShell?: () => void;
}

export interface NurseryOptions {
  readonly backends: Backends;
  readonly fabric: NetworkFabric;
  readonly rows: Rows;
  readonly machinesFolder: string;
  readonly kept: KeptSandboxes;
  /** undefined when this process is not root and cannot give machines users of their own. */
  readonly uids: UidRanges | undefined;
  /** What machine ids are derived from. */
  readonly seed: Buffer;
  /** Places for machines made ahead of demand; undefined: none are. */
  readonly ahead: { readonly most: number; readonly room: (place: Place) => boolean } | undefined;
  readonly log: Log;
}

/** Where a machine can be made. */
export interface LentPlace {
  readonly id: string;
  readonly folder: string;
  readonly uid?: number;
  readonly attachment: Attachment | undefined;
}

/** The host's uids that machines take, by kind: as many machines as `slots`, each with its backend's `uidsEach`. */
export type UidRanges = Readonly<Record<Isolation, { readonly first: number; readonly slots: number }>>;

/** More at once than processors only makes each of them slower. */
const GROWTHS_AT_ONCE = Math.max(2, availableParallelism());
/** For a turn: a hundred may be wanted at once. */
const TURN_DEADLINE_MS = 600_000;
/** Whole growth: restore, first answer, identity. Wide: emulated guests under load are slow. */
const GROWTH_DEADLINE_MS = 120_000;
/** How long a restored sandbox's interpreters are waited for: one that is running its owner's code answers later. */
const BUSY_MS = 250;

export class Nursery {
  readonly #options: NurseryOptions;
  readonly #uids: Set<number>;
  readonly #turns = new Semaphore(GROWTHS_AT_ONCE);
  readonly #berths: Berths | undefined;

  constructor(options: NurseryOptions) {
    const { rows, ahead, log } = options;
    this.#options = options;
    this.#uids = rows.usedUids();
    if (!ahead) return;
    this.#berths = new Berths({
      make: (place, signal) => this.#makeBerth(place, true, signal),
      drop: async ({ id, uid, shell }) => {
        rows.intendKill(id);
        await shell?.destroy();
        await this.bury(id, undefined, uid);
      },
      ...ahead,
      log,
    });
  }

  /** Places that wait. */
  get ahead(): number {
    return this.#berths?.size ?? 0;
  }

  /**
   * A running machine that is itself and has answered, not yet anybody's. `parentID` as in MachineRow. On failure everything
   * of it is undone.
   */
  async grow(template: ReadyTemplate, wish: GrowthWish, parentID: string = template.buildID): Promise<Member> {
    return this.#inTurn(wish, async (bounded) => {
      const grow = (berth: Berth) => this.#growIn(berth, template, wish, parentID, bounded);
      const waiting = this.#berthFor(template, wish);
      if (waiting?.shell) {
        try {
          const member = await grow(waiting);
          wish.onShell?.();
          return member;
        } catch (error) {
          if (bounded.aborted) throw error;
          // Its VMM may have ended just before: whoever waits is not told of that.
          this.#options.log.warn({ error, sandboxID: waiting.id }, 'a shell could not be used; a machine is made anew');
        }
      } else if (waiting) return grow(waiting);
      return grow(await this.#makeBerth({ kind: template.isolation }, wish.allowInternet, bounded));
    });
  }

  async #growIn(
    berth: Berth,
    template: ReadyTemplate,
    wish: GrowthWish,
    parentID: string,
    bounded: AbortSignal,
  ): Promise<Member> {
    const { id, uid } = berth;
    try {
      this.#options.rows.assign(id, template, parentID);
      return await this.#raise(berth, template, wish, bounded);
    } catch (error) {
      this.#options.rows.intendKill(id);
      await this.bury(id, undefined, uid);
      throw error;
    }
  }

  /**
   * The machine of a sandbox that is resuming, grown anew from `template.checkpoint`, of a new generation. On failure
   * everything of it is undone but its row.
   */
  async regrow(id: string, template: ReadyTemplate, wish: GrowthWish): Promise<Member> {
    const { rows } = this.#options;
    return this.#inTurn(wish, async (bounded) => {
      const { uidsEach } = this.#options.backends.of(template.isolation).capabilities;
      const uid = this.#takeUid(template.isolation, uidsEach);
      const generation = randomUUID();
      try {
        if (!rows.refit(id, { uid, generation })) throw notFound(id);
        const attachment = await this.#settleIn(id, { kind: template.isolation }, uid, wish.allowInternet);
        return await this.#raise({ id, uid, generation, attachment }, template, wish, bounded, true);
      } catch (error) {
        await this.unmake(id, undefined, uid);
        throw error;
      }
    });
  }

  async #inTurn<T>(wish: GrowthWish, work: (bounded: AbortSignal) => Promise<T>): Promise<T> {
    const queued = AbortSignal.timeout(TURN_DEADLINE_MS);
    const done = await this.#turns.take(AbortSignal.any([wish.signal, queued]));
    const deadline = AbortSignal.timeout(GROWTH_DEADLINE_MS);
    try {
      return await work(AbortSignal.any([wish.signal, deadline]));
    } catch (error) {
      if (!deadline.aborted || wish.signal.aborted) throw error;
      throw new CoppiceError('guest_unresponsive', 'a machine did not come up in time', { cause: error });
    } finally {
      done();
    }
  }

  /** A place that waits, with a shell where the checkpoint's base has them. */
  #berthFor(template: ReadyTemplate, wish: GrowthWish): Berth | undefined {
    // Made with its grant: not for a machine that never has it.
    if (!this.#berths || !wish.allowInternet) return undefined;
    const base = this.#shellBase(template);
    return this.#berths.take(base ? { kind: template.isolation, base } : { kind: template.isolation });
  }

  /** The template whose shells can become this one. */
  #shellBase(template: ReadyTemplate): ReadyTemplate | undefined {
    const { checkpoint, isolation } = template;
    if (!this.#options.backends.of(isolation).prepare || checkpoint.manifest.memory === 'none') return undefined;
    return { ...template, buildID: template.baseID, checkpoint: checkpoint.base ?? checkpoint };
  }

  /** `again`: the machine of a sandbox that was there before. Whoever calls undoes what a failure leaves. */
  async #raise(
    berth: Berth,
    template: ReadyTemplate,
    wish: GrowthWish,
    bounded: AbortSignal,
    again = false,
  ): Promise<Member> {
    const { stage = () => {} } = wish;
    const { backends, rows, seed, log } = this.#options;
    const { id, generation, attachment, shell } = berth;
    const backend = backends.of(template.isolation);
    const { bornItself, agentOnDemand } = backend.capabilities;
    const { checkpoint, image } = template;
    const { memory } = checkpoint.manifest;
    const { runtime = DEFAULT_RUNTIME } = template;
    const machineID = machineIDOf(seed, id);
    stage('attach');
    const machine = shell
      ? await shell.restore(checkpoint, bounded)
      : await backend.clone(checkpoint, image, this.#specOf(berth, template, machineID, wish.volumes), bounded);
    rows.setRecord(id, machine.record);
    stage('restore');
    const member = new Member({
      id,
      templateID: template.templateID,
      generation,
      memoryMB: template.shape.memoryMB,
      languages: template.languages,
      env: wish.env(id),
      machine,
      agentOnDemand,
      attachment,
      runtime,
      log,
    });
    try {
      // A checkpoint with memory holds it, running.
      const starts = memory === 'none' ? runtime.start : undefined;
      if (!agentOnDemand || wish.forPool || starts) {
        const agent = await member.begin(bounded, { memory, bornItself });
        stage('session');
        if (bornItself) {
          if (wish.forPool) await rehearseCommand(agent, runtime, bounded);
          for (const language of template.languages)
            await prestartInterpreter(agent, language, { log, signal: bounded });
        } else {
          await becomeItself(agent, {
            member,
            template,
            machineID,
            again: again && memory === 'own',
            log,
            signal: bounded,
          });
        }
        stage('identity');
        if (starts) {
          await startProgram(agent, starts, { signal: bounded });
          stage('start');
        }
      }
    } catch (error) {
      member.end('its growth failed');
      await machine.destroy();
      throw error;
    }
    member.internet = attachment !== undefined && wish.allowInternet;
    return member;
  }

  #specOf(
    { id, uid, attachment }: Berth,
    template: Template,
    machineID: string,
    volumes: readonly MachineVolume[] = [],
  ): MachineSpec {
    return {
      id,
      folder: join(this.#options.machinesFolder, id),
      shape: template.shape,
      names: { hostname: id, machineID, ...(attachment ? { address: attachment.address } : {}) },
      ...(attachment ? { network: attachment } : {}),
      ...(uid === undefined ? {} : { uid }),
      ...(volumes.length === 0 ? {} : { volumes }),
    };
  }

  async trim(): Promise<void> {
    await this.#berths?.trim();
  }

  /** No more is made ahead; what was is undone. */
  async close(): Promise<void> {
    await this.#berths?.close();
  }

  /** For tests of a crash. */
  abandon(): void {
    this.#berths?.abandon();
  }

  /** The row first, then what it announces. On failure nothing is left. */
  async #makeBerth(place: Place, allowInternet: boolean, signal: AbortSignal): Promise<Berth> {
    const { backends, rows, seed } = this.#options;
    const { kind, base } = place;
    const backend = backends.of(kind);
    const id = newSandboxID();
    const generation = randomUUID();
    const uid = this.#takeUid(kind, backend.capabilities.uidsEach);
    try {
      rows.prepare({ id, uid, generation });
      const attachment = await this.#settleIn(id, place, uid, allowInternet);
      const berth: Berth = { id, uid, generation, attachment };
      if (!base || !backend.prepare) return berth;
      // Of the base that its machine will lie on: a build in use is not removed.
      rows.assign(id, base, base.buildID);
      const spec = this.#specOf(berth, base, machineIDOf(seed, id));
      const shell = await backend.prepare(base.checkpoint, base.image, spec, signal);
      rows.setRecord(id, shell.record);
      return { ...berth, shell };
    } catch (error) {
      rows.intendKill(id);
      await this.bury(id, undefined, uid);
      throw error;
    }
  }

  /** The folder and the port of a machine that is to come. */
  async #settleIn(
    id: string,
    { kind }: Place,
    uid: number | undefined,
    allowInternet: boolean,
  ): Promise<Attachment | undefined> {
    const { backends, fabric, machinesFolder } = this.#options;
    await mkdir(join(machinesFolder, id), { mode: 0o700 });
    if (!fabric.enforcing) return undefined;
    const { port } = backends.of(kind).capabilities;
    // With its grant already: what runs in it until its hand-out is the template's own, or nothing.
    return fabric.attach(id, { kind: port, ...(uid === undefined ? {} : { uid }), policy: { allowInternet } });
  }

  /**
   * A row, users, a folder and a port for a machine that is nobody's sandbox, for as long as `work` takes; whatever it leaves
   * of the machine is undone.
   */
  async lend<T>(kind: Isolation, signal: AbortSignal, work: (place: LentPlace) => Promise<T>): Promise<T> {
    const { id, uid, attachment } = await this.#makeBerth({ kind }, true, signal);
    try {
      return await work({
        id,
        folder: join(this.#options.machinesFolder, id),
        ...(uid === undefined ? {} : { uid }),
        attachment,
      });
    } finally {
      this.#options.rows.intendKill(id);
      await this.bury(id, undefined, uid);
    }
  }

  /** Undoes everything of a machine, its row last; needs nothing of the guest, and nothing but the id to work. Idempotent. */
  async bury(id: string, machine: Machine | undefined, uid: number | undefined): Promise<void> {
    const { kept, rows } = this.#options;
    await this.#undo(id, machine);
    await kept.tidy(id, undefined);
    rows.remove(id);
    if (uid !== undefined) this.#uids.delete(uid);
  }

  /** As `bury`, of a sandbox that stays. */
  async unmake(id: string, machine: Machine | undefined, uid: number | undefined): Promise<void> {
    await this.#undo(id, machine);
    this.#options.rows.unfit(id);
    if (uid !== undefined) this.#uids.delete(uid);
  }

  async #undo(id: string, machine: Machine | undefined): Promise<void> {
    const { backends, fabric, machinesFolder } = this.#options;
    if (machine) await machine.destroy();
    else await backends.sweep(id, machinesFolder);
    await fabric.detach(id);
  }

  #takeUid(kind: Isolation, each: number): number | undefined {
    const { uids } = this.#options;
    if (uids === undefined || each === 0) return undefined;
    const { first, slots } = uids[kind];
    for (let slot = 0; slot < slots; slot++) {
      const uid = first + slot * each;
      if (!this.#uids.has(uid)) {
        this.#uids.add(uid);
        return uid;
      }
    }
    throw new CoppiceError('capacity', `all ${slots} users for ${kind}s are in use`);
  }
}

/**
 * What a machine that is not born itself must be told before it may be handed out. `again`: it has been this sandbox before,
 * and knows its names.
 */
async function becomeItself(
  agent: AgentClient,
  options: {
    readonly member: Member;
    readonly template: ReadyTemplate;
    readonly machineID: string;
    readonly again: boolean;
    readonly log: Log;
    readonly signal: AbortSignal;
  },
): Promise<void> {
  const { member, template, machineID, again, log, signal } = options;
  const { id, generation, templateID, env, attachment } = member;
  const { memory } = template.checkpoint.manifest;
  const network = attachment
    ? { address: attachment.address, prefix: attachment.prefix, gateway: attachment.gateway }
    : null;
  const entropy = newEntropy();
  const identity: Identity = again
    ? { generation, entropy, network, env, cutConnections: true }
    : { hostname: id, machineID, generation, entropy, network, sandboxID: id, templateID, env };
  await agent.identity(memory === 'own' ? { ...identity, cutConnections: true } : identity, signal);
  // By itself and last: what a clone does for the first time is slow, and the time would be old when it is set.
  await agent.identity({ clockMs: Date.now() }, signal);
  if (template.languages.length === 0 || memory === 'none') return;
  // Of a user's checkpoint: seeds that he gave stay, and a program that is at work takes its entropy when that is done.
  const theirs = memory === 'own' ? { keepGiven: true, timeoutMs: BUSY_MS } : {};
  const { late } = await reseedInterpreters(agent, newEntropy(), { ...theirs, generation, log, signal });
  if (late > 0 && memory === 'whole') throw new Error('a pre-started interpreter did not take its entropy');
}

/** What every process of a sandbox finds in its environment; the caller's wishes win. */
export function environment(
  template: Template,
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
