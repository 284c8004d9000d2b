/**
 * Captures a machine: the pages that its VMM owns, its device state and its overlay, all as of one instant at which it is
 * stopped. Only what has to be of that instant is done while it is; the rest comes after it goes on.
 */
import { randomBytes } from 'node:crypto';
import { existsSync } from 'node:fs';
import { type FileHandle, mkdir, open, rm, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { CoppiceError, isCoppiceError } from '../../../contract/errors.ts';
import type { Log } from '../../../telemetry/log.ts';
import {
  type Capture,
  type CaptureRequest,
  type Checkpoint,
  contentOf,
  type MachineImage,
  type MachineShape,
} from '../../backend.ts';
import { completePageFile, dataAt } from '../page-file.ts';
import { saveState, takeState } from './device-state.ts';
import { OVERLAY_FILE } from './launch.ts';
import type { QemuMachine } from './machine.ts';
import { DISK_FILES, faultOfOverlay, GOLDEN_FILES, OWN_FILES } from './manifest.ts';
import { approachOverlay } from './overlay-copy.ts';
import { type GuestMemory, openGuestMemory } from './own-pages.ts';
import type { QemuProbe } from './probe.ts';
import { PARTIAL_PREFIX, publish, seal } from './publish.ts';

export interface MachineCapture extends CaptureRequest {
  readonly log: Log;
  readonly probe: QemuProbe;
  readonly machine: QemuMachine;
  readonly out: string;
  readonly signal?: AbortSignal | undefined;
}

/** On any failure nothing is left of it, and the machine goes on as it was. */
export async function captureMachine(request: MachineCapture): Promise<Capture> {
  const { machine, out, goesOn, memory, signal } = request;
  const work = join(dirname(out), `${PARTIAL_PREFIX}${randomBytes(6).toString('hex')}`);
  let stopped = false;
  try {
    signal?.throwIfAborted();
    await mkdir(work, { recursive: true, mode: 0o700 });
    const { stoppedAtMs, pauseMs } = await copyInto(work, request);
    stopped = !goesOn;
    if (goesOn) request.onGoesOn?.();
    if (memory) await takeState(machine.record.folder, join(work, OWN_FILES.state));
    const fault = await faultOfOverlay(join(work, DISK_FILES.overlay), request.shape);
    if (fault !== undefined) throw new CoppiceError('checkpoint_corrupt', `the VMM wrote an overlay that ${fault}`);
    const files = Object.values(memory ? OWN_FILES : DISK_FILES);
    const about = { probe: request.probe, imageHash: request.image.hash, shape: request.shape, files };
    const base = contentOf(request.base.manifest);
    const manifest = await seal(work, { ...about, memory: memory ? 'own' : 'none', base }, signal);
    let ownBytes = 0;
    for (const name of files) ownBytes += (await stat(join(work, name))).blocks * 512;
    signal?.throwIfAborted();
    const checkpoint = { ...(await publish(work, out, manifest)), base: request.base };
    return { checkpoint, ownBytes, pauseMs: goesOn ? pauseMs : performance.now() - stoppedAtMs };
  } catch (error) {
    await rm(work, { recursive: true, force: true });
    if (stopped) await machine.goOn().catch(() => {});
    if (signal?.aborted) throw new CoppiceError('aborted', 'given up by the caller', { cause: error });
    // An end of the machine takes with it what is unfinished.
    if (!existsSync(machine.record.folder))
      throw new CoppiceError('unavailable', `machine ${machine.id} has ended`, { cause: error });
    throw asCaptureError(error, machine.id);
  }
}

/** What is left of a machine that is gone: its overlay, as after a loss of power. On any failure nothing is left of it. */
export async function salvageDisk(request: {
  readonly probe: QemuProbe;
  readonly folder: string;
  readonly image: MachineImage;
  readonly shape: MachineShape;
  readonly base: Checkpoint;
  readonly out: string;
  readonly signal?: AbortSignal | undefined;
}): Promise<Checkpoint> {
  const { probe, folder, image, shape, base, out, signal } = request;
  const work = join(dirname(out), `${PARTIAL_PREFIX}${randomBytes(6).toString('hex')}`);
  try {
    await mkdir(work, { recursive: true, mode: 0o700 });
    const overlay = join(work, DISK_FILES.overlay);
    await approachOverlay(join(folder, OVERLAY_FILE), overlay, signal);
    const fault = await faultOfOverlay(overlay, shape);
    if (fault !== undefined) throw new CoppiceError('checkpoint_corrupt', `the VMM left an overlay that ${fault}`);
    const files = Object.values(DISK_FILES);
    const about = { probe, imageHash: image.hash, shape, files, memory: 'none' as const };
    const manifest = await seal(work, { ...about, base: contentOf(base.manifest) }, signal);
    return { ...(await publish(work, out, manifest)), base };
  } catch (error) {
    await rm(work, { recursive: true, force: true });
    throw error;
  }
}

/** What has to be of one instant: the machine is stopped for the last part of this. */
async function copyInto(
  work: string,
  { machine, memory, base, shape, goesOn, guestReady, signal, log }: MachineCapture,
): Promise<{ readonly stoppedAtMs: number; readonly pauseMs: number }> {
  const approach = () =>
    approachOverlay(join(machine.record.folder, OVERLAY_FILE), join(work, DISK_FILES.overlay), signal);
  if (!memory) {
    const overlay = await approach();
    await guestReady;
    return machine.standStill(() => overlay.settle(), { goesOn, signal });
  }
  const memoryBytes = shape.memoryMB * 2 ** 20;
  const guest = await openGuestMemory(machine.identity, join(base.folder, GOLDEN_FILES.memory), memoryBytes, 'read');
  try {
    const file = await open(join(work, OWN_FILES.pages), 'wx');
    try {
      // All of it again while it is stopped, into pages of the host's cache that are there by then: to find them takes
      // several times as long as to fill them.
      const [overlay] = await all([approach(), copyPages(guest, file, signal), guestReady]);
      const { value, ...times } = await machine.standStill(
        // Saving the state of devices changes no memory: QEMU itself sends the last of the memory before it.
        (qmp) => all([overlay.settle(), saveState(qmp, signal), copyPages(guest, file, signal)]),
        { goesOn, signal },
      );
      const [overlayBytes, , runs] = value;
      await completePageFile(file, memoryBytes, runs);
      log.debug(
        { machine: machine.id, ...times, runs: runs.length, overlayBytes },
        'the memory of a machine is copied',
      );
      return times;
    } finally {
      await file.close();
    }
  } finally {
    await guest.close();
  }
}

/** As Promise.all, but a failure is told when the others have ended too: what they use may be closed then. */
async function all<const T extends readonly unknown[]>(work: T): Promise<{ -readonly [K in keyof T]: Awaited<T[K]> }> {
  await Promise.allSettled(work);
  return Promise.all(work);
}

async function copyPages(guest: GuestMemory, file: FileHandle, signal: AbortSignal | undefined) {
  const runs = await guest.own(signal);
  await guest.copyTo(file, dataAt(runs.length), runs, signal);
  return runs;
}

function asCaptureError(error: unknown, id: string): CoppiceError {
  const reason = error instanceof Error ? error.message : String(error);
  if (/\bENOSPC\b|\bEDQUOT\b|No space left on device/.test(reason))
    return new CoppiceError(
      'capacity',
      `no space on the host's disk to capture machine ${id}: delete snapshots or paused sandboxes`,
      { cause: error },
    );
  const message = `machine ${id} was not captured: ${reason}`;
  if (!isCoppiceError(error)) return new CoppiceError('internal', message, { cause: error });
  return new CoppiceError(error.code, message, { cause: error, details: error.details });
}
