/**
 * The QEMU backend: microVMs cloned from one golden checkpoint. A clone is a QEMU process that maps the golden memory file
 * privately, reads a small device state, and writes to a copy-on-write overlay of the golden layer.
 */
import { constants } from 'node:fs';
import { access } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { CoppiceError, isCoppiceError } from '../../../contract/errors.ts';
import type { Log } from '../../../telemetry/log.ts';
import type {
  BackendCapabilities,
  BackendProbe,
  Capture,
  CaptureRequest,
  Checkpoint,
  IsolationBackend,
  Machine,
  MachineImage,
  MachineRecord,
  MachineShape,
  MachineSpec,
} from '../../backend.ts';
import { type Cgroups, openCgroups } from '../../cgroup.ts';
import { commandLine, identityOf, isAlive, readProcess, watchExit } from '../../process-table.ts';
import { captureMachine, salvageDisk } from './capture.ts';
import { census, machineOf, sweep } from './census.ts';
import { makeGolden } from './golden.ts';
import { readNote } from './held-note.ts';
import { refuseHugePages } from './huge-pages.ts';
import { checkFolder } from './launch.ts';
import { BACKEND_NAME, createMachine, type QemuMachine } from './machine.ts';
import { checkHost, readCheckpoint } from './manifest.ts';
import { probeHost, type QemuProbe } from './probe.ts';
import { aborted, makeClone, makeShell, type QemuShell } from './shell.ts';
import type { StartRequest } from './start.ts';

export interface QemuBackendOptions {
  readonly log: Log;
  readonly home: {
    /** Where the self-test's result is kept. */
    readonly probeFile: string;
  };
  /** The node is not root: QEMU runs as the node's own user, without a namespace of its own. */
  readonly rootless: boolean;
  /** `off`: never try KVM. */
  readonly kvm?: 'auto' | 'off';
  readonly emulator?: string;
  /** Path of the guest kernel that the self-test boots; asked when first needed. Without it, the first image's. */
  readonly kernel?: () => Promise<string>;
}

export interface QemuBackend extends IsolationBackend {
  clone(checkpoint: Checkpoint, image: MachineImage, spec: MachineSpec, signal?: AbortSignal): Promise<QemuMachine>;
  prepare(base: Checkpoint, image: MachineImage, spec: MachineSpec, signal?: AbortSignal): Promise<QemuShell>;
  capture(machine: Machine, request: CaptureRequest, out: string, signal?: AbortSignal): Promise<Capture>;
  adopt(record: MachineRecord): Promise<QemuMachine | undefined>;
}

const EMULATOR = 'qemu-system-x86_64';
const PROGRAMS = ['prlimit', 'nsenter', 'mke2fs'] as const;
const MACHINE_ID = /^[a-z0-9]{1,32}$/;
const CAPABILITIES: BackendCapabilities = {
  memoryCheckpoint: true,
  diskSnapshot: true,
  lastingPark: false,
  ownKernel: true,
  bornItself: false,
  agentOnDemand: false,
  port: 'tap',
  uidsEach: 1,
  // 64: what the VMM holds beside its guest's memory, measured (docs/performance.md), rounded up.
  admission: { overcommit: 1, overheadMB: 64 },
  volumes: 'network',
};

export function createQemuBackend(options: QemuBackendOptions): QemuBackend {
  const { log, rootless } = options;
  const emulator = options.emulator ?? EMULATOR;
  const cgroups = new Map<string, Promise<Cgroups>>();
  /** Those that this backend has made or found, as what they are. */
  const machines = new WeakMap<Machine, QemuMachine>();
  const capturing = new Set<QemuMachine>();
  let probed: Promise<QemuProbe> | undefined;
  refuseHugePages(log);

  const cgroupsOf = (machinesFolder: string): Promise<Cgroups> => {
    let found = cgroups.get(machinesFolder);
    if (!found) {
      found = openCgroups(machinesFolder).then((opened) => {
        for (const notice of opened.notices) log.warn({ machinesFolder }, notice);
        return opened;
      });
      cgroups.set(machinesFolder, found);
    }
    return found;
  };

  /** The self-test, once, for all who wait for it; one that failed is tried again by the next caller. */
  const ensureProbe = async (imageKernel?: string, signal?: AbortSignal): Promise<QemuProbe> => {
    probed ??= (async () => {
      const kernel = imageKernel ?? (await options.kernel?.());
      if (kernel === undefined)
        throw new CoppiceError('host_unfit', 'there is no guest kernel yet to test the host with');
      return probeHost({ log, emulator, kernel, kvm: options.kvm ?? 'auto', probeFile: options.home.probeFile });
    })().catch((error) => {
      probed = undefined;
      throw error;
    });
    return signal ? unlessAborted(probed, signal) : probed;
  };

  const uidOf = (spec: MachineSpec): number | undefined => {
    if (!rootless) {
      if (spec.uid === undefined || spec.uid <= 0)
        throw new CoppiceError('bad_request', 'a node that is root must give each machine a uid other than 0');
      return spec.uid;
    }
    if (spec.network) throw new CoppiceError('unsupported_policy', 'a machine network needs a node that is root');
    return undefined;
  };

  const checkSpec = (spec: MachineSpec) => {
    if (!MACHINE_ID.test(spec.id)) throw new CoppiceError('bad_request', 'machine id must match [a-z0-9]{1,32}');
    checkFolder(spec.folder);
  };

  const known = (machine: QemuMachine): QemuMachine => {
    machines.set(machine, machine);
    return machine;
  };

  /** `checkpoint`: what it is to be made of, if of any. */
  const requestOf = async (
    image: MachineImage,
    spec: MachineSpec,
    signal: AbortSignal | undefined,
    checkpoint?: Checkpoint,
  ): Promise<StartRequest> => {
    checkSpec(spec);
    const uid = uidOf(spec);
    const probe = await ensureProbe(image.kernel, signal);
    if (checkpoint) {
      checkHost(checkpoint, probe);
      checkFit(checkpoint, image, spec.shape);
    }
    return { log, emulator, probe, cgroups: await cgroupsOf(dirname(spec.folder)), image, spec, uid, signal };
  };

  return {
    name: BACKEND_NAME,
    kind: 'microvm',
    capabilities: CAPABILITIES,

    async probe(signal): Promise<BackendProbe> {
      const missing = await missingPrograms();
      const notices = missing.map((name) => `${name} is not on the path: install ${packageOf(name)}`);
      try {
        const found = await ensureProbe(undefined, signal);
        return {
          usable: missing.length === 0,
          accelerator: found.accelerator,
          version: found.version,
          referenceBootSeconds: found.referenceBootSeconds,
          notices: [...notices, ...found.notices],
        };
      } catch (error) {
        if (!isCoppiceError(error, 'host_unfit')) throw error;
        return { usable: false, accelerator: 'none', version: 'unknown', notices: [...notices, error.message] };
      }
    },

    async makeGolden(image, spec, out, warm, { signal, onProgress }) {
      onProgress?.('testing the host');
      return makeGolden({ ...(await requestOf(image, spec, signal)), out, warm, onProgress });
    },

    async openCheckpoint(folder, options = {}) {
      const checkpoint = await readCheckpoint(folder, options);
      // Asked of the host only where it matters: a base is there before anything was booted here.
      if (options.use !== 'base') checkHost(checkpoint, await ensureProbe());
      return checkpoint;
    },

    async clone(checkpoint, image, spec, signal) {
      return known(await makeClone(checkpoint, await requestOf(image, spec, signal, checkpoint)));
    },

    async prepare(base, image, spec, signal) {
      if (base.manifest.memory !== 'whole')
        throw new CoppiceError('bad_request', 'a shell is made for a golden checkpoint');
      const shell = await makeShell(base, await requestOf(image, spec, signal, base));
      return {
        ...shell,
        async restore(checkpoint, restoring) {
          return known(await shell.restore(checkpoint, restoring));
        },
      };
    },

    async capture(machine, request, out, signal) {
      const own = machines.get(machine);
      if (!own) throw new CoppiceError('bad_request', 'this machine is not of this backend');
      if (request.base.manifest.memory !== 'whole')
        throw new CoppiceError('bad_request', 'a machine is captured over the golden checkpoint of its template');
      checkFit(request.base, request.image, request.shape);
      const probe = await ensureProbe(request.image.kernel, signal);
      if (capturing.has(own)) throw new CoppiceError('conflict', `machine ${own.id} is being captured already`);
      capturing.add(own);
      try {
        return await captureMachine({ ...request, log, probe, machine: own, out, signal });
      } finally {
        capturing.delete(own);
      }
    },

    async salvage({ folder }, { image, shape, base }, out, signal) {
      checkFit(base, image, shape);
      const probe = await ensureProbe(image.kernel, signal);
      return salvageDisk({ probe, folder, image, shape, base, out, signal });
    },

    async adopt(record) {
      const identity = identityOf(record);
      const machinesFolder = dirname(record.folder);
      if (record.backend !== BACKEND_NAME || !isAlive(identity)) return undefined;
      if (machineOf(commandLine(record.pid), machinesFolder) !== record.id) return undefined;
      const machine = createMachine({
        log,
        id: record.id,
        folder: record.folder,
        identity,
        exited: watchExit(identity),
        cgroups: await cgroupsOf(machinesFolder),
        found: { parked: readProcess(record.pid)?.state === 'T', note: readNote(record.folder) },
      });
      await machine.goOn().catch((error) => {
        log.warn({ machine: record.id, error }, 'a machine that was found stopped does not go on');
      });
      return known(machine);
    },

    async census(machinesFolder) {
      return census(machinesFolder, await cgroupsOf(machinesFolder));
    },

    async sweep(id, machinesFolder) {
      if (!MACHINE_ID.test(id)) throw new CoppiceError('bad_request', 'machine id must match [a-z0-9]{1,32}');
      await sweep(id, machinesFolder, await cgroupsOf(machinesFolder));
    },
  };
}

/** Leaves the work running for others when this caller gives up. */
async function unlessAborted<T>(work: Promise<T>, signal: AbortSignal): Promise<T> {
  const over = Promise.withResolvers<never>();
  const onAbort = () => over.reject(aborted(signal.reason));
  signal.addEventListener('abort', onAbort, { once: true });
  if (signal.aborted) onAbort();
  try {
    return await Promise.race([work, over.promise]);
  } finally {
    signal.removeEventListener('abort', onAbort);
  }
}

/** Refuses an image or shape that is not the one in the checkpoint. */
function checkFit({ manifest }: Checkpoint, image: MachineImage, shape: MachineShape): void {
  if (image.hash !== manifest.imageHash)
    throw new CoppiceError('checkpoint_corrupt', 'the checkpoint was made from another image than the one given');
  for (const field of ['cpuCount', 'memoryMB', 'diskSizeMB'] as const)
    if (manifest.shape[field] !== shape[field])
      throw new CoppiceError(
        'bad_request',
        `${field} is ${shape[field]}, and the checkpoint has ${manifest.shape[field]}`,
      );
}

async function missingPrograms(): Promise<readonly string[]> {
  const folders = [...(process.env.PATH ?? '').split(':'), '/usr/sbin', '/sbin'];
  const present = await Promise.all(
    PROGRAMS.map((name) =>
      Promise.any(folders.map((folder) => access(join(folder, name), constants.X_OK))).then(
        () => true,
        () => false,
      ),
    ),
  );
  return PROGRAMS.filter((_, index) => !present[index]);
}

function packageOf(program: string): string {
  return program === 'mke2fs' ? 'e2fsprogs' : 'util-linux';
}
