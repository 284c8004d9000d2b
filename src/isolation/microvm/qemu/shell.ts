/**
 * How a machine is made of a checkpoint: a VMM is started for its base, and waits with everything but a state (a shell);
 * then it is given one. A clone is both in one go, with the files in place before the VMM starts.
 */
import { constants } from 'node:fs';
import { chmod, copyFile, open } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { CoppiceError, isCoppiceError } from '../../../contract/errors.ts';
import type { Checkpoint, MachineImage, MachineSpec, Shell } from '../../backend.ts';
import type { Cgroups } from '../../cgroup.ts';
import { openPageFile } from '../page-file.ts';
import { sweep } from './census.ts';
import type { MachineRole } from './config.ts';
import { giveState } from './device-state.ts';
import { type Launched, LOG_FILE, OVERLAY_FILE, RESTORE_URI } from './launch.ts';
import { machineLimits } from './limits.ts';
import type { QemuMachine } from './machine.ts';
import { checkOwnData, DISK_FILES, faultOfOverlay, GOLDEN_FILES, OWN_FILES } from './manifest.ts';
import { openGuestMemory } from './own-pages.ts';
import type { QmpEvent } from './qmp.ts';
import { type StartRequest, startMachine } from './start.ts';

/** Hundreds may start at once on few cores. */
const RESTORE_DEADLINE_MS = 60_000;
/** What a caller can do something about; all else is a start that failed. */
const TOLD_AS_THEY_ARE = ['aborted', 'checkpoint_corrupt', 'conflict'] as const;

export interface QemuShell extends Shell {
  restore(checkpoint: Checkpoint, signal?: AbortSignal): Promise<QemuMachine>;
}

/** The golden checkpoint under a checkpoint. */
function baseOf(checkpoint: Checkpoint): Checkpoint {
  if (checkpoint.manifest.memory === 'whole') return checkpoint;
  if (checkpoint.base) return checkpoint.base;
  throw new CoppiceError('checkpoint_corrupt', `checkpoint ${checkpoint.folder} lies on another, which is not there`);
}

/** A shell for a golden checkpoint. On failure nothing is left behind. */
export async function makeShell(base: Checkpoint, request: StartRequest): Promise<QemuShell> {
  const making = begin(base, request);
  let given = false;
  await making.attempt(async () => {
    await making.start();
    await Promise.all([making.connected(), making.limited()]);
  }, request.signal);
  return {
    record: making.machine.record,
    exited: making.machine.exited,
    async restore(checkpoint, signal) {
      if (given) throw new CoppiceError('conflict', `shell ${request.spec.id} was restored already`);
      given = true;
      making.countAnew();
      return making.attempt(async () => {
        await making.become(checkpoint, signal);
        return making.machine;
      }, signal);
    },
    destroy: () => making.machine.destroy(),
  };
}

/** A machine of any checkpoint. On failure nothing is left behind. */
export async function makeClone(checkpoint: Checkpoint, request: StartRequest): Promise<QemuMachine> {
  const making = begin(checkpoint, request);
  return making.attempt(async () => {
    await making.start();
    await Promise.all([making.become(checkpoint, request.signal), making.limited()]);
    return making.machine;
  }, request.signal);
}

interface Making {
  /** There once it has started. */
  readonly machine: QemuMachine;
  /** Files in place, process spawned. */
  start(): Promise<void>;
  /** In the group that limits it. */
  limited(): Promise<void>;
  /** Its monitor answers and its channel is connected. */
  connected(): Promise<void>;
  /** Stages count from now on, and those so far are forgotten. */
  countAnew(): void;
  /** Runs from the checkpoint's state. */
  become(checkpoint: Checkpoint, signal: AbortSignal | undefined): Promise<void>;
  /** The work; whatever fails takes the machine down, and says why with what QEMU wrote. */
  attempt<T>(work: () => Promise<T>, signal: AbortSignal | undefined): Promise<T>;
}

/** @param placed what its files are of when the VMM opens them. */
function begin(placed: Checkpoint, request: StartRequest): Making {
  const { spec, cgroups, log, image } = request;
  const base = baseOf(placed);
  let since = performance.now();
  const stages: Record<string, number> = {};
  const mark = (stage: string) => {
    stages[stage] = Math.round((performance.now() - since) * 100) / 100;
  };
  let launched: Launched | undefined;
  let machine: QemuMachine | undefined;
  let limiting: Promise<void> | undefined;
  let connecting: Promise<void> | undefined;

  const limited = () => {
    limiting ??= cgroups.add(spec.id, launched!.identity.pid).then(() => mark('limited'));
    return limiting;
  };
  const connected = () => {
    connecting ??= launched!.qmp.greeting.then(async () => {
      mark('greeted');
      await machine!.connectChannel(request.signal);
      mark('connected');
    });
    return connecting;
  };

  /** What was captured of memory, written into the VMM's while nothing runs there. */
  const giveMemory = async (checkpoint: Checkpoint, signal: AbortSignal | undefined) => {
    const bytes = spec.shape.memoryMB * 2 ** 20;
    const pages = await openPageFile(join(checkpoint.folder, OWN_FILES.pages), bytes);
    try {
      // The pages count for the group that the VMM is in by then.
      await Promise.all([limited(), connected()]);
      const path = join(base.folder, GOLDEN_FILES.memory);
      const memory = await openGuestMemory(launched!.identity, path, bytes, 'write');
      try {
        await memory.set(pages.read(signal));
      } finally {
        await memory.close();
      }
    } finally {
      await pages.close();
    }
    mark('memory');
  };

  const restoreState = async (checkpoint: Checkpoint, signal: AbortSignal | undefined) => {
    const { qmp } = launched!;
    const wait = { signal, deadlineMs: RESTORE_DEADLINE_MS };
    const ended = qmp.event(isMigrationEnd, wait).then(({ data }) => {
      mark('restored');
      if (data.status !== 'completed') throw new CoppiceError('start_failed', 'the device state did not restore');
    });
    const told = (async () => {
      // Before the devices: loading them reads rings that are in memory.
      if (checkpoint.manifest.memory === 'own') await giveMemory(checkpoint, signal);
      else await connected();
      await qmp.execute('migrate-incoming', { uri: RESTORE_URI }, wait);
    })();
    await Promise.all([told, ended]);
  };

  return {
    get machine() {
      return machine!;
    },
    async start() {
      request.signal?.throwIfAborted();
      await Promise.all([
        chmod(spec.folder, 0o700),
        cgroups.create(spec.id, machineLimits(spec.shape)),
        place(placed, spec),
      ]);
      request.signal?.throwIfAborted();
      mark('prepared');
      const memory = join(base.folder, GOLDEN_FILES.memory);
      ({ launched, machine } = startMachine(request, roleOf(placed, base, image, spec), memory, stages));
      mark('spawned');
    },
    limited,
    connected,
    countAnew() {
      since = performance.now();
      for (const stage of Object.keys(stages)) delete stages[stage];
    },
    async become(checkpoint, signal) {
      if (baseOf(checkpoint).folder !== base.folder)
        throw new CoppiceError('conflict', `shell ${spec.id} was made for another checkpoint`);
      if (checkpoint.manifest.memory === 'none' && checkpoint !== placed)
        throw new CoppiceError('conflict', 'a shell restores, and a checkpoint without memory boots');
      if (checkpoint !== placed) await place(checkpoint, spec);
      const ready = checkpoint.manifest.memory === 'none' ? connected() : restoreState(checkpoint, signal);
      // While the VMM works; nothing of it runs before.
      await Promise.all([ready, checkOwnData(checkpoint, signal)]);
      const { qmp, release } = launched!;
      await qmp.execute('cont', undefined, { signal, deadlineMs: RESTORE_DEADLINE_MS });
      mark('running');
      await limited();
      qmp.close();
      release();
      log.debug({ machine: spec.id, stages }, 'cloned');
    },
    async attempt(work, signal) {
      try {
        return await work();
      } catch (error) {
        const cause = signal?.aborted ? aborted(error) : error;
        throw await cleanUp(cause, spec, machine, cgroups);
      }
    },
  };
}

/**
 * Gives a machine's folder what a checkpoint has of its own. A VMM that waits has the overlay open already: it is written in
 * place, and read anew when the drives are activated, which is the last step of a restore.
 */
async function place(checkpoint: Checkpoint, spec: MachineSpec): Promise<void> {
  const overlay = join(spec.folder, OVERLAY_FILE);
  await Promise.all([
    copyFile(join(checkpoint.folder, DISK_FILES.overlay), overlay, constants.COPYFILE_FICLONE).then(() =>
      chmod(overlay, 0o600),
    ),
    checkpoint.manifest.memory === 'none'
      ? undefined
      : giveState(join(checkpoint.folder, GOLDEN_FILES.state), spec.folder),
  ]);
  const fault = await faultOfOverlay(overlay, spec.shape);
  if (fault !== undefined)
    throw new CoppiceError('checkpoint_corrupt', `checkpoint ${checkpoint.folder}: ${DISK_FILES.overlay} ${fault}`);
}

function roleOf(checkpoint: Checkpoint, base: Checkpoint, image: MachineImage, spec: MachineSpec): MachineRole {
  const disk = { layer: join(base.folder, GOLDEN_FILES.layer), overlay: join(spec.folder, OVERLAY_FILE) };
  return checkpoint.manifest.memory === 'none'
    ? { kind: 'start', kernel: image.kernel, initrd: image.initrd, ...disk }
    : { kind: 'clone', ...disk };
}

export function aborted(cause: unknown): CoppiceError {
  return new CoppiceError('aborted', 'given up by the caller', { cause });
}

function isMigrationEnd(event: QmpEvent): boolean {
  return event.event === 'MIGRATION' && (event.data.status === 'completed' || event.data.status === 'failed');
}

/** Takes down a machine that failed to come up. The error, with what QEMU wrote. */
async function cleanUp(
  error: unknown,
  spec: MachineSpec,
  machine: QemuMachine | undefined,
  cgroups: Cgroups,
): Promise<unknown> {
  const said = await readTail(join(spec.folder, LOG_FILE));
  if (machine) await machine.destroy();
  else await sweep(spec.id, dirname(spec.folder), cgroups);
  if (TOLD_AS_THEY_ARE.some((code) => isCoppiceError(error, code))) return error;
  const reason = error instanceof Error ? error.message : String(error);
  const message = `machine ${spec.id} did not start: ${reason}${said ? `; VMM: ${said}` : ''}`;
  return new CoppiceError('start_failed', message, { cause: error });
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
