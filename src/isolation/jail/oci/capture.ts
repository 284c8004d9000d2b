/** Captures what a jail has written: a copy of its layer as of one instant, made whole, and published by one rename. */
import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { existsSync } from 'node:fs';
import { chmod, mkdir, rm, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { CoppiceError, isCoppiceError } from '../../../contract/errors.ts';
import { syncPath } from '../../../store/durable.ts';
import type { Log } from '../../../telemetry/log.ts';
import type { Capture, CaptureRequest, Checkpoint, MachineImage, MachineShape } from '../../backend.ts';
import { hashBlocks } from '../../block-hash.ts';
import { clearCapture, removeNote, writeNote } from './capture-note.ts';
import type { Keeper } from './keeper.ts';
import type { Jail } from './machine.ts';
import { manifestOf, publish } from './manifest.ts';
import { GOLDEN_LAYER, LAYER_FILE } from './names.ts';
import { stopOn } from './sparse-copy.ts';

const CHECK_DEADLINE_MS = 600_000;
/** e2fsck(8): nothing to repair; repaired. */
const WHOLE = [0, 1];

export interface JailCapture extends Omit<CaptureRequest, 'base' | 'memory'> {
  readonly log: Log;
  readonly keeper: Keeper;
  readonly jail: Jail;
  readonly out: string;
  readonly signal?: AbortSignal | undefined;
}

/** On any failure nothing is left of it, and the jail goes on as it was. */
export async function captureDisk(request: JailCapture): Promise<Capture> {
  const { jail, out, signal } = request;
  const { folder } = jail.record;
  const ran = !jail.parked;
  const work = join(dirname(out), `.partial-${randomBytes(6).toString('hex')}`);
  try {
    signal?.throwIfAborted();
    writeNote(folder, { work, thaw: !jail.parked });
    await mkdir(work, { recursive: true, mode: 0o700 });
    const stoodAtMs = await copyInto(work, request);
    const { checkpoint, ownBytes } = await finish(work, request);
    removeNote(folder);
    const pauseMs = request.goesOn ? stoodAtMs.until - stoodAtMs.since : performance.now() - stoodAtMs.since;
    return { checkpoint, ownBytes, pauseMs };
  } catch (error) {
    await rm(work, { recursive: true, force: true });
    if (ran && !request.goesOn) jail.unpark();
    clearCapture(folder);
    if (signal?.aborted) throw new CoppiceError('aborted', 'given up by the caller', { cause: error });
    // An end of the jail takes with it what is unfinished.
    if (jail.ended || !existsSync(folder))
      throw new CoppiceError('unavailable', `jail ${jail.id} has ended`, { cause: error });
    throw asCaptureError(error, jail.id);
  }
}

/** What is left of a jail that is gone: its layer, as after a loss of power. On any failure nothing is left of it. */
export async function salvageDisk(request: {
  readonly keeper: Keeper;
  readonly folder: string;
  readonly image: MachineImage;
  readonly shape: MachineShape;
  readonly out: string;
  readonly signal?: AbortSignal | undefined;
}): Promise<Checkpoint> {
  const { keeper, folder, shape, out, signal } = request;
  const work = join(dirname(out), `.partial-${randomBytes(6).toString('hex')}`);
  const { stop, release } = stopOn(signal);
  try {
    await mkdir(work, { recursive: true, mode: 0o700 });
    const size = shape.diskSizeMB * 2 ** 20;
    await keeper.ask('fill', { from: join(folder, LAYER_FILE), to: join(work, GOLDEN_LAYER), size, stop });
    return (await finish(work, request)).checkpoint;
  } catch (error) {
    await rm(work, { recursive: true, force: true });
    throw error;
  } finally {
    release();
  }
}

/** The jail stands still for the second of the copy's two steps only. */
async function copyInto(
  work: string,
  { log, keeper, jail, goesOn, guestReady, signal }: JailCapture,
): Promise<{ readonly since: number; readonly until: number }> {
  const to = join(work, GOLDEN_LAYER);
  const { stop, release } = stopOn(signal);
  try {
    await keeper.ask('copy', { layer: join(jail.record.folder, LAYER_FILE), to, stop });
    await guestReady;
    const since = performance.now();
    const settled = await jail.standStill(async () => {
      const result = await keeper.ask('settle', { to, stop });
      if (!goesOn) jail.park();
      return result;
    }, signal);
    const until = performance.now();
    // From here on whoever parks it means it.
    writeNote(jail.record.folder, { work, thaw: false });
    log.debug({ machine: jail.id, pauseMs: until - since, ...settled }, 'the disk of a jail is captured');
    return { since, until };
  } finally {
    release();
    await keeper.ask('close', { to });
  }
}

async function finish(
  work: string,
  { image, shape, out, signal }: Pick<JailCapture, 'image' | 'shape' | 'out' | 'signal'>,
): Promise<{ readonly checkpoint: Checkpoint; readonly ownBytes: number }> {
  const layer = join(work, GOLDEN_LAYER);
  await makeWhole(layer, signal);
  await chmod(layer, 0o444);
  await syncPath(layer);
  const { size, blocks } = await stat(layer);
  const sha256 = await hashBlocks(layer, signal);
  signal?.throwIfAborted();
  const files = { [GOLDEN_LAYER]: { bytes: size, sha256 } };
  return { checkpoint: await publish(work, out, manifestOf(image, shape, files)), ownBytes: blocks * 512 };
}

/**
 * The copy is of a mounted file system without a journal: files that were open and without a name still hold their blocks,
 * and it counts as not unmounted. What e2fsck mends of its own accord is all that may be wrong with it. It reads structures
 * that this host's kernel wrote: inside, nobody has had the device itself.
 */
async function makeWhole(layer: string, signal: AbortSignal | undefined): Promise<void> {
  const { code, said } = await new Promise<{ code: unknown; said: string }>((resolve) => {
    execFile(
      'e2fsck',
      ['-p', '-f', layer],
      { timeout: CHECK_DEADLINE_MS, env: { PATH: '/usr/sbin:/usr/bin:/sbin:/bin', LC_ALL: 'C' }, signal },
      (error, stdout, stderr) =>
        resolve({ code: error === null ? 0 : error.code, said: `${stdout}${stderr}`.slice(-500) }),
    );
  });
  signal?.throwIfAborted();
  if (!WHOLE.includes(code as number)) throw new Error(`e2fsck ended with ${code}: ${said.trim()}`);
}

function asCaptureError(error: unknown, id: string): CoppiceError {
  // What the keeper calls a start that failed was none here.
  if (isCoppiceError(error) && error.code !== 'start_failed') return error;
  const reason = (error as Error).message;
  if (/\bENOSPC\b|\bEDQUOT\b/.test(reason))
    return new CoppiceError('capacity', `no space on the host's disk for the disk of jail ${id}`, { cause: error });
  return new CoppiceError('internal', `the disk of jail ${id} was not captured: ${reason}`, { cause: error });
}
