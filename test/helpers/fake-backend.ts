/**
 * An isolation backend and a network whose host is this object: machines outlive the Node that made them, as real ones
 * do, so that a test can drop a Node (kill -9) and begin another on the same rows.
 */
import { mkdir, rm } from 'node:fs/promises';
import type { Identity } from '../../src/channel/protocol.ts';
import type {
  GoldenCheckpoint,
  IsolationBackend,
  Machine,
  MachineImage,
  MachineRecord,
  MachineSpec,
} from '../../src/isolation/backend.ts';
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
}

export class FakeHost {
  readonly machines = new Map<string, FakeMachine>();
  readonly attachments = new Map<string, Attachment & { policy: EgressPolicy }>();
  clones = 0;
  /** Thrown by the next steps of these names, once each. */
  readonly failNext = new Set<'clone' | 'attach' | 'setPolicy' | 'channel'>();
  /** Machines made while this is true never answer. */
  mute = false;
  /** Counts the processes that have driven this host; what an earlier one left under way stops where it is. */
  #process = 0;

  /** What a new process sees of the host. The one before is dead from now on. */
  drive(): { readonly backend: IsolationBackend; readonly fabric: NetworkFabric } {
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
    return { backend: living(this.backend), fabric: living(this.fabric) };
  }

  readonly backend: IsolationBackend = {
    name: 'fake',
    kind: 'microvm',
    capabilities: { memoryCheckpoint: true, ownKernel: true },
    probe: async () => ({ usable: true, accelerator: 'fake', version: '1', notices: [] }),
    makeGolden: () => Promise.reject(new Error('not in this fake')),
    openGolden: () => Promise.reject(new Error('not in this fake')),
    clone: async (_golden: GoldenCheckpoint, _image: MachineImage, spec: MachineSpec) => {
      this.#maybeFail('clone');
      const { promise: exited, resolve } = Promise.withResolvers<{ reason: string }>();
      this.clones++;
      const machine: FakeMachine = {
        spec,
        record: { backend: 'fake', id: spec.id, folder: spec.folder, pid: 1, pidStartTime: '1' },
        identities: [],
        exited,
        die: (reason) => {
          this.machines.delete(spec.id);
          resolve({ reason });
        },
        parked: false,
      };
      const process = this.#process;
      await mkdir(spec.folder, { recursive: true });
      if (process !== this.#process) return await new Promise<never>(() => {});
      this.machines.set(spec.id, machine);
      return this.#handle(machine);
    },
    adopt: async (record) => {
      const machine = this.machines.get(record.id);
      return machine && this.#handle(machine);
    },
    census: async () => [...this.machines.keys()].map((id) => ({ kind: 'process' as const, id, detail: 'fake' })),
    sweep: async (id) => {
      const machine = this.machines.get(id);
      machine?.die('swept');
      if (machine) await rm(machine.spec.folder, { recursive: true, force: true });
    },
  };

  readonly fabric: NetworkFabric = {
    name: 'fake',
    enforcing: true,
    notices: [],
    start: async () => {},
    attach: async (id) => {
      this.#maybeFail('attach');
      const number = this.attachments.size + 2;
      const attachment = {
        id,
        tap: `cp${number}`,
        namespace: '/run/netns/fake',
        address: `10.0.0.${number}`,
        prefix: 32,
        gateway: '169.254.1.1',
      };
      this.attachments.set(id, { ...attachment, policy: { allowInternet: false } });
      return attachment;
    },
    setPolicy: async (id, policy) => {
      this.#maybeFail('setPolicy');
      const attachment = this.attachments.get(id);
      if (!attachment) throw new Error(`no attachment ${id}`);
      attachment.policy = policy;
    },
    detach: async (id) => void this.attachments.delete(id),
    census: async () => ({ taps: [...this.attachments.values()].map((one) => one.tap), addresses: [], rules: [] }),
    attached: async () => [...this.attachments.values()],
    stop: async () => this.attachments.clear(),
  };

  #maybeFail(step: 'clone' | 'attach' | 'setPolicy' | 'channel'): void {
    if (this.failNext.delete(step)) throw new Error(`${step} failed, as the test wants`);
  }

  #handle(machine: FakeMachine): Machine {
    const mute = this.mute;
    return {
      id: machine.spec.id,
      record: machine.record,
      openChannel: async () => {
        this.#maybeFail('channel');
        const agent = miniAgent(machine.identities);
        agent.mute = mute;
        return agent.stream;
      },
      park: () => {
        machine.parked = true;
      },
      unpark: () => {
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

export function fakeTemplate(name: string, memoryMB = 512): ReadyTemplate {
  const shape = { cpuCount: 1, memoryMB, diskSizeMB: 1024 };
  const image = { hash: name, kernel: '', initrd: '', rootfs: '', agentDrive: '' };
  return {
    templateID: name
      .replaceAll(/[^a-z0-9]/g, '')
      .padEnd(20, '0')
      .slice(0, 20),
    buildID: '00000000-0000-4000-8000-000000000000',
    aliases: [name],
    shape,
    languages: [],
    env: { FROM_TEMPLATE: name },
    image,
    golden: {
      folder: '/nowhere',
      manifest: {
        format: 1,
        backend: 'fake',
        imageHash: name,
        shape,
        accelerator: 'fake',
        vmm: { version: '', machine: '', cpu: '' },
        createdAtMs: 0,
        files: {},
      },
    },
    createdAtMs: 0,
  };
}
