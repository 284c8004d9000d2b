/** A QEMU backend with a golden checkpoint of the tiny image, for the tests of what is done with its machines. */
import assert from 'node:assert/strict';
import { chmod, mkdir, mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Duplex } from 'node:stream';
import type { Capture, Checkpoint, Machine, MachineImage, MachineSpec } from '../../src/isolation/backend.ts';
import { createQemuBackend, type QemuBackend } from '../../src/isolation/microvm/qemu/driver.ts';
import { silentLog } from '../../src/telemetry/log.ts';
import { tinyImage } from './tiny-image.ts';

export const SHAPE = { cpuCount: 1, memoryMB: 128, diskSizeMB: 256 };
/** For a boot under emulation on a busy host. */
const ANSWER_MS = 120_000;

export interface QemuRig {
  readonly home: string;
  readonly machines: string;
  readonly image: MachineImage;
  readonly backend: QemuBackend;
  readonly golden: Checkpoint;
  spec(): Promise<MachineSpec>;
  clone(checkpoint?: Checkpoint): Promise<Guest>;
  /** Path for a checkpoint to come. */
  nextOut(): string;
  capture(machine: Machine, options?: CaptureOptions): Promise<Capture>;
  /** What captures have left behind that is no checkpoint. */
  leftovers(): Promise<readonly string[]>;
  sweep(): Promise<void>;
  close(): Promise<void>;
}

export interface CaptureOptions {
  readonly memory?: boolean;
  readonly goesOn?: boolean;
  readonly out?: string;
  readonly base?: Checkpoint;
  readonly signal?: AbortSignal;
}

export interface Guest {
  readonly machine: Machine;
  /** One line of the tiny image's language, and its answer. */
  ask(line: string): Promise<string>;
}

export function newBackend(home: string, image: MachineImage): QemuBackend {
  return createQemuBackend({
    log: silentLog,
    home: { probeFile: join(home, 'probe.json') },
    rootless: false,
    kvm: 'off',
    kernel: async () => image.kernel,
  });
}

export async function ask(channel: Duplex, line: string): Promise<string> {
  const silent = setTimeout(() => channel.destroy(new Error(`no answer to '${line}'`)), ANSWER_MS);
  try {
    channel.write(`${line}\n`);
    let text = '';
    for await (const chunk of channel.iterator({ destroyOnReturn: false })) {
      text += chunk;
      if (text.includes('\n')) break;
    }
    return text.trim();
  } finally {
    clearTimeout(silent);
  }
}

export async function guestOf(machine: Machine): Promise<Guest> {
  const channel = await machine.openChannel();
  return { machine, ask: (line) => ask(channel, line) };
}

export async function qemuRig(): Promise<QemuRig> {
  const home = await mkdtemp(join(tmpdir(), 'cpq-'));
  await chmod(home, 0o755);
  const machines = join(home, 'machines');
  const checkpoints = join(home, 'checkpoints');
  await mkdir(checkpoints);
  const image = await tinyImage(join(home, 'image'));
  const backend = newBackend(home, image);
  let count = 0;
  const spec = async (): Promise<MachineSpec> => {
    const id = `m${count++}`;
    const folder = join(machines, id);
    await mkdir(folder, { recursive: true });
    return { id, folder, shape: SHAPE, names: { hostname: id, machineID: '0'.repeat(32) }, uid: 61_000 + count };
  };
  const golden = await backend.makeGolden(
    image,
    await spec(),
    join(home, 'golden'),
    async (machine, signal) => {
      const channel = await machine.openChannel(signal);
      assert.equal(await ask(channel, 'write golden'), 'ok');
      channel.destroy();
    },
    {},
  );
  const nextOut = () => join(checkpoints, `c${count++}`);
  const sweep = async () => {
    for (const { id } of await backend.census(machines)) await backend.sweep(id, machines);
  };
  return {
    home,
    machines,
    image,
    backend,
    golden,
    spec,
    clone: async (checkpoint = golden) => guestOf(await backend.clone(checkpoint, image, await spec())),
    nextOut,
    capture: (machine, { memory = true, goesOn = true, out = nextOut(), base = golden, signal } = {}) =>
      backend.capture(machine, { image, shape: SHAPE, base, memory, goesOn }, out, signal),
    leftovers: async () => (await readdir(checkpoints)).filter((name) => !/^c\d+$/.test(name)),
    sweep,
    async close() {
      await sweep();
      await rm(home, { recursive: true, force: true });
    },
  };
}
