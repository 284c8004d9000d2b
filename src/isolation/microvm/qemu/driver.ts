/**
 * The QEMU backend: microVMs cloned from one golden checkpoint. A clone is a QEMU process that maps the golden memory file
 * privately, reads a small device state, and writes to a copy-on-write overlay of the golden layer.
 */
import { constants } from 'node:fs';
import { access, chmod, copyFile, open } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { CoppiceError, isCoppiceError } from '../../../contract/errors.ts';
import type { Log } from '../../../telemetry/log.ts';
import type {
  BackendCapabilities,
  BackendProbe,
  GoldenCheckpoint,
  IsolationBackend,
  MachineImage,
  MachineRecord,
  MachineSpec,
} from '../../backend.ts';
import { type Cgroups, openCgroups } from '../../cgroup.ts';
import { commandLine, identityOf, isAlive, watchExit } from '../../process-table.ts';
import { census, machineOf, sweep } from './census.ts';
import { makeGolden } from './golden.ts';
import { refuseHugePages } from './huge-pages.ts';
import { checkFolder, LOG_FILE, launch, RESTORE_URI } from './launch.ts';
import { machineLimits } from './limits.ts';
import { BACKEND_NAME, createMachine, type QemuMachine } from './machine.ts';
import { checkHost, GOLDEN_FILES, readGolden } from './manifest.ts';
import { probeHost, type QemuProbe } from './probe.ts';
import type { QmpEvent } from './qmp.ts';

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
  clone(golden: GoldenCheckpoint, image: MachineImage, spec: MachineSpec, signal?: AbortSignal): Promise<QemuMachine>;
  adopt(record: MachineRecord): Promise<QemuMachine | undefined>;
}

const EMULATOR = 'qemu-system-x86_64';
/** Hundreds may start at once on few cores. */
const RESTORE_DEADLINE_MS = 60_000;
/** In a clone's folder: what the guest has written, and where its device state goes when it is captured. */
const OVERLAY_FILE = 'overlay.qcow2';
const CAPTURE_FILE = 'state';
const PROGRAMS = ['prlimit', 'nsenter', 'mke2fs'] as const;
const MACHINE_ID = /^[a-z0-9]{1,32}$/;
const CAPABILITIES: BackendCapabilities = {
  memoryCheckpoint: true,
  diskSnapshot: false,
  pause: false,
  ownKernel: true,
  bornItself: false,
  agentOnDemand: false,
  port: 'tap',
  uidsEach: 1,
  // 64: what the VMM holds beside its guest's memory, measured (docs/performance.md), rounded up.
  admission: { overcommit: 1, overheadMB: 64 },
};

export function createQemuBackend(options: QemuBackendOptions): QemuBackend {
  const { log, rootless } = options;
  const emulator = options.emulator ?? EMULATOR;
  const cgroups = new Map<string, Promise<Cgroups>>();
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
      checkSpec(spec);
      const uid = uidOf(spec);
      onProgress?.('testing the host');
      const probe = await ensureProbe(image.kernel, signal);
      return makeGolden({
        log,
        emulator,
        probe,
        cgroups: await cgroupsOf(dirname(spec.folder)),
        image,
        spec,
        uid,
        out,
        warm,
        signal,
        onProgress,
      });
    },

    async openGolden(folder, { verify } = {}) {
      return readGolden(folder, await ensureProbe(), { verify: verify ?? false });
    },

    async clone(golden, image, spec, signal) {
      const start = performance.now();
      const stages: Record<string, number> = {};
      const mark = (stage: string) => {
        stages[stage] = Math.round((performance.now() - start) * 100) / 100;
      };
      checkSpec(spec);
      const uid = uidOf(spec);
      const probe = await ensureProbe(image.kernel, signal);
      checkHost(golden, probe);
      checkFit(golden, image, spec);
      const groups = await cgroupsOf(dirname(spec.folder));
      const overlay = join(spec.folder, OVERLAY_FILE);
      let machine: QemuMachine | undefined;
      try {
        await Promise.all([
          chmod(spec.folder, 0o700),
          groups.create(spec.id, machineLimits(spec.shape)),
          copyFile(join(golden.folder, GOLDEN_FILES.overlay), overlay, constants.COPYFILE_FICLONE).then(() =>
            chmod(overlay, 0o600),
          ),
        ]);
        signal?.throwIfAborted();
        mark('prepared');
        const { identity, exited, qmp, release } = launch(
          {
            emulator,
            host: probe,
            id: spec.id,
            folder: spec.folder,
            shape: spec.shape,
            role: { kind: 'clone', layer: join(golden.folder, GOLDEN_FILES.layer), overlay },
            memory: join(golden.folder, GOLDEN_FILES.memory),
            rootfs: image.rootfs,
            agentDrive: image.agentDrive,
            network: spec.network,
            uid,
          },
          { capture: join(spec.folder, CAPTURE_FILE), restore: join(golden.folder, GOLDEN_FILES.state) },
        );
        machine = createMachine({ id: spec.id, folder: spec.folder, identity, exited, cgroups: groups, stages });
        mark('spawned');
        const wait = { signal, deadlineMs: RESTORE_DEADLINE_MS };
        const own = machine;
        const steps = Promise.all([
          qmp.greeting.then(async () => {
            mark('greeted');
            await own.connectChannel(signal);
            mark('connected');
            await qmp.execute('migrate-incoming', { uri: RESTORE_URI }, wait);
          }),
          qmp.event(isMigrationEnd, wait).then(({ data }) => {
            mark('restored');
            if (data.status !== 'completed') throw new CoppiceError('start_failed', 'the device state did not restore');
            return qmp.execute('cont', undefined, wait);
          }),
        ]);
        await Promise.all([steps, groups.add(spec.id, identity.pid).then(() => mark('limited'))]);
        mark('running');
        qmp.close();
        release();
        log.debug({ machine: spec.id, stages }, 'cloned');
        return machine;
      } catch (error) {
        throw await cleanUp(signal?.aborted ? aborted(error) : error, spec, machine, groups);
      }
    },

    async adopt(record) {
      const identity = identityOf(record);
      const machinesFolder = dirname(record.folder);
      if (record.backend !== BACKEND_NAME || !isAlive(identity)) return undefined;
      if (machineOf(commandLine(record.pid), machinesFolder) !== record.id) return undefined;
      return createMachine({
        id: record.id,
        folder: record.folder,
        identity,
        exited: watchExit(identity),
        cgroups: await cgroupsOf(machinesFolder),
      });
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

function aborted(cause: unknown): CoppiceError {
  return new CoppiceError('aborted', 'given up by the caller', { cause });
}

function isMigrationEnd(event: QmpEvent): boolean {
  return event.event === 'MIGRATION' && (event.data.status === 'completed' || event.data.status === 'failed');
}

/** Refuses a clone whose image or shape is not the one in the device state. */
function checkFit(golden: GoldenCheckpoint, image: MachineImage, spec: MachineSpec): void {
  const { shape, imageHash } = golden.manifest;
  if (image.hash !== imageHash)
    throw new CoppiceError(
      'checkpoint_corrupt',
      'the golden checkpoint was made from another image than the one given',
    );
  for (const field of ['cpuCount', 'memoryMB', 'diskSizeMB'] as const)
    if (shape[field] !== spec.shape[field])
      throw new CoppiceError(
        'bad_request',
        `${field} is ${spec.shape[field]}, and the golden checkpoint has ${shape[field]}`,
      );
}

/** Takes down a clone that failed, and says why it did, with what QEMU wrote. */
async function cleanUp(
  error: unknown,
  spec: MachineSpec,
  machine: QemuMachine | undefined,
  groups: Cgroups,
): Promise<unknown> {
  const said = await readTail(join(spec.folder, LOG_FILE));
  if (machine) await machine.destroy();
  else await sweep(spec.id, dirname(spec.folder), groups);
  if (isCoppiceError(error, 'aborted')) return error;
  const reason = error instanceof Error ? error.message : String(error);
  return new CoppiceError(
    'start_failed',
    `machine ${spec.id} did not start: ${reason}${said ? `; VMM: ${said}` : ''}`,
    {
      cause: error,
    },
  );
}

async function readTail(path: string): Promise<string> {
  const handle = await open(path, 'r').catch(() => undefined);
  if (!handle) return '';
  try {
    const { size } = await handle.stat();
    const buffer = Buffer.alloc(Math.min(size, 1000));
    await handle.read(buffer, 0, buffer.length, Math.max(0, size - buffer.length));
    return buffer.toString('utf8').trim();
  } finally {
    await handle.close();
  }
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
