/** One jail as a Machine: frozen and thawed by its cgroup, its agent started when somebody speaks to it. */
import { stat } from 'node:fs/promises';
import { Socket } from 'node:net';
import { totalmem } from 'node:os';
import { join } from 'node:path';
import { CoppiceError } from '../../../contract/errors.ts';
import type { Machine } from '../../backend.ts';
import type { Cgroups } from '../../cgroup.ts';
import { isAlive, type ProcessIdentity } from '../../process-table.ts';
import { awaitFrozen } from './freeze.ts';
import type { Keeper } from './keeper.ts';
import { AGENT_SOCKET, BACKEND_NAME, LAYER_FILE } from './names.ts';

export interface JailParts {
  readonly id: string;
  readonly folder: string;
  /** The jail's first process. */
  readonly identity: ProcessIdentity;
  readonly exited: Promise<{ readonly reason: string }>;
  readonly cgroups: Cgroups;
  readonly keeper: Keeper;
  /** Whether it is frozen as it is found. */
  readonly parked: boolean;
  /** Ends it and removes all it had. Idempotent. */
  readonly undo: () => Promise<void>;
}

/** What the backend itself needs of a jail beside what is a Machine's. */
export interface Jail extends Machine {
  readonly parked: boolean;
  /** Its first process has ended, or it is being destroyed: parts of it may be gone already. */
  readonly ended: boolean;
  /**
   * Runs `work` while no process of the jail does. A park or unpark meanwhile counts from its end on. `unavailable`: it did
   * not stop in time, or has ended by the time the work is done.
   */
  standStill<T>(work: () => Promise<T>, signal?: AbortSignal): Promise<T>;
}

export function createJail(parts: JailParts): Jail {
  const { id, folder, identity, exited, cgroups, keeper } = parts;
  const path = join(folder, AGENT_SOCKET);
  let gone = false;
  let channel: Socket | undefined;
  let opening = false;
  let destroying: Promise<void> | undefined;
  let { parked } = parts;
  let standing = 0;
  void exited.then(() => {
    gone = true;
  });

  const hasEnded = (): boolean => gone || destroying !== undefined || !isAlive(identity);
  const live = (): void => {
    if (hasEnded()) throw new CoppiceError('unavailable', `jail ${id} is gone`);
  };

  const dial = async (): Promise<Socket | undefined> => {
    const { fd } = await keeper.ask('connect', { path });
    if (fd === null) return undefined;
    const socket = new Socket({ fd });
    // A jail may die at any time: `close` follows every error.
    socket.on('error', () => {});
    return socket;
  };

  /** An agent of an earlier session, or of an earlier node, still listens; else one is started. */
  const open = async (signal?: AbortSignal): Promise<Socket> => {
    const wanted = (): void => {
      if (signal?.aborted) throw new CoppiceError('aborted', 'opening the channel: given up');
    };
    wanted();
    const found = await dial();
    if (found) return found;
    wanted();
    live();
    await keeper.ask('agent', { id, folder, pid: identity.pid, groups: cgroups.folders(id) });
    const started = await dial();
    if (!started) throw new CoppiceError('unavailable', `the agent of jail ${id} does not listen`);
    return started;
  };

  const destroy = async (): Promise<void> => {
    channel?.destroy();
    await parts.undo();
  };

  return {
    id,
    record: { backend: BACKEND_NAME, id, folder, pid: identity.pid, pidStartTime: identity.startTime },
    exited,
    async openChannel(signal) {
      live();
      if (opening || (channel && !channel.destroyed))
        throw new CoppiceError('conflict', `jail ${id} has its channel open`);
      opening = true;
      try {
        channel = await open(signal);
        return channel;
      } finally {
        opening = false;
      }
    },
    get parked() {
      return parked;
    },
    get ended() {
      return hasEnded();
    },
    park() {
      parked = true;
      if (!gone) cgroups.freeze(id, true);
    },
    unpark() {
      parked = false;
      if (!gone && standing === 0) cgroups.freeze(id, false);
    },
    async standStill(work, signal) {
      live();
      standing++;
      try {
        cgroups.freeze(id, true);
        await awaitFrozen(id, cgroups, signal);
        const result = await work();
        // An end thaws what it has killed, and the last of a process is to close its files.
        if (hasEnded()) throw new CoppiceError('unavailable', `jail ${id} has ended meanwhile`);
        return result;
      } finally {
        standing--;
        if (!parked && standing === 0) cgroups.freeze(id, false);
      }
    },
    destroy() {
      destroying ??= destroy().catch((error) => {
        destroying = undefined;
        throw error;
      });
      return destroying;
    },
    async usage() {
      live();
      const { memoryBytes, cpuSeconds } = await cgroups.usage(id);
      return { privateBytes: memoryBytes, cpuSeconds };
    },
    cpuSeconds: () => (gone || destroying ? undefined : cgroups.cpuSeconds(id)),
    async room() {
      live();
      const { memoryBytes, cacheBytes, limitBytes } = await cgroups.usage(id);
      // What is written in it and not deleted again is what its file has on the host's disk.
      const { blocks, size } = await stat(join(folder, LAYER_FILE));
      return {
        memUsed: memoryBytes,
        memTotal: limitBytes ?? totalmem(),
        memCache: cacheBytes,
        diskUsed: Math.min(size, blocks * 512),
        diskTotal: size,
      };
    },
  };
}
