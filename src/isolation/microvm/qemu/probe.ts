/**
 * Which accelerator is fit, found by booting the guest kernel: a /dev/kvm that opens and answers may still run a kernel a
 * thousand times too slowly. The result is kept in a file for this boot of the host, this VMM and this kernel.
 */
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { constants, createReadStream } from 'node:fs';
import { access, mkdir, mkdtemp, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { z } from 'zod';
import { CoppiceError } from '../../../contract/errors.ts';
import type { Log } from '../../../telemetry/log.ts';
import { cpioArchive } from '../cpio.ts';
import { PROBE_MARK, PROBE_READINGS, probeProgram } from '../probe-program.ts';
import { acceleratorArguments, kernelCommandLine, machineName, type VmmHost } from './config.ts';
import { emulatorVersion, readHostCpu } from './host.ts';

/** A host whose KVM works boots the kernel in under a second. */
const KVM_DEADLINE_MS = 8_000;
const TCG_DEADLINE_MS = 90_000;
const OUTPUT_BYTES = 262_144;
const TSC_TRIALS = 4;
/** Beyond this the guess of the counter's speed is replaced by what was measured, in parts of one. */
const TSC_TOLERANCE = 0.005;
const FORMAT = 1;

const storedProbe = z.object({
  format: z.literal(FORMAT),
  key: z.string(),
  accelerator: z.enum(['kvm', 'tcg']),
  version: z.string(),
  tscKHz: z.number().int().nonnegative(),
  cpuModel: z.string(),
  referenceBootSeconds: z.number().positive(),
  notices: z.array(z.string()),
});

/** What the self-test found; `accelerator`, `tscKHz` and `cpuModel` make a VmmHost. */
export type QemuProbe = Readonly<z.infer<typeof storedProbe>>;

export interface ProbeOptions {
  readonly log: Log;
  readonly emulator: string;
  readonly kernel: string;
  readonly kvm: 'auto' | 'off';
  readonly probeFile: string;
  readonly signal?: AbortSignal | undefined;
}

/** host_unfit when no accelerator boots the kernel. */
export async function probeHost(options: ProbeOptions): Promise<QemuProbe> {
  const { log, emulator, probeFile, signal } = options;
  const [bootID, version, kernelHash, cpu] = await Promise.all([
    readFile('/proc/sys/kernel/random/boot_id', 'utf8'),
    emulatorVersion(emulator, signal),
    sha256File(options.kernel),
    readHostCpu(),
  ]);
  const key = createHash('sha256')
    .update(JSON.stringify([bootID.trim(), emulator, version, kernelHash, options.kvm, machineName, cpu.model]))
    .digest('hex');
  const kept = await readProbe(probeFile, key);
  if (kept) return kept;

  const notices: string[] = [];
  const result = (accelerator: 'kvm' | 'tcg', boot: TrialBoot, tscKHz: number): QemuProbe => ({
    format: FORMAT,
    key,
    accelerator,
    version,
    tscKHz,
    cpuModel: cpu.model,
    referenceBootSeconds: boot.seconds,
    notices,
  });
  const trial = (host: VmmHost, deadlineMs: number) =>
    trialBoot({ emulator, kernel: options.kernel, host, deadlineMs, signal });
  const guess = cpu.tscKHz ?? 1_000_000;

  let found: QemuProbe | undefined;
  if (options.kvm === 'off') notices.push('KVM is switched off by configuration; machines run by emulation (TCG)');
  else if (
    !(await access('/dev/kvm', constants.R_OK | constants.W_OK).then(
      () => true,
      () => false,
    ))
  )
    notices.push('no /dev/kvm that can be opened; machines run by emulation (TCG), 10 to 15 times slower');
  else {
    const boot = await trial({ accelerator: 'kvm', tscKHz: guess, cpuModel: cpu.model }, KVM_DEADLINE_MS);
    if (boot.ok) found = result('kvm', boot, guess);
    else {
      log.warn({ reason: boot.reason }, 'KVM did not pass the self-test');
      notices.push(
        `/dev/kvm is there, but the guest kernel did not boot on it within ${KVM_DEADLINE_MS / 1000} s: machines run by emulation (TCG), 10 to 15 times slower`,
      );
    }
  }
  if (!found) {
    const tcg: VmmHost = { accelerator: 'tcg', tscKHz: guess, cpuModel: cpu.model };
    const deviation = ({ tscKHz }: TrialBoot): number => Math.abs(tscKHz / guess - 1);
    let best: TrialBoot | undefined;
    // On a loaded host the measurement is late, and so wrong; the guess is believed if any of them agrees with it.
    for (let count = 0; count < TSC_TRIALS && (!best || deviation(best) > TSC_TOLERANCE); count++) {
      const boot = await trial(tcg, TCG_DEADLINE_MS);
      if (!boot.ok)
        throw new CoppiceError('host_unfit', `the guest kernel does not boot under ${emulator}: ${boot.reason}`);
      if (!best || deviation(boot) < deviation(best)) best = boot;
    }
    const boot = best!;
    const off = deviation(boot);
    if (off > TSC_TOLERANCE)
      notices.push(
        `the time stamp counter runs at ${boot.tscKHz} kHz, not at the ${guess} kHz that /proc/cpuinfo suggests`,
      );
    found = result('tcg', boot, off > TSC_TOLERANCE ? boot.tscKHz : guess);
  }
  await writeProbe(probeFile, found);
  log.info({ ...found }, 'accelerator chosen by a trial boot');
  return found;
}

interface TrialBoot {
  readonly ok: true;
  /** Process start to the first line from user space. */
  readonly seconds: number;
  /** Counter against the host's clock. */
  readonly tscKHz: number;
}

/** Boots the kernel with the probe program as its init. Rejects only when given up. */
async function trialBoot(options: {
  readonly emulator: string;
  readonly kernel: string;
  readonly host: VmmHost;
  readonly deadlineMs: number;
  readonly signal?: AbortSignal | undefined;
}): Promise<TrialBoot | { readonly ok: false; readonly reason: string }> {
  const folder = await mkdtemp(join(tmpdir(), 'coppice-probe-'));
  try {
    const initrd = join(folder, 'initrd');
    await writeFile(initrd, cpioArchive([{ path: 'init', mode: 0o100755, data: probeProgram() }]));
    return await runTrial(initrd, options);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

function runTrial(
  initrd: string,
  options: Parameters<typeof trialBoot>[0],
): Promise<TrialBoot | { readonly ok: false; readonly reason: string }> {
  const { emulator, kernel, host, deadlineMs, signal } = options;
  const args = [
    ['-nodefaults', '-no-user-config', '-no-reboot', '-display', 'none', '-M', machineName, '-m', '256M'],
    ...acceleratorArguments(host),
    ['-chardev', 'stdio,id=console,signal=off', '-serial', 'chardev:console'],
    ['-kernel', kernel, '-initrd', initrd, '-append', kernelCommandLine(host)],
    ['-sandbox', 'on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny'],
  ].flat();
  return new Promise((resolve, reject) => {
    const start = performance.now();
    const child = spawn(emulator, args, { stdio: ['ignore', 'pipe', 'pipe'], env: { MALLOC_ARENA_MAX: '1' } });
    const marks: { readonly at: number; readonly tsc: bigint }[] = [];
    let text = '';
    let read = 0;
    let ended = false;
    const end = (settle: () => void) => {
      if (ended) return;
      ended = true;
      clearTimeout(timer);
      signal?.removeEventListener('abort', onAbort);
      child.kill('SIGKILL');
      settle();
    };
    const fail = (reason: string) =>
      end(() => resolve({ ok: false, reason: `${reason}; console: ${JSON.stringify(text.slice(-300))}` }));
    const onAbort = () => end(() => reject(new CoppiceError('aborted', 'the self-test was given up')));
    const timer = setTimeout(() => fail('no sign of life in time'), deadlineMs);
    const onData = (chunk: Buffer) => {
      const at = performance.now();
      read += chunk.length;
      if (read > OUTPUT_BYTES) return fail('it wrote too much');
      text += chunk.toString('latin1');
      const found = [...text.matchAll(PROBE_MARK)];
      for (const mark of found.slice(marks.length)) marks.push({ at, tsc: BigInt(`0x${mark[1]}`) });
      const [first, last] = [marks[0], marks[PROBE_READINGS - 1]];
      if (!first || !last) return;
      const tscKHz = Math.round(Number(last.tsc - first.tsc) / (last.at - first.at));
      end(() => resolve({ ok: true, seconds: (first.at - start) / 1000, tscKHz }));
    };
    child.stdout.on('data', onData);
    child.stderr.on('data', onData);
    child.once('error', (error) => fail(error.message));
    child.once('close', (code, name) => fail(`it ended with ${name ?? `code ${code}`}`));
    signal?.addEventListener('abort', onAbort, { once: true });
    if (signal?.aborted) onAbort();
  });
}

async function readProbe(file: string, key: string): Promise<QemuProbe | undefined> {
  try {
    const parsed = storedProbe.safeParse(JSON.parse(await readFile(file, 'utf8')));
    return parsed.success && parsed.data.key === key ? parsed.data : undefined;
  } catch {
    return undefined;
  }
}

async function writeProbe(file: string, probe: QemuProbe): Promise<void> {
  await mkdir(dirname(file), { recursive: true });
  const partial = `${file}.${process.pid}.partial`;
  await writeFile(partial, `${JSON.stringify(probe, undefined, 2)}\n`);
  await rename(partial, file);
}

async function sha256File(path: string, signal?: AbortSignal): Promise<string> {
  const hash = createHash('sha256');
  for await (const chunk of createReadStream(path, { highWaterMark: 1_048_576, signal })) hash.update(chunk as Buffer);
  return hash.digest('hex');
}
