/** One QEMU process as a Machine: parked and woken by signals, reached by its socket, gone without asking the guest. */
import { readFile, rm } from 'node:fs/promises';
import type { Socket } from 'node:net';
import { join } from 'node:path';
import { CoppiceError } from '../../../contract/errors.ts';
import type { Machine } from '../../backend.ts';
import type { Cgroups } from '../../cgroup.ts';
import { endProcess, type ProcessIdentity, readProcess, signalProcess } from '../../process-table.ts';
import { channelSocket, connected } from './channel-socket.ts';
import { CHANNEL_SOCKET, QMP_SOCKET } from './config.ts';
import { connectQmp, type QmpClient, type QmpWait } from './qmp.ts';

export const BACKEND_NAME = 'qemu';

/** A machine of this backend: what checkpoint/ may ask of it beyond the common interface. */
export interface QemuMachine extends Machine {
  /** A monitor of its own, to be closed by the caller; QEMU serves one at a time. A parked machine does not answer. */
  openMonitor(wait?: QmpWait): Promise<QmpClient>;
  /**
   * Connects what the next `openChannel` returns. Before a restore: a port that was connected when the checkpoint was taken
   * then stays so, and the guest has no change of it to handle.
   */
  connectChannel(signal?: AbortSignal): Promise<void>;
  /** Where a clone's time went, in ms since the call; absent for boots and adopted machines. */
  readonly stages?: Readonly<Record<string, number>>;
}

export interface MachineParts {
  readonly id: string;
  readonly folder: string;
  readonly identity: ProcessIdentity;
  readonly exited: Promise<{ readonly reason: string }>;
  readonly cgroups: Cgroups;
  readonly stages?: Readonly<Record<string, number>>;
}

export function createMachine(parts: MachineParts): QemuMachine {
  const { id, folder, identity, exited } = parts;
  let gone = false;
  let channel: Socket | undefined;
  let early: Socket | undefined;
  let destroying: Promise<void> | undefined;
  void exited.then(() => {
    gone = true;
  });

  const destroy = async () => {
    channel?.destroy();
    await endProcess(identity);
    await parts.cgroups.remove(id);
    await rm(folder, { recursive: true, force: true });
  };

  const openChannel = async (signal: AbortSignal | undefined): Promise<Socket> => {
    if (channel && !channel.destroyed) throw new CoppiceError('conflict', `machine ${id} has its channel open`);
    const socket = channelSocket(join(folder, CHANNEL_SOCKET));
    channel = socket;
    await connected(socket, signal);
    return socket;
  };

  return {
    id,
    ...(parts.stages ? { stages: parts.stages } : {}),
    record: { backend: BACKEND_NAME, id, folder, pid: identity.pid, pidStartTime: identity.startTime },
    exited,
    async openChannel(signal) {
      if (gone) throw new CoppiceError('unavailable', `machine ${id} is gone`);
      const socket = early && !early.destroyed ? early : await openChannel(signal);
      early = undefined;
      return socket;
    },
    async connectChannel(signal) {
      early = await openChannel(signal);
    },
    park() {
      if (!gone) signalProcess(identity, 'SIGSTOP');
    },
    unpark() {
      if (!gone) signalProcess(identity, 'SIGCONT');
    },
    openMonitor: (wait) => connectQmp(join(folder, QMP_SOCKET), wait),
    destroy() {
      destroying ??= destroy().catch((error) => {
        destroying = undefined;
        throw error;
      });
      return destroying;
    },
    async usage() {
      const facts = readProcess(identity.pid);
      if (gone || facts?.startTime !== identity.startTime)
        throw new CoppiceError('unavailable', `machine ${id} is gone`);
      const rollup = await readFile(`/proc/${identity.pid}/smaps_rollup`, 'utf8').catch(() => '');
      // Anonymous pages: its own heap, and each guest page it has written; pages of the golden memory file are shared.
      const kilobytes = Number(/^Anonymous:\s+(\d+) kB/m.exec(rollup)?.[1] ?? 0);
      return { privateBytes: kilobytes * 1024, cpuSeconds: facts.cpuSeconds };
    },
  };
}
