/** The start of a machine, whatever it is to be: one VMM, and what the node has of it. */
import type { Log } from '../../../telemetry/log.ts';
import type { MachineImage, MachineSpec } from '../../backend.ts';
import type { Cgroups } from '../../cgroup.ts';
import type { MachineRole } from './config.ts';
import { type Launched, launch } from './launch.ts';
import { createMachine, type QemuMachine } from './machine.ts';
import type { QemuProbe } from './probe.ts';

export interface StartRequest {
  readonly log: Log;
  readonly emulator: string;
  readonly probe: QemuProbe;
  readonly cgroups: Cgroups;
  readonly image: MachineImage;
  readonly spec: MachineSpec;
  readonly uid: number | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** `memory`: path of its memory file. `stages`: see QemuMachine. */
export function startMachine(
  { log, emulator, probe, cgroups, image, spec, uid }: StartRequest,
  role: MachineRole,
  memory: string,
  stages?: Readonly<Record<string, number>>,
): { readonly launched: Launched; readonly machine: QemuMachine } {
  const { id, folder, shape, network } = spec;
  const { rootfs, agentDrive } = image;
  const launched = launch({ emulator, host: probe, id, folder, shape, role, memory, rootfs, agentDrive, network, uid });
  const { identity, exited } = launched;
  const machine = createMachine({ log, id, folder, identity, exited, cgroups, ...(stages ? { stages } : {}) });
  return { launched, machine };
}
