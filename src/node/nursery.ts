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
import type { GoldenCheckpoint, Isolation, Machine, MachineImage, MachineShape } from '../isolation/backend.ts';
import type { Backends } from '../isolation/backends.ts';
import type { NetworkFabric } from '../network/fabric.ts';
import type { Log } from '../telemetry/log.ts';
import { type Berth, Berths } from './berths.ts';
import { newEntropy, newMachineID, newSandboxID } from './identifiers.ts';
import { Member } from './member.ts';
import type { Rows } from './rows.ts';
import { Semaphore } from './semaphore.ts';
import { rehearseCommand } from './warm-up.ts';

/** What is known of the template or snapshot that a machine was made from, for as long as the machine is there. */
export interface Template {
  readonly templateID: string;
  readonly buildID: string;
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
}

/** One that sandboxes can be made from now. */
export interface ReadyTemplate extends Template {
  readonly golden: GoldenCheckpoint;
}

export interface GrowthWish {
  readonly signal: AbortSignal;
  /** What the fabric lets it do once it is grown. */
  readonly allowInternet: boolean;
  /** Environment of its processes, given its id. */
  readonly env: (sandboxID: string) => Readonly<Record<string, string>>;
  /** Nobody waits for it: whatever its first use would begin is begun now. */
  readonly forPool: boolean;
  /** Called as each stage ends. */
  readonly stage?: (name: string) => void;
}

export interface NurseryOptions {
  readonly backends: Backends;
  readonly fabric: NetworkFabric;
  readonly rows: Rows;
  readonly machinesFolder: string;
  /** undefined when this process is not root and cannot give machines users of their own. */
  readonly uids: UidRanges | undefined;
  /** Whether places for machines are made ahead of demand. */
  readonly ahead?: boolean;
  readonly log: Log;
}

/** The host's uids that machines take, by kind: as many machines as `slots`, each with its backend's `uidsEach`. */
export type UidRanges = Readonly<Record<Isolation, { readonly first: number; readonly slots: number }>>;

/** More at once than processors only makes each of them slower. */
const GROWTHS_AT_ONCE = Math.max(2, availableParallelism());
/** Whole growth, with the wait for a turn: restore, first answer, identity. Wide: emulated guests under load are slow. */
const GROWTH_DEADLINE_MS = 120_000;

export class Nursery {
  readonly #options: NurseryOptions;
  readonly #uids: Set<number>;
  readonly #turns = new Semaphore(GROWTHS_AT_ONCE);
  readonly #berths: Berths | undefined;

  constructor(options: NurseryOptions) {
    this.#options = options;
    this.#uids = options.rows.usedUids();
    if (!options.ahead) return;
    this.#berths = new Berths({
      make: (kind) => this.#makeBerth(kind, true),
      drop: async ({ id, uid }) => {
        options.rows.intendKill(id);
        await this.bury(id, undefined, uid);
      },
      log: options.log,
    });
  }

  /** A running machine that is itself and has answered, not yet anybody's. On failure everything of it is undone. */
  async grow(template: ReadyTemplate, wish: GrowthWish): Promise<Member> {
    const bounded = AbortSignal.any([wish.signal, AbortSignal.timeout(GROWTH_DEADLINE_MS)]);
    const done = await this.#turns.take(bounded);
    try {
      return await this.#grow(template, wish, bounded);
    } finally {
      done();
    }
  }

  async #grow(template: ReadyTemplate, wish: GrowthWish, bounded: AbortSignal): Promise<Member> {
    const { stage = () => {} } = wish;
    const { backends, rows, machinesFolder, log } = this.#options;
    const backend = backends.of(template.isolation);
    const { bornItself, agentOnDemand } = backend.capabilities;
    const ready = wish.allowInternet ? this.#berths?.take(template.isolation) : undefined;
    const { id, uid, generation, attachment } =
      ready ?? (await this.#makeBerth(template.isolation, wish.allowInternet));
    const machineID = newMachineID();
    const env = wish.env(id);
    let machine: Machine | undefined;
    try {
      rows.assign(id, template);
      stage('attach');
      const folder = join(machinesFolder, id);
      machine = await backend.clone(
        template.golden,
        template.image,
        {
          id,
          folder,
          shape: template.shape,
          names: { hostname: id, machineID, ...(attachment ? { address: attachment.address } : {}) },
          ...(attachment ? { network: attachment } : {}),
          ...(uid === undefined ? {} : { uid }),
        },
        bounded,
      );
      rows.setRecord(id, machine.record);
      stage('restore');
      const member = new Member({
        id,
        templateID: template.templateID,
        generation,
        memoryMB: template.shape.memoryMB,
        languages: template.languages,
        env,
        machine,
        agentOnDemand,
        attachment,
        log,
      });
      if (!agentOnDemand || wish.forPool) {
        const agent = await member.begin(bounded);
        stage('session');
        if (bornItself) {
          await rehearseCommand(agent, bounded);
          for (const language of template.languages)
            await prestartInterpreter(agent, language, { log, signal: bounded });
        } else {
          const network = attachment && {
            address: attachment.address,
            prefix: attachment.prefix,
            gateway: attachment.gateway,
          };
          await becomeItself(agent, { machineID, network: network ?? null, member, template, log, signal: bounded });
        }
        stage('identity');
      }
      member.internet = attachment !== undefined && wish.allowInternet;
      return member;
    } catch (error) {
      rows.intendKill(id);
      await this.bury(id, machine, uid);
      throw error;
    }
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
  async #makeBerth(kind: Isolation, allowInternet: boolean): Promise<Berth> {
    const { backends, fabric, rows, machinesFolder } = this.#options;
    const { port, uidsEach } = backends.of(kind).capabilities;
    const id = newSandboxID();
    const generation = randomUUID();
    const uid = this.#takeUid(kind, uidsEach);
    rows.prepare({ id, uid, generation });
    try {
      await mkdir(join(machinesFolder, id), { mode: 0o700 });
      // With its grant already: what runs in it until its hand-out is the template's own.
      const attachment = fabric.enforcing
        ? await fabric.attach(id, { kind: port, uid, policy: { allowInternet } })
        : undefined;
      return { id, uid, generation, attachment };
    } catch (error) {
      rows.intendKill(id);
      await this.bury(id, undefined, uid);
      throw error;
    }
  }

  /** Undoes everything of a machine; needs nothing of the guest, and nothing but the id to work. Idempotent. */
  async bury(id: string, machine: Machine | undefined, uid: number | undefined): Promise<void> {
    const { backends, fabric, rows, machinesFolder } = this.#options;
    if (machine) await machine.destroy();
    else await backends.sweep(id, machinesFolder);
    await fabric.detach(id);
    rows.remove(id);
    if (uid !== undefined) this.#uids.delete(uid);
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

/** What a clone of a memory image must be told before it may be handed out. */
async function becomeItself(
  agent: AgentClient,
  options: {
    readonly member: Member;
    readonly template: ReadyTemplate;
    readonly machineID: string;
    readonly network: Identity['network'];
    readonly log: Log;
    readonly signal: AbortSignal;
  },
): Promise<void> {
  const { member, template, machineID, network, log, signal } = options;
  const { id, generation, templateID, env } = member;
  const entropy = newEntropy();
  await agent.identity(
    { hostname: id, machineID, generation, entropy, network, sandboxID: id, templateID, env },
    signal,
  );
  // By itself and last: what a clone does for the first time is slow, and the time would be old when it is set.
  await agent.identity({ clockMs: Date.now() }, signal);
  if (template.languages.length === 0) return;
  const { late } = await reseedInterpreters(agent, newEntropy(), { log, signal });
  if (late > 0) throw new Error('a pre-started interpreter did not take its entropy');
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
