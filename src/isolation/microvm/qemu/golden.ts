/** Makes a golden checkpoint: boots, lets the caller warm it up, stops it, captures it, and publishes it by one rename. */
import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdir, rm, truncate, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { CoppiceError, isCoppiceError } from '../../../contract/errors.ts';
import type { Checkpoint, Machine } from '../../backend.ts';
import { emptyOverlay } from '../qcow2.ts';
import { saveState, takeState } from './device-state.ts';
import { checkFolder, type Launched } from './launch.ts';
import { machineLimits } from './limits.ts';
import { GOLDEN_FILES } from './manifest.ts';
import { PARTIAL_PREFIX, publish, seal } from './publish.ts';
import { type StartRequest, startMachine } from './start.ts';

const run = promisify(execFile);
/** The warm-up may take this many times the reference boot: it starts interpreters, which under TCG is most of it. */
const WARM_UP_BOOTS = 200;
const WARM_UP_LEAST_MS = 300_000;
const STOP_DEADLINE_MS = 60_000;
const CONSOLE_CHARACTERS_IN_ERROR = 4_000;
/** For the end of a process to be noticed after its sockets broke. */
const SETTLE_MS = 200;

export interface GoldenRequest extends StartRequest {
  readonly out: string;
  readonly warm: (machine: Machine, signal: AbortSignal) => Promise<void>;
  readonly onProgress?: ((stage: string) => void) | undefined;
}

/** On any failure the work folder, the process and the machine's folder are gone. */
export async function makeGolden(request: GoldenRequest): Promise<Checkpoint> {
  const { spec, out } = request;
  checkFolder(spec.folder);
  const work = join(dirname(out), `${PARTIAL_PREFIX}${randomBytes(6).toString('hex')}`);
  await mkdir(work, { recursive: true, mode: 0o755 });
  try {
    const manifest = await captureInto(work, request);
    return await publish(work, out, manifest);
  } catch (error) {
    await rm(work, { recursive: true, force: true });
    if (request.signal?.aborted && !isCoppiceError(error))
      throw new CoppiceError('aborted', 'the golden checkpoint was given up', { cause: error });
    throw error;
  }
}

async function captureInto(work: string, request: GoldenRequest) {
  const { spec, image, probe, onProgress, log } = request;
  const { shape } = spec;
  const path = (name: keyof typeof GOLDEN_FILES) => join(work, GOLDEN_FILES[name]);
  onProgress?.('formatting the writable layer');
  await formatLayer(path('layer'), shape.diskSizeMB, request.signal);
  await writeFile(path('overlay'), emptyOverlay(shape.diskSizeMB * 2 ** 20));

  const deadline = AbortSignal.timeout(
    Math.max(WARM_UP_LEAST_MS, Math.ceil(probe.referenceBootSeconds * WARM_UP_BOOTS * 1000)),
  );
  const signal = request.signal ? AbortSignal.any([request.signal, deadline]) : deadline;
  signal.throwIfAborted();
  onProgress?.('booting');
  await request.cgroups.create(spec.id, machineLimits(shape));
  let machine: Machine | undefined;
  let launched: Launched | undefined;
  try {
    const role = { kind: 'boot', kernel: image.kernel, initrd: image.initrd, layer: path('layer') } as const;
    ({ launched, machine } = startMachine(request, role, path('memory')));
    const { identity, exited, qmp } = launched;
    await request.cgroups.add(spec.id, identity.pid);
    await qmp.greeting;
    onProgress?.('warming up');
    await orExit(exited, request.warm(machine, signal), signal);
    onProgress?.('capturing');
    // Guest memory is in its shared file already, so only the device state is left to write.
    await qmp.execute('stop', undefined, { signal, deadlineMs: STOP_DEADLINE_MS });
    await saveState(qmp, signal);
    await takeState(spec.folder, path('state'));
    await qmp.execute('quit', undefined, { signal });
    await exited;
  } catch (error) {
    throw await bootFailure(error, launched, request);
  } finally {
    if (machine) await machine.destroy();
    else await request.cgroups.remove(spec.id);
  }

  onProgress?.('publishing');
  const about = { imageHash: image.hash, shape, probe, memory: 'whole', files: Object.values(GOLDEN_FILES) } as const;
  const manifest = await seal(work, about, request.signal);
  log.info({ machine: spec.id, files: manifest.files }, 'golden checkpoint captured');
  return manifest;
}

/** Sparse: the image is all holes, and mke2fs is told that it reads as zeros, so that the guest has nothing left to zero. */
async function formatLayer(path: string, diskSizeMB: number, signal: AbortSignal | undefined): Promise<void> {
  await writeFile(path, '', { flag: 'wx' });
  await truncate(path, diskSizeMB * 2 ** 20);
  const features = ['-q', '-F', '-t', 'ext4', '-m', '0', '-L', 'coppice-layer', '-J', 'size=8'];
  try {
    await run('mke2fs', [...features, '-E', 'assume_storage_prezeroed=1,nodiscard,root_owner=0:0', path], {
      timeout: 120_000,
      maxBuffer: 65_536,
      env: { PATH: '/usr/sbin:/usr/bin:/sbin:/bin' },
      signal,
    });
  } catch (cause) {
    signal?.throwIfAborted();
    throw new CoppiceError('host_unfit', 'mke2fs cannot format the writable layer: install e2fsprogs 1.47 or newer', {
      cause,
    });
  }
}

/** The work, or an error as soon as the machine is gone or the time is up. */
async function orExit<T>(
  exited: Promise<{ readonly reason: string }>,
  work: Promise<T>,
  signal: AbortSignal,
): Promise<T> {
  const over = Promise.withResolvers<never>();
  const onAbort = () => over.reject(new CoppiceError('aborted', 'the boot was given up, or took too long'));
  signal.addEventListener('abort', onAbort, { once: true });
  if (signal.aborted) onAbort();
  void exited.then(({ reason }) => over.reject(new CoppiceError('start_failed', `the machine ended: ${reason}`)));
  over.promise.catch(() => {});
  try {
    return await Promise.race([work, over.promise]);
  } finally {
    signal.removeEventListener('abort', onAbort);
  }
}

/** Adds how the process ended, if it has, and what the console said last. */
async function bootFailure(error: unknown, launched: Launched | undefined, request: GoldenRequest): Promise<unknown> {
  const ended = launched && (await Promise.race([launched.exited, sleep(SETTLE_MS, undefined)]));
  const consoleTail = (launched?.consoleTail() ?? '').slice(-CONSOLE_CHARACTERS_IN_ERROR).trim();
  request.log.error({ error, machine: request.spec.id, ended, consoleTail }, 'golden boot failed');
  if (request.signal?.aborted) return new CoppiceError('aborted', 'the golden boot was given up', { cause: error });
  const reason = error instanceof Error ? error.message : String(error);
  return new CoppiceError(
    'start_failed',
    `golden boot failed: ${reason}${ended ? ` (the VMM ended: ${ended.reason})` : ''}; console: ${consoleTail || 'empty'}`,
    { cause: error, details: { consoleTail } },
  );
}
