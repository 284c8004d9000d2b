/** Facts of the host that a machine depends on. */
import { execFile } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { promisify } from 'node:util';
import { CoppiceError } from '../../../contract/errors.ts';

const run = promisify(execFile);

export interface HostCpu {
  readonly model: string;
  /** kHz; the best guess before it is measured. undefined: nothing to go by. */
  readonly tscKHz: number | undefined;
}

/**
 * Reads /proc/cpuinfo. Where the kernel was told the counter's frequency, `cpu MHz` is it; elsewhere that line moves with
 * the clock of the core, and the nominal frequency in the model's name is nearer.
 */
export function parseCpuInfo(text: string): HostCpu {
  const field = (name: string) => new RegExp(`^${name}\\s*:\\s*(.*)$`, 'm').exec(text)?.[1];
  const model = field('model name') ?? 'unknown';
  const flags = (field('flags') ?? '').split(' ');
  const current = Number(field('cpu MHz')) * 1000;
  const nominal = Number(/@\s*([\d.]+)\s*GHz/.exec(model)?.[1]) * 1e6;
  const told = flags.includes('tsc_known_freq') || flags.includes('hypervisor');
  const best = [told ? current : nominal, current].find((value) => Number.isFinite(value) && value > 0);
  return { model, tscKHz: best === undefined ? undefined : Math.round(best) };
}

export async function readHostCpu(): Promise<HostCpu> {
  return parseCpuInfo(await readFile('/proc/cpuinfo', 'utf8'));
}

/** e.g. `7.2.22`. host_unfit when the program is not there. */
export async function emulatorVersion(emulator: string, signal?: AbortSignal): Promise<string> {
  try {
    const { stdout } = await run(emulator, ['--version'], { timeout: 10_000, maxBuffer: 65_536, signal });
    const version = /version (\d+\.\d+\.\d+)/.exec(stdout)?.[1];
    if (version) return version;
  } catch (cause) {
    signal?.throwIfAborted();
    throw new CoppiceError('host_unfit', `${emulator} cannot be run: install qemu-system-x86`, { cause });
  }
  throw new CoppiceError('host_unfit', `${emulator} does not print a version that is understood`);
}
