/**
 * An isolation backend and a network whose host is this object: machines outlive the Node that made them, as real ones
 * do, so that a test can drop a Node (kill -9) and begin another on the same rows.
 */
import { mkdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Identity } from '../../src/channel/protocol.ts';
import { CoppiceError } from '../../src/contract/errors.ts';
import type {
  BackendCapabilities,
  GoldenCheckpoint,
  GoldenManifest,
  Isolation,
  IsolationBackend,
  Machine,
  MachineImage,
  MachineRecord,
  MachineSpec,
} from '../../src/isolation/backend.ts';
import { Backends } from '../../src/isolation/backends.ts';
import type { Attachment, EgressPolicy, NetworkFabric } from '../../src/network/fabric.ts';
import type { ReadyTemplate } from '../../src/node/nursery.ts';
import { miniAgent } from './mini-agent.ts';

interface FakeMachine {
  readonly spec: MachineSpec;
  readonly record: MachineRecord;
  readonly identities: Identity[];
  readonly die: (reason: string) => void;
  readonly exited: Promise<{ reason: string }>;
  parked: boolean;
  /** What it has written, and what it was cloned with. */
  readonly disk: string[];
}

type Step = 'clone' | 'attach' | 'setPolicy' | 'channel' | 'park' | 'unpark' | 'capture';

export class FakeHost {
  readonly machines = new Map<string, FakeMachine>();
  readonly attachments = new Map<string, Attachment & { policy: EgressPolicy }>();
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
    diskSnapshot: false,
    pause: false,
    ownKernel: true,
    bornItself: false,
    agentOnDemand: false,
    port: 'tap',
    uidsEach: 1,
    admission: { overcommit: 1, overheadMB: 64 },
  });
  readonly jail = this.#backend('fake-jail', 'jail', {
    memoryCheckpoint: false,
    diskSnapshot: true,
    pause: true,
    ownKernel: false,
    bornItself: true,
    agentOnDemand: true,
    port: 'namespace',
    uidsEach: 65_536,
    admission: { overcommit: 16, overheadMB: 2 },
  });

  #backend(name: string, kind: Isolation, capabilities: BackendCapabilities): IsolationBackend {
    const own = () => [...this.machines.values()].filter(({ record }) => record.backend === name);
    return {
      name,
      kind,
      capabilities,
      probe: async () => ({ usable: true, accelerator: name, version: '1', notices: [] }),
      makeGolden: () => Promise.reject(new Error('not in this fake')),
      openGolden: readCheckpoint,
      clone: async (golden: GoldenCheckpoint, image: MachineImage, spec: MachineSpec) => {
        await this.#pass('clone');
        if (golden.manifest.imageHash !== image.hash) throw new CoppiceError('checkpoint_corrupt', 'of another image');
        const { promise: exited, resolve } = Promise.withResolvers<{ reason: string }>();
        this.clones++;
        const machine: FakeMachine = {
          spec,
          record: { backend: name, id: spec.id, folder: spec.folder, pid: 1, pidStartTime: '1' },
          identities: [],
          exited,
          die: (reason) => {
            this.machines.delete(spec.id);
            resolve({ reason });
          },
          parked: false,
          disk: [],
        };
        const process = this.#process;
        machine.disk.push(...(await readDisk(golden)));
        await mkdir(spec.folder, { recursive: true });
        if (process !== this.#process) return await new Promise<never>(() => {});
        this.machines.set(spec.id, machine);
        return this.#handle(machine);
      },
      ...(capabilities.diskSnapshot
        ? {
            captureDisk: async (handle, { image, shape }, out, signal) => {
              const machine = this.machines.get(handle.id);
              if (!machine) throw new CoppiceError('unavailable', `machine ${handle.id} is gone`);
              const manifest = { ...MANIFEST, backend: name, imageHash: image.hash, shape };
              await mkdir(`${out}.new`);
              await writeFile(join(`${out}.new`, 'disk.json'), JSON.stringify(machine.disk));
              await writeFile(join(`${out}.new`, 'manifest.json'), JSON.stringify(manifest));
              await this.#pass('capture');
              signal?.throwIfAborted();
              await rename(`${out}.new`, out);
              return { folder: out, manifest };
            },
          }
        : {}),
      adopt: async (record) => {
        const machine = this.machines.get(record.id);
        return machine && this.#handle(machine);
      },
      census: async () => own().map(({ spec }) => ({ kind: 'process' as const, id: spec.id, detail: name })),
      sweep: async (id) => {
        const machine = own().find(({ spec }) => spec.id === id);
        machine?.die('swept');
        if (machine) await rm(machine.spec.folder, { recursive: true, force: true });
      },
    };
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
    detach: async (id) => void this.attachments.delete(id),
    census: async () => ({ ports: [...this.attachments.values()].map((one) => one.port), addresses: [], rules: [] }),
    attached: async () => [...this.attachments.values()],
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
        const agent = miniAgent(machine.identities);
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
    };
  }
}

const MANIFEST: GoldenManifest = {
  format: 1,
  backend: 'fake',
  imageHash: '',
  shape: { cpuCount: 1, memoryMB: 0, diskSizeMB: 0 },
  accelerator: 'fake',
  vmm: { version: '', machine: '', cpu: '' },
  createdAtMs: 0,
  files: {},
};

async function readCheckpoint(folder: string): Promise<GoldenCheckpoint> {
  try {
    return { folder, manifest: JSON.parse(await readFile(join(folder, 'manifest.json'), 'utf8')) as GoldenManifest };
  } catch (error) {
    throw new CoppiceError('checkpoint_corrupt', `no checkpoint at ${folder}`, { cause: error });
  }
}

/** Empty for a template's. */
async function readDisk({ folder }: GoldenCheckpoint): Promise<string[]> {
  return folder === NOWHERE ? [] : JSON.parse(await readFile(join(folder, 'disk.json'), 'utf8'));
}

const NOWHERE = '/nowhere';

export function fakeTemplate(
  name: string,
  options: { readonly memoryMB?: number; readonly isolation?: Isolation; readonly family?: string } = {},
): ReadyTemplate {
  const { memoryMB = 512, isolation = 'microvm', family = name } = options;
  const shape = { cpuCount: 1, memoryMB, diskSizeMB: 1024 };
  const image = { hash: name, kernel: '', initrd: '', rootfs: '', agentDrive: '' };
  return {
    templateID: name
      .replaceAll(/[^a-z0-9]/g, '')
      .padEnd(20, '0')
      .slice(0, 20),
    buildID: '00000000-0000-4000-8000-000000000000',
    tag: 'default',
    aliases: [name],
    isolation,
    family,
    shape,
    languages: [],
    env: { FROM_TEMPLATE: name },
    image,
    golden: {
      folder: NOWHERE,
      manifest: { ...MANIFEST, imageHash: name, shape },
    },
    createdAtMs: 0,
  };
}
