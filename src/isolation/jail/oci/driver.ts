/**
 * Jails by an OCI runtime: the template's root filesystem under a layer of the jail's own, in namespaces, a cgroup, and
 * behind a filter of system calls, on the host's kernel.
 */
import { closeSync, openSync } from 'node:fs';
import { chmod, rm } from 'node:fs/promises';
import { totalmem } from 'node:os';
import { dirname, join } from 'node:path';
import { CoppiceError, isCoppiceError } from '../../../contract/errors.ts';
import type { Log } from '../../../telemetry/log.ts';
import type {
  BackendCapabilities,
  Checkpoint,
  IsolationBackend,
  Machine,
  MachineImage,
  MachineSpec,
} from '../../backend.ts';
import { type Cgroups, openCgroups } from '../../cgroup.ts';
import { identityOf, isAlive, readProcess, watchExit } from '../../process-table.ts';
import { captureDisk, salvageDisk } from './capture.ts';
import { clearCapture } from './capture-note.ts';
import { census } from './census.ts';
import { jailLimits, UIDS_EACH } from './config.ts';
import { endJail } from './end.ts';
import type { Keeper } from './keeper.ts';
import { createJail, type Jail, type JailParts } from './machine.ts';
import { checkLayer, layerOf, readManifest, writeManifest } from './manifest.ts';
import { mergedCommand } from './merge.ts';
import { BACKEND_NAME, LAYER_FILE } from './names.ts';
import { removeGroups } from './own-groups.ts';
import { type Choice, chooseRuntime } from './probe.ts';
import { RUNTIMES, type RuntimeName } from './runtime.ts';
import { stopOn } from './sparse-copy.ts';

export interface OciBackendOptions {
  readonly log: Log;
  /** Holds what jails share; made when missing. */
  readonly folder: string;
  /** The ranges of users that jails take: first, and how many of 65 536 each. */
  readonly uids: { readonly first: number; readonly slots: number } | undefined;
  /** In order of preference; default all that are known. */
  readonly runtimes?: readonly RuntimeName[];
}

const MACHINE_ID = /^[a-z0-9]{1,32}$/;
/** Part of the host's memory that all jails may hold together; beyond it they lose processes, and the host does not. */
const SHARE_OF_HOST = 0.8;

const CAPABILITIES: BackendCapabilities = {
  memoryCheckpoint: false,
  diskSnapshot: true,
  lastingPark: true,
  ownKernel: false,
  bornItself: true,
  agentOnDemand: true,
  port: 'namespace',
  uidsEach: UIDS_EACH,
  // Idle, 0.5 MiB (docs/performance.md); what they may hold together is limited by the cgroup that holds them all.
  admission: { overcommit: 16, overheadMB: 2 },
  volumes: 'birth',
};

export function createOciBackend(options: OciBackendOptions): IsolationBackend {
  const { log, folder, uids, runtimes = RUNTIMES } = options;
  const stateFolder = join(folder, 'state');
  const opened = new Map<string, Promise<Cgroups>>();
  /** Those that this process was given, by what it handed out for them. */
  const jails = new WeakMap<Machine, Jail>();
  const capturing = new Set<string>();
  let chosen: Promise<Choice> | undefined;

  /** The first runtime that works here, found once. */
  const choose = (): Promise<Choice> => {
    chosen ??= chooseRuntime({ folder, uids, runtimes });
    return chosen;
  };
  const demandKeeper = async (): Promise<Keeper> => {
    const { keeper, probe } = await choose();
    if (!keeper) throw new CoppiceError('host_unfit', probe.notices[0] ?? 'no jails here');
    return keeper;
  };

  const cgroupsOf = (machinesFolder: string): Promise<Cgroups> => {
    let found = opened.get(machinesFolder);
    if (!found) {
      found = openCgroups(machinesFolder, { family: 'jails', memoryBytes: totalmem() * SHARE_OF_HOST });
      opened.set(machinesFolder, found);
    }
    return found;
  };

  const jailOf = (parts: JailParts): Machine => {
    const jail = createJail(parts);
    jails.set(jail, jail);
    return jail;
  };

  const checkSpec = (spec: MachineSpec): void => {
    if (!MACHINE_ID.test(spec.id)) throw new CoppiceError('bad_request', 'machine id must match [a-z0-9]{1,32}');
    if (spec.uid === undefined || spec.uid < UIDS_EACH)
      throw new CoppiceError('bad_request', 'a jail needs a range of users of its own');
    if (spec.network && spec.network.kind !== 'namespace')
      throw new CoppiceError('bad_request', 'a jail needs a network namespace of its own');
  };

  return {
    name: BACKEND_NAME,
    kind: 'jail',
    capabilities: CAPABILITIES,

    probe: async () => (await choose()).probe,

    async makeGolden(image, spec, out) {
      return writeManifest(out, image, spec.shape);
    },

    openCheckpoint: async (golden, settings) => {
      await demandKeeper();
      return readManifest(golden, settings);
    },

    async clone(golden: Checkpoint, image: MachineImage, spec: MachineSpec, signal?: AbortSignal): Promise<Machine> {
      checkSpec(spec);
      if (golden.manifest.imageHash !== image.hash)
        throw new CoppiceError('checkpoint_corrupt', 'the template was made from another image than the one given');
      const { id, names, network, shape } = spec;
      const layer = await layerOf(golden);
      if (layer !== undefined && shape.diskSizeMB !== golden.manifest.shape.diskSizeMB)
        throw new CoppiceError(
          'bad_request',
          `diskSizeMB is ${shape.diskSizeMB}, and the captured disk has ${golden.manifest.shape.diskSizeMB}`,
        );
      const keeper = await demandKeeper();
      const cgroups = await cgroupsOf(dirname(spec.folder));
      let namespace: number | undefined;
      try {
        if (network) namespace = openSync(network.namespace, 'r');
        // The runtime, root of a user namespace by then, must be able to walk through.
        await chmod(spec.folder, 0o711);
        await cgroups.create(id, jailLimits(shape));
        signal?.throwIfAborted();
        if (layer !== undefined) await Promise.all([fill(keeper, layer, spec, signal), checkLayer(golden, signal)]);
        const { pid } = await keeper.ask('birth', {
          id,
          folder: spec.folder,
          uid: spec.uid!,
          shape,
          rootfs: image.rootfs,
          drive: image.agentDrive,
          hostname: names.hostname,
          machineID: names.machineID,
          filled: layer !== undefined,
          volumes: spec.volumes ?? [],
          ...(namespace === undefined ? {} : { network: namespace }),
          groups: cgroups.folders(id),
          group: cgroups.path(id),
          limits: jailLimits(shape),
        });
        const facts = readProcess(pid);
        if (!facts) throw new CoppiceError('start_failed', `jail ${id} ended as soon as it began`);
        signal?.throwIfAborted();
        const identity = { pid, startTime: facts.startTime };
        return jailOf({
          id,
          folder: spec.folder,
          identity,
          exited: watchExit(identity),
          cgroups,
          keeper,
          parked: false,
          undo: () => undo(id, dirname(spec.folder), cgroups),
        });
      } catch (error) {
        await undo(id, dirname(spec.folder), cgroups);
        if (signal?.aborted) throw new CoppiceError('aborted', 'given up by the caller', { cause: error });
        if (isCoppiceError(error)) throw error;
        throw new CoppiceError('start_failed', `jail ${id} did not start: ${(error as Error).message}`, {
          cause: error,
        });
      } finally {
        if (namespace !== undefined) closeSync(namespace);
      }
    },

    async capture(machine, { image, shape, memory, goesOn, guestReady }, out, signal) {
      if (memory) throw new CoppiceError('not_implemented', 'the memory of a jail cannot be captured');
      const jail = jails.get(machine);
      if (!jail) throw new CoppiceError('bad_request', 'this machine is no jail of this backend');
      if (capturing.has(jail.id))
        throw new CoppiceError('conflict', `the disk of jail ${jail.id} is being captured already`);
      capturing.add(jail.id);
      try {
        const about = { jail, image, shape, goesOn, ...(guestReady ? { guestReady } : {}) };
        return await captureDisk({ ...about, log, keeper: await demandKeeper(), out, signal });
      } finally {
        capturing.delete(jail.id);
      }
    },

    async salvage({ folder: left }, { image, shape }, out, signal) {
      return salvageDisk({ keeper: await demandKeeper(), folder: left, image, shape, out, signal });
    },

    async merged(checkpoint, image, folder) {
      const layer = await layerOf(checkpoint);
      if (layer === undefined) throw new CoppiceError('bad_request', 'nothing was captured that could be merged');
      return mergedCommand(image.rootfs, layer, folder);
    },

    async openVolume(image) {
      const { fd } = await (await demandKeeper()).ask('volume', { image });
      return fd;
    },

    async adopt(record) {
      const identity = identityOf(record);
      if (record.backend !== BACKEND_NAME || !isAlive(identity)) return undefined;
      const cgroups = await cgroupsOf(dirname(record.folder));
      if (!cgroups.processes(record.id).includes(record.pid)) return undefined;
      const { id } = record;
      const keeper = await demandKeeper();
      // A node that was killed in the middle of a capture has left it standing still.
      if (clearCapture(record.folder)) cgroups.freeze(id, false);
      return jailOf({
        id,
        folder: record.folder,
        identity,
        exited: watchExit(identity),
        cgroups,
        keeper,
        parked: cgroups.freezing(id).asked,
        undo: () => undo(id, dirname(record.folder), cgroups),
      });
    },

    async census(machinesFolder) {
      return census(machinesFolder, stateFolder, await cgroupsOf(machinesFolder));
    },

    async sweep(id, machinesFolder) {
      if (!MACHINE_ID.test(id)) throw new CoppiceError('bad_request', 'machine id must match [a-z0-9]{1,32}');
      await undo(id, machinesFolder, await cgroupsOf(machinesFolder));
    },
  };

  async function undo(id: string, machinesFolder: string, cgroups: Cgroups): Promise<void> {
    await endJail(id, cgroups);
    // The runtime's notes of it. Its own deletion would do no more than what is done here, and wait for the host's init.
    await rm(join(stateFolder, id), { recursive: true, force: true });
    await cgroups.remove(id);
    await removeGroups(cgroups.path(id));
    clearCapture(join(machinesFolder, id));
    await rm(join(machinesFolder, id), { recursive: true, force: true });
    log.debug({ machine: id }, 'a jail is undone');
  }
}

/** Its layer is a copy of a captured one. */
async function fill(keeper: Keeper, from: string, spec: MachineSpec, signal: AbortSignal | undefined): Promise<void> {
  const { stop, release } = stopOn(signal);
  try {
    await keeper.ask('fill', {
      from,
      to: join(spec.folder, LAYER_FILE),
      size: spec.shape.diskSizeMB * 2 ** 20,
      stop,
    });
  } finally {
    release();
  }
}
