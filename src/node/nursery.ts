/**
 * Grows machines from golden checkpoints and makes each one itself: address, clock, entropy, names, generation. What
 * leaves here is safe to hand to anybody; nothing in it is shared with its siblings but read-only pages.
 */
import { randomUUID } from 'node:crypto';
import { mkdir } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { reseedInterpreters } from '../envd/interpreter/index.ts';
import type { GoldenCheckpoint, IsolationBackend, Machine, MachineImage, MachineShape } from '../isolation/backend.ts';
import type { Attachment, NetworkFabric } from '../network/fabric.ts';
import type { Log } from '../telemetry/log.ts';
import { newEntropy, newMachineID, newSandboxID } from './identifiers.ts';
import { Member } from './member.ts';
import type { Rows } from './rows.ts';
import { Semaphore } from './semaphore.ts';

/** A template that sandboxes can be made from now. */
export interface ReadyTemplate {
  readonly templateID: string;
  readonly buildID: string;
  readonly aliases: readonly string[];
  readonly shape: MachineShape;
  readonly languages: readonly string[];
  /** Environment that every process of its sandboxes gets. */
  readonly env: Readonly<Record<string, string>>;
  readonly image: MachineImage;
  readonly golden: GoldenCheckpoint;
  readonly createdAtMs: number;
}

export interface GrowthWish {
  readonly signal: AbortSignal;
  /** What the fabric lets it do once it is grown. */
  readonly allowInternet: boolean;
  /** Environment of its processes, given its id. */
  readonly env: (sandboxID: string) => Readonly<Record<string, string>>;
  /** Called as each stage ends. */
  readonly stage?: (name: string) => void;
}

export interface NurseryOptions {
  readonly backend: IsolationBackend;
  readonly fabric: NetworkFabric;
  readonly rows: Rows;
  readonly machinesFolder: string;
  /** First uid of the range that VMMs run as, one each; undefined when this process is not root. */
  readonly firstUid: number | undefined;
  readonly log: Log;
}

/** Uids per node, from `firstUid` on. */
const UID_RANGE = 4_096;
/** More at once than processors only makes each of them slower. */
const GROWTHS_AT_ONCE = Math.max(2, availableParallelism());
/** Whole growth, with the wait for a turn: restore, first answer, identity. Wide: emulated guests under load are slow. */
const GROWTH_DEADLINE_MS = 120_000;

export class Nursery {
  readonly #options: NurseryOptions;
  readonly #uids: Set<number>;
  readonly #turns = new Semaphore(GROWTHS_AT_ONCE);

  constructor(options: NurseryOptions) {
    this.#options = options;
    this.#uids = options.rows.usedUids();
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
    const { backend, fabric, rows, log } = this.#options;
    const id = newSandboxID();
    const generation = randomUUID();
    const uid = this.#takeUid();
    rows.prepare({
      id,
      templateID: template.templateID,
      buildID: template.buildID,
      memoryMB: template.shape.memoryMB,
      uid,
      generation,
    });
    let attachment: Attachment | undefined;
    let machine: Machine | undefined;
    let policy: Promise<void> | undefined;
    try {
      const folder = join(this.#options.machinesFolder, id);
      await mkdir(folder, { mode: 0o700 });
      attachment = fabric.enforcing ? await fabric.attach(id, { uid }) : undefined;
      stage('attach');
      // While it restores: what runs in it until its hand-out is the template's own.
      if (attachment && wish.allowInternet) policy = fabric.setPolicy(id, { allowInternet: true });
      policy?.catch(() => {});
      machine = await backend.clone(
        template.golden,
        template.image,
        {
          id,
          folder,
          shape: template.shape,
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
        machine,
        attachment,
        log,
      });
      const agent = await member.begin(bounded);
      stage('session');
      await agent.identity(
        {
          hostname: id,
          machineID: newMachineID(),
          generation,
          entropy: newEntropy(),
          network: attachment
            ? { address: attachment.address, prefix: attachment.prefix, gateway: attachment.gateway }
            : null,
          sandboxID: id,
          templateID: template.templateID,
          env: wish.env(id),
        },
        bounded,
      );
      // By itself and last: what a clone does for the first time is slow, and the time would be old when it is set.
      await agent.identity({ clockMs: Date.now() }, bounded);
      stage('identity');
      if (template.languages.length > 0) {
        const { late } = await reseedInterpreters(agent, newEntropy(), { log, signal: bounded });
        if (late > 0) throw new Error('a pre-started interpreter did not take its entropy');
        stage('reseed');
      }
      await policy;
      member.internet = policy !== undefined;
      return member;
    } catch (error) {
      await policy?.catch(() => {});
      rows.intendKill(id);
      await this.bury(id, machine, uid);
      throw error;
    }
  }

  /** Undoes everything of a machine; needs nothing of the guest, and nothing but the id to work. Idempotent. */
  async bury(id: string, machine: Machine | undefined, uid: number | undefined): Promise<void> {
    const { backend, fabric, rows, machinesFolder } = this.#options;
    if (machine) await machine.destroy();
    else await backend.sweep(id, machinesFolder);
    await fabric.detach(id);
    rows.remove(id);
    if (uid !== undefined) this.#uids.delete(uid);
  }

  #takeUid(): number | undefined {
    const { firstUid } = this.#options;
    if (firstUid === undefined) return undefined;
    for (let uid = firstUid; uid < firstUid + UID_RANGE; uid++) {
      if (!this.#uids.has(uid)) {
        this.#uids.add(uid);
        return uid;
      }
    }
    throw new Error(`all ${UID_RANGE} uids of the VMMs are in use`);
  }
}
