/** One QEMU process as a Machine: parked and woken by signals, reached by its socket, gone without asking the guest. */
import { readFile, rm } from 'node:fs/promises';
import { connect, type Socket } from 'node:net';
import { join } from 'node:path';
import type { Duplex } from 'node:stream';
import { CoppiceError } from '../../../contract/errors.ts';
import type { Machine, MachineRecord } from '../../backend.ts';
import type { Cgroups } from '../../cgroup.ts';
import { isAlive, type ProcessIdentity, readProcess, signalProcess, waitGone } from '../../process-table.ts';
import { CHANNEL_SOCKET, QMP_SOCKET } from './config.ts';
import { connectQmp, type QmpClient, type QmpWait } from './qmp.ts';

export const BACKEND_NAME = 'qemu';
const EXIT_DEADLINE_MS = 5_000;
const CONNECT_DEADLINE_MS = 10_000;

/** A machine of this backend: what checkpoint/ may ask of it beyond the common interface. */
export interface QemuMachine extends Machine {
  /** A monitor of its own, to be closed by the caller; QEMU serves one at a time. A parked machine does not answer. */
  openMonitor(wait?: QmpWait): Promise<QmpClient>;
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

  return {
    id,
    ...(parts.stages ? { stages: parts.stages } : {}),
    record: { backend: BACKEND_NAME, id, folder, pid: identity.pid, pidStartTime: identity.startTime },
    exited,
    async openChannel(signal) {
      if (gone) throw new CoppiceError('unavailable', `machine ${id} is gone`);
      if (channel && !channel.destroyed) throw new CoppiceError('conflict', `machine ${id} has its channel open`);
      const socket = connect(join(folder, CHANNEL_SOCKET));
      channel = socket;
      // A machine may die at any time: without a listener that would end the node. `close` follows every error.
      socket.on('error', () => {});
      await connected(socket, signal);
      return socket as Duplex;
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

/** SIGKILL, which also ends a stopped process, and the wait for it to be gone. */
export async function endProcess(identity: ProcessIdentity): Promise<void> {
  signalProcess(identity, 'SIGKILL');
  if (!(await waitGone(identity, EXIT_DEADLINE_MS)))
    throw new CoppiceError('internal', `process ${identity.pid} did not end within ${EXIT_DEADLINE_MS} ms of SIGKILL`);
}

/** Watches a process that is not a child of this one. The timer does not keep the node alive. */
export function watchExit(identity: ProcessIdentity, everyMs = 200): Promise<{ readonly reason: string }> {
  return new Promise((resolve) => {
    const timer = setInterval(() => {
      if (isAlive(identity)) return;
      clearInterval(timer);
      resolve({ reason: 'the process is gone' });
    }, everyMs);
    timer.unref();
  });
}

export function identityOf(record: MachineRecord): ProcessIdentity {
  return { pid: record.pid, startTime: record.pidStartTime };
}

function connected(socket: Socket, signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve, reject) => {
    const settle = (error?: Error) => {
      clearTimeout(timer);
      signal?.removeEventListener('abort', onAbort);
      socket.off('error', onError);
      if (!error) return resolve();
      socket.destroy();
      reject(error);
    };
    const onAbort = () => settle(new CoppiceError('aborted', 'opening the channel: given up'));
    const onError = (cause: Error) =>
      settle(new CoppiceError('unavailable', 'the channel of the machine cannot be opened', { cause }));
    const timer = setTimeout(
      () => settle(new CoppiceError('unavailable', `the channel did not open in ${CONNECT_DEADLINE_MS} ms`)),
      CONNECT_DEADLINE_MS,
    );
    socket.once('connect', () => settle());
    socket.once('error', onError);
    if (signal?.aborted) return onAbort();
    signal?.addEventListener('abort', onAbort, { once: true });
  });
}
