/** One QEMU process as a Machine: parked and woken by signals, reached by its socket, gone without asking the guest. */
import { existsSync } from 'node:fs';
import { readFile, rm } from 'node:fs/promises';
import type { Socket } from 'node:net';
import { join } from 'node:path';
import { z } from 'zod';
import { CoppiceError } from '../../../contract/errors.ts';
import type { Log } from '../../../telemetry/log.ts';
import type { Machine } from '../../backend.ts';
import type { Cgroups } from '../../cgroup.ts';
import { endProcess, type ProcessIdentity, readProcess, signalProcess } from '../../process-table.ts';
import { channelSocket, connected } from './channel-socket.ts';
import { CHANNEL_SOCKET, QMP_SOCKET } from './config.ts';
import { type HeldNote, removeNote, writeNote } from './held-note.ts';
import { createQmpClient, type QmpClient } from './qmp.ts';

export const BACKEND_NAME = 'qemu';

/**
 * QEMU waits for requests to its drives before it says that it has stopped. Sooner than a monitor is given up that has not
 * even greeted, so that there is still one to be told to go on.
 */
const STOP_DEADLINE_MS = 8_000;
const GO_ON_DEADLINE_MS = 10_000;
/** For a VMM that did not even stop in time. */
const LAST_WORD_DEADLINE_MS = 500;

/** The part of the answer to `query-status` that is looked at. */
const runState = z.object({ status: z.string() });

export interface StandStillOptions {
  /** False: it stays stopped, until `unpark` or `goOn`. */
  readonly goesOn: boolean;
  readonly signal?: AbortSignal | undefined;
}

/** A machine of this backend: what the rest of the backend may ask of it beyond the common interface. */
export interface QemuMachine extends Machine {
  readonly identity: ProcessIdentity;
  /**
   * Does `work`, with a monitor, while the machine is stopped with its drives drained; then it goes on, or is parked as it
   * was. One at a time: `conflict`. A parked machine's guest runs for the moment in which its monitor answers. On failure
   * it goes on as before, as soon as it answers at all.
   */
  standStill<T>(
    work: (qmp: QmpClient) => Promise<T>,
    options: StandStillOptions,
  ): Promise<{ readonly value: T; readonly stoppedAtMs: number; readonly pauseMs: number }>;
  /** Undoes a stop that lasts, if there is one: it is then as before, parked or not. */
  goOn(): Promise<void>;
  /**
   * Connects what the next `openChannel` returns. Before a restore: a port that was connected when the checkpoint was taken
   * then stays so, and the guest has no change of it to handle.
   */
  connectChannel(signal?: AbortSignal): Promise<void>;
  /** Where a clone's time went, in ms since the call; absent for boots and adopted machines. */
  readonly stages?: Readonly<Record<string, number>>;
}

export interface MachineParts {
  readonly log: Log;
  readonly id: string;
  readonly folder: string;
  readonly identity: ProcessIdentity;
  readonly exited: Promise<{ readonly reason: string }>;
  readonly cgroups: Cgroups;
  readonly stages?: Readonly<Record<string, number>>;
  /** As a machine that was found again is. */
  readonly found?: { readonly parked: boolean; readonly note: HeldNote | undefined };
}

export function createMachine(parts: MachineParts): QemuMachine {
  const { id, folder, identity, exited, log, found } = parts;
  let gone = false;
  let parked = found?.note?.parked ?? found?.parked ?? false;
  /** Whether it is stopped through its monitor, for longer than a call. */
  let held: 'no' | 'yes' | 'unsure' = found?.note ? 'unsure' : 'no';
  /** A call has the monitor, and signals are for it to send. */
  let busy = false;
  let wokenMeanwhile = false;
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

  const ended = () => new CoppiceError('unavailable', `machine ${id} is gone`);

  /**
   * Lets `work` speak to the monitor, parked or not. What it sends before its first wait is with QEMU before that wakes, so
   * that a parked guest runs no longer than QEMU takes to read it.
   */
  const withMonitor = async <T>(work: (qmp: QmpClient) => Promise<T>, signal?: AbortSignal): Promise<T> => {
    if (gone) throw ended();
    if (busy) throw new CoppiceError('conflict', `machine ${id} is being captured already`);
    busy = true;
    wokenMeanwhile = false;
    const slept = parked;
    try {
      const socket = channelSocket(join(folder, QMP_SOCKET));
      await connected(socket, signal);
      const qmp = createQmpClient(socket);
      try {
        const done = work(qmp);
        if (slept) signalProcess(identity, 'SIGCONT');
        return await done;
      } finally {
        qmp.close();
      }
    } catch (error) {
      throw gone || !existsSync(folder) ? ended() : error;
    } finally {
      busy = false;
      if (!gone && parked) signalProcess(identity, 'SIGSTOP');
      if (wokenMeanwhile) wake();
    }
  };

  /** When it went on, on the clock of performance.now. */
  const letGoOn = async (qmp: QmpClient, deadlineMs = GO_ON_DEADLINE_MS): Promise<number> => {
    await qmp.execute('cont', undefined, { deadlineMs });
    const atMs = performance.now();
    held = 'no';
    removeNote(folder);
    return atMs;
  };

  const goOn = async (): Promise<void> => {
    if (held === 'no') return;
    await withMonitor(async (qmp) => {
      const wait = { deadlineMs: GO_ON_DEADLINE_MS };
      const { status } = runState.parse(await qmp.execute('query-status', undefined, wait));
      if (status === 'paused') await letGoOn(qmp);
      held = 'no';
      removeNote(folder);
    });
  };

  const wake = (): void => {
    signalProcess(identity, 'SIGCONT');
    goOn().catch((error) => {
      if (!gone) log.warn({ machine: id, error }, 'a stopped machine does not go on');
    });
  };

  return {
    id,
    identity,
    ...(parts.stages ? { stages: parts.stages } : {}),
    record: { backend: BACKEND_NAME, id, folder, pid: identity.pid, pidStartTime: identity.startTime },
    exited,
    async openChannel(signal) {
      if (gone) throw ended();
      const socket = early && !early.destroyed ? early : await openChannel(signal);
      early = undefined;
      return socket;
    },
    async connectChannel(signal) {
      early = await openChannel(signal);
    },
    park() {
      parked = true;
      wokenMeanwhile = false;
      if (!gone && !busy) signalProcess(identity, 'SIGSTOP');
    },
    unpark() {
      parked = false;
      wokenMeanwhile = busy;
      if (!gone && !busy) wake();
    },
    standStill(work, { goesOn, signal }) {
      return withMonitor(async (qmp) => {
        const stays = held === 'yes' || !goesOn;
        let stopped = false;
        writeNote(folder, { parked });
        try {
          await qmp.execute('stop', undefined, { signal, deadlineMs: STOP_DEADLINE_MS });
          stopped = true;
          const stoppedAtMs = performance.now();
          const value = await work(qmp);
          if (!stays) return { value, stoppedAtMs, pauseMs: (await letGoOn(qmp)) - stoppedAtMs };
          held = 'yes';
          return { value, stoppedAtMs, pauseMs: performance.now() - stoppedAtMs };
        } catch (error) {
          if (held === 'yes') throw error;
          held = 'unsure';
          // Sent whatever has become of the stop: a VMM that answers later does both, one after the other.
          await letGoOn(qmp, stopped ? GO_ON_DEADLINE_MS : LAST_WORD_DEADLINE_MS).catch(() => {});
          throw error;
        }
      }, signal);
    },
    goOn,
    destroy() {
      destroying ??= destroy().catch((error) => {
        destroying = undefined;
        throw error;
      });
      return destroying;
    },
    async usage() {
      const facts = readProcess(identity.pid);
      if (gone || facts?.startTime !== identity.startTime) throw ended();
      const rollup = await readFile(`/proc/${identity.pid}/smaps_rollup`, 'utf8').catch(() => '');
      // Anonymous pages: its own heap, and each guest page it has written; pages of the golden memory file are shared.
      const kilobytes = Number(/^Anonymous:\s+(\d+) kB/m.exec(rollup)?.[1] ?? 0);
      return { privateBytes: kilobytes * 1024, cpuSeconds: facts.cpuSeconds };
    },
  };
}
