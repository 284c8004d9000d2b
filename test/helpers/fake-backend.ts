/**
 * An isolation backend and a network whose host is this object: machines outlive the Node that made them, as real ones
 * do, so that a test can drop a Node (kill -9) and begin another on the same rows.
 */
import { existsSync, openSync } from 'node:fs';
import { mkdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import type { Identity, VolumeMounts } from '../../src/channel/protocol.ts';
import { CoppiceError } from '../../src/contract/errors.ts';
import {
  type BackendCapabilities,
  type Checkpoint,
  type CheckpointManifest,
  contentOf,
  type Isolation,
  type IsolationBackend,
  type Machine,
  type MachineImage,
  type MachineRecord,
  type MachineRoom,
  type MachineShape,
  type MachineSpec,
  type OpenOptions,
} from '../../src/isolation/backend.ts';
import { Backends } from '../../src/isolation/backends.ts';
import type { Attachment, EgressPolicy, NetworkFabric } from '../../src/network/fabric.ts';
import type { ReadyTemplate } from '../../src/node/nursery.ts';
import type { NfsProcess, NfsProcessOptions } from '../../src/volumes/nfs/process.ts';
import { miniAgent } from './mini-agent.ts';

interface FakeMachine {
  readonly spec: MachineSpec;
  readonly record: MachineRecord;
  readonly identities: Identity[];
  /** What its agent was asked to mount. */
  readonly mounts: VolumeMounts[];
  readonly die: (reason: string) => void;
  readonly exited: Promise<{ reason: string }>;
  parked: boolean;
  /** As the host sees it. */
  cpuSeconds: number;
  room: MachineRoom;
  /** What it has written, and what it was cloned with. */
  readonly disk: string[];
  /** What it has in memory; gone with the machine unless it was captured. */
  readonly memory: string[];
  /** The checkpoint it lies on. */
  readonly base: string;
}

type Step = 'clone' | 'prepare' | 'attach' | 'setPolicy' | 'channel' | 'park' | 'unpark' | 'capture';

export class FakeHost {
  readonly machines = new Map<string, FakeMachine>();
  /** Machines that ended with the host: what they had on disk is there. */
  readonly lost = new Map<string, FakeMachine>();
  readonly attachments = new Map<string, Attachment & { policy: EgressPolicy; served?: boolean }>();
  /** The namespace that volumes are served in, and what whoever serves them asks the node. */
  served: { readonly namespace: string; readonly exportsOf: NfsProcessOptions['exportsOf'] } | undefined;
  clones = 0;
  /** Thrown by the next steps of these names, once each. */
  readonly failNext = new Set<Step>();
  /** What the next steps of these names wait for. */
  readonly #held = new Map<Step, () => Promise<void>>();
  /** Machines made while this is true never answer. */
  mute = false;
  /** Counts the processes that have driven this host; what an earlier one left under way stops where it is. */
  #process = 0;

  /** What a new process sees of the host. The one before is dead from now on. */
  drive(): { readonly backends: Backends; readonly fabric: NetworkFabric } {
    const mine = ++this.#process;
    const living = <T extends object>(target: T): T =>
      new Proxy(target, {
        get: (object, key) => {
          const value = Reflect.get(object, key);
          if (typeof value !== 'function') return value;
          return (...args: unknown[]) => {
            if (mine !== this.#process) return new Promise(() => {});
            return value.apply(object, args);
          };
        },
      });
    this.#held.clear();
    return { backends: new Backends([living(this.microvm), living(this.jail)]), fabric: living(this.fabric) };
  }

  /** Whoever serves volumes; it ends with its node. */
  readonly serve = ({ exportsOf }: NfsProcessOptions): NfsProcess => {
    this.served = undefined;
    return {
      start: async (namespace) => {
        this.served = { namespace, exportsOf };
      },
      stop: async () => {
        this.served = undefined;
      },
    };
  };

  /** `reached` resolves when the next step of that name begins, which then waits for `release`. */
  hold(step: Step): { readonly reached: Promise<void>; readonly release: () => void } {
    const begun = Promise.withResolvers<void>();
    const gate = Promise.withResolvers<void>();
    this.#held.set(step, () => {
      begun.resolve();
      return gate.promise;
    });
    return { reached: begun.promise, release: gate.resolve };
  }

  /** Waits where a test holds this step; a process that was replaced meanwhile never gets further. */
  async #pass(step: Step): Promise<void> {
    const process = this.#process;
    const wait = this.#held.get(step);
    this.#held.delete(step);
    await wait?.();
    if (process !== this.#process) await new Promise<never>(() => {});
    this.#maybeFail(step);
  }

  /** A microVM backend and a jail backend, on the same host. */
  readonly microvm = this.#backend('fake', 'microvm', {
    memoryCheckpoint: true,
    diskSnapshot: true,
    lastingPark: false,
    ownKernel: true,
    bornItself: false,
    agentOnDemand: false,
    port: 'tap',
    uidsEach: 1,
    admission: { overcommit: 1, overheadMB: 64 },
    volumes: 'network',
  });
  readonly jail = this.#backend('fake-jail', 'jail', {
    memoryCheckpoint: false,
    diskSnapshot: true,
    lastingPark: true,
    ownKernel: false,
    bornItself: true,
    agentOnDemand: true,
    port: 'namespace',
    uidsEach: 65_536,
    admission: { overcommit: 16, overheadMB: 2 },
    volumes: 'birth',
  });

  #backend(name: string, kind: Isolation, capabilities: BackendCapabilities): IsolationBackend {
    const own = () => [...this.machines.values()].filter(({ record }) => record.backend === name);
    return {
      name,
      kind,
      capabilities,
      probe: async () => ({ usable: true, accelerator: name, version: '1', notices: [] }),
      makeGolden: () => Promise.reject(new Error('not in this fake')),
      openCheckpoint: readCheckpoint,
      clone: async (checkpoint, image, spec) => {
        await this.#pass('clone');
        return this.#raise(name, checkpoint, image, spec);
      },
      ...(capabilities.volumes === 'birth' ? { openVolume } : {}),
      ...(capabilities.memoryCheckpoint ? { prepare: this.#prepare(name) } : {}),
      capture: async (handle, { image, shape, base, memory, goesOn, guestReady }, out, signal) => {
        await guestReady;
        const machine = this.machines.get(handle.id);
        if (!machine) throw new CoppiceError('unavailable', `machine ${handle.id} is gone`);
        if (memory && !capabilities.memoryCheckpoint) throw new CoppiceError('not_implemented', 'no memory here');
        const process = this.#process;
        const ran = !machine.parked;
        const kind = memory ? 'own' : 'none';
        await this.#writeCheckpoint(name, `${out}.new`, { image, shape, memory: kind }, base, machine);
        await this.#pass('capture');
        signal?.throwIfAborted();
        await rename(`${out}.new`, out);
        if (process !== this.#process) return await new Promise<never>(() => {});
        if (ran && !goesOn) machine.parked = true;
        return { checkpoint: await readCheckpoint(out, { base }), pauseMs: 1, ownBytes: 1 };
      },
      salvage: async (record, { image, shape, base }, out) => {
        const machine = this.lost.get(record.id);
        if (!machine || !existsSync(record.folder))
          throw new CoppiceError('unavailable', `nothing is left of machine ${record.id}`);
        await this.#writeCheckpoint(name, `${out}.new`, { image, shape, memory: 'none' }, base, machine);
        await rename(`${out}.new`, out);
        return readCheckpoint(out, { base });
      },
      adopt: async (record) => {
        const machine = this.machines.get(record.id);
        return machine && this.#handle(machine);
      },
      census: async () => own().map(({ spec }) => ({ kind: 'process' as const, id: spec.id, detail: name })),
      sweep: async (id, machinesFolder) => {
        own()
          .find(({ spec }) => spec.id === id)
          ?.die('swept');
        await rm(join(machinesFolder, id), { recursive: true, force: true });
      },
    };
  }

  /** Everything that runs ends with the host; what was on disk is there. */
  loseAll(): void {
    for (const machine of [...this.machines.values()]) {
      this.lost.set(machine.spec.id, machine);
      machine.die('the host ended');
    }
    this.attachments.clear();
  }

  async #raise(name: string, checkpoint: Checkpoint, image: MachineImage, spec: MachineSpec): Promise<Machine> {
    const { manifest } = checkpoint;
    if (manifest.imageHash !== image.hash) throw new CoppiceError('checkpoint_corrupt', 'of another image');
    const { promise: exited, resolve } = Promise.withResolvers<{ reason: string }>();
    this.clones++;
    const machine: FakeMachine = {
      spec,
      record: { backend: name, id: spec.id, folder: spec.folder, pid: 1, pidStartTime: '1' },
      identities: [],
      mounts: [],
      exited,
      die: (reason) => {
        this.machines.delete(spec.id);
        resolve({ reason });
      },
      parked: false,
      cpuSeconds: 0,
      room: { memUsed: 1, memTotal: 4, memCache: 2, diskUsed: 5, diskTotal: 10 },
      disk: [],
      memory: [],
      base: manifest.base ?? contentOf(manifest),
    };
    const process = this.#process;
    const { disk, memory } = await readContent(checkpoint);
    machine.disk.push(...disk);
    if (manifest.memory === 'own') machine.memory.push(...memory);
    await mkdir(spec.folder, { recursive: true });
    if (process !== this.#process) return await new Promise<never>(() => {});
    this.machines.set(spec.id, machine);
    return this.#handle(machine);
  }

  /** A shell is a machine that is parked and has no channel until it is restored. */
  #prepare(name: string): NonNullable<IsolationBackend['prepare']> {
    return async (base, image, spec) => {
      await this.#pass('prepare');
      const handle = await this.#raise(name, base, image, spec);
      const machine = this.machines.get(spec.id)!;
      machine.parked = true;
      return {
        record: handle.record,
        exited: handle.exited,
        restore: async (checkpoint) => {
          await this.#pass('clone');
          if (machine.base !== (checkpoint.manifest.base ?? contentOf(checkpoint.manifest)))
            throw new CoppiceError('bad_request', 'a shell of another base');
          const { disk, memory } = await readContent(checkpoint);
          machine.disk.push(...disk);
          machine.memory.push(...memory);
          machine.parked = false;
          return handle;
        },
        destroy: () => handle.destroy(),
      };
    };
  }

  async #writeCheckpoint(
    name: string,
    folder: string,
    about: { image: MachineImage; shape: MachineShape; memory: 'own' | 'none' },
    base: Checkpoint,
    { disk, memory }: FakeMachine,
  ): Promise<void> {
    const { image, shape } = about;
    const manifest: CheckpointManifest = {
      ...MANIFEST,
      backend: name,
      imageHash: image.hash,
      shape,
      memory: about.memory,
      base: contentOf(base.manifest),
    };
    await mkdir(folder);
    const content = { disk, memory: about.memory === 'own' ? memory : [] };
    await writeFile(join(folder, 'content.json'), JSON.stringify(content));
    await writeFile(join(folder, 'manifest.json'), JSON.stringify(manifest));
  }

  readonly fabric: NetworkFabric = {
    name: 'fake',
    enforcing: true,
    notices: [],
    start: async () => {},
    attach: async (id, { kind, policy = { allowInternet: false } }) => {
      this.#maybeFail('attach');
      const number = this.attachments.size + 2;
      const attachment = {
        id,
        kind,
        port: `cp${number}`,
        namespace: '/run/netns/fake',
        address: `10.0.0.${number}`,
        prefix: 32,
        gateway: '169.254.1.1',
        service: '/run/netns/fake',
      };
      this.attachments.set(id, { ...attachment, policy });
      return attachment;
    },
    setPolicy: async (id, policy) => {
      this.#maybeFail('setPolicy');
      const attachment = this.attachments.get(id);
      if (!attachment) throw new Error(`no attachment ${id}`);
      attachment.policy = policy;
    },
    openService: async (id) => {
      const attachment = this.attachments.get(id);
      if (!attachment) throw new Error(`no attachment ${id}`);
      attachment.served = true;
    },
    detach: async (id) => void this.attachments.delete(id),
    census: async () => ({ ports: [...this.attachments.values()].map((one) => one.port), addresses: [], rules: [] }),
    attached: async () => [...this.attachments.values()],
    leased: async () => [...this.attachments.values()],
    stop: async () => this.attachments.clear(),
  };

  #maybeFail(step: Step): void {
    if (this.failNext.delete(step)) throw new Error(`${step} failed, as the test wants`);
  }

  #handle(machine: FakeMachine): Machine {
    const mute = this.mute;
    const process = this.#process;
    return {
      id: machine.spec.id,
      record: machine.record,
      openChannel: async () => {
        this.#maybeFail('channel');
        const agent = miniAgent(machine.identities, machine.mounts);
        agent.mute = mute;
        return agent.stream;
      },
      park: async () => {
        await this.#pass('park');
        machine.parked = true;
      },
      unpark: () => {
        if (process !== this.#process) return;
        this.#maybeFail('unpark');
        machine.parked = false;
      },
      exited: machine.exited,
      destroy: async () => {
        machine.die('destroyed');
        await rm(machine.spec.folder, { recursive: true, force: true });
      },
      usage: async () => ({ privateBytes: 0, cpuSeconds: 0 }),
      cpuSeconds: () => machine.cpuSeconds,
      room: async () => machine.room,
    };
  }
}

const MANIFEST: CheckpointManifest = {
  format: 2,
  backend: 'fake',
  imageHash: '',
  shape: { cpuCount: 1, memoryMB: 0, diskSizeMB: 0 },
  accelerator: 'fake',
  vmm: { version: '', machine: '', cpu: '' },
  createdAtMs: 0,
  memory: 'whole',
  files: {},
};

async function readCheckpoint(folder: string, options: OpenOptions = {}): Promise<Checkpoint> {
  let manifest: CheckpointManifest;
  try {
    manifest = JSON.parse(await readFile(join(folder, 'manifest.json'), 'utf8')) as CheckpointManifest;
  } catch (error) {
    throw new CoppiceError('checkpoint_corrupt', `no checkpoint at ${folder}`, { cause: error });
  }
  const { base, use } = options;
  if (use === 'disk') manifest = { ...manifest, memory: 'none' };
  else if (use !== 'base' && existsSync(join(folder, UNFIT_MARK)))
    throw new CoppiceError('host_unfit', `${folder} is of another host`);
  if (manifest.base !== undefined && (!base || contentOf(base.manifest) !== manifest.base))
    throw new CoppiceError('checkpoint_corrupt', `${folder} lies on another checkpoint`);
  return { folder, manifest, ...(base ? { base } : {}) };
}

/** Empty of a template's. */
async function readContent({ folder }: Checkpoint): Promise<{ disk: string[]; memory: string[] }> {
  if (folder === NOWHERE) return { disk: [], memory: [] };
  return JSON.parse(await readFile(join(folder, 'content.json'), 'utf8'));
}

const NOWHERE = '/nowhere';
/** A file in a checkpoint's folder: this host cannot restore its memory. */
export const UNFIT_MARK = 'unfit';

export function fakeTemplate(
  name: string,
  options: { readonly memoryMB?: number; readonly isolation?: Isolation; readonly family?: string } = {},
): ReadyTemplate {
  const { memoryMB = 512, isolation = 'microvm', family = name } = options;
  const shape = { cpuCount: 1, memoryMB, diskSizeMB: 1024 };
  const image = { hash: name, kernel: '', initrd: '', rootfs: '', agentDrive: '' };
  const buildID = `00000000-0000-4000-8000-${Buffer.from(name).toString('hex').padStart(12, '0').slice(-12)}`;
  return {
    templateID: name
      .replaceAll(/[^a-z0-9]/g, '')
      .padEnd(20, '0')
      .slice(0, 20),
    buildID,
    tag: 'default',
    aliases: [name],
    isolation,
    family,
    shape,
    languages: [],
    env: { FROM_TEMPLATE: name },
    image,
    baseID: buildID,
    checkpoint: {
      folder: NOWHERE,
      manifest: { ...MANIFEST, imageHash: name, shape },
    },
    createdAtMs: 0,
  };
}

/** Beside the folder of the images, a folder each. */
async function openVolume(image: string): Promise<number> {
  const root = join(dirname(dirname(image)), 'volume-roots', basename(image));
  await mkdir(root, { recursive: true });
  return openSync(root, 'r');
}
