/** Starts one QEMU process: its own session, no pipe that the node's death could break, everything else cleared. */
import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, constants, fchownSync, openSync } from 'node:fs';
import { getPriority, setPriority } from 'node:os';
import { join } from 'node:path';
import type { Duplex, Readable } from 'node:stream';
import { CoppiceError } from '../../../contract/errors.ts';
import { type ProcessIdentity, readProcess } from '../../process-table.ts';
import { CHANNEL_SOCKET, type MachineConfig, wrappedCommand } from './config.ts';
import { createQmpClient, type QmpClient } from './qmp.ts';

/** sun_path of unix(7) less its closing zero byte. */
const MAX_SOCKET_PATH_BYTES = 107;
const CONSOLE_TAIL_BYTES = 65_536;
/** Of a machine's own files besides its layer: overlay tables, log, console. */
const FILE_SLACK_BYTES = 256 * 2 ** 20;
/** First descriptor after stdin, stdout and stderr. */
const MONITOR_FD = 3;
/**
 * The file of the device state, held open for good: an unprivileged VMM cannot reach it by its own name, and by this it
 * opens it anew for each capture.
 */
const STATE_FD = 4;
export const CAPTURE_PATH = `/proc/self/fd/${STATE_FD}`;
/** The same file from its beginning, for a clone: what is in it when it is told to is what it restores. */
const RESTORE_FD = 5;
export const RESTORE_URI = `fd:${RESTORE_FD}`;
/** In a machine's folder: the device state that it restores, and captures; what the guest has written; QEMU's messages. */
export const STATE_FILE = 'state';
export const OVERLAY_FILE = 'overlay.qcow2';
export const LOG_FILE = 'vmm.log';

export type LaunchConfig = Omit<MachineConfig, 'monitor'>;

export interface Launched {
  readonly identity: ProcessIdentity;
  /** The inherited monitor. */
  readonly qmp: QmpClient;
  readonly exited: Promise<{ readonly reason: string }>;
  /** Last bytes of the console and of QEMU's own messages; empty for all but golden boots. */
  consoleTail(): string;
  /** From now on the process does not keep the node alive. */
  release(): void;
}

/** Refuses a folder whose sockets could not be bound, naming the limit. */
export function checkFolder(folder: string): void {
  const bytes = Buffer.byteLength(`${folder}/${CHANNEL_SOCKET}`);
  if (bytes > MAX_SOCKET_PATH_BYTES)
    throw new CoppiceError(
      'host_unfit',
      `the machine's folder makes a socket path of ${bytes} bytes, and ${MAX_SOCKET_PATH_BYTES} is the most: choose a shorter home`,
    );
}

export function launch(config: LaunchConfig): Launched {
  const boot = config.role.kind === 'boot';
  const { file, args } = wrappedCommand(
    { ...config, monitor: MONITOR_FD },
    {
      fileBytes: (config.shape.diskSizeMB + (boot ? config.shape.memoryMB : 0)) * 2 ** 20 + FILE_SLACK_BYTES,
    },
  );
  const opened: number[] = [];
  const open = (path: string, flags: number) => {
    const fd = openSync(path, flags, 0o600);
    opened.push(fd);
    return fd;
  };
  let child: ChildProcess;
  try {
    const statePath = join(config.folder, STATE_FILE);
    const state = open(statePath, constants.O_CREAT | constants.O_WRONLY);
    if (config.uid !== undefined) fchownSync(state, config.uid, config.uid);
    const restore = config.role.kind === 'clone' ? [open(statePath, constants.O_RDONLY)] : [];
    const output = boot
      ? ('pipe' as const)
      : open(join(config.folder, LOG_FILE), constants.O_CREAT | constants.O_WRONLY | constants.O_APPEND);
    child = spawn(file, args, {
      cwd: '/',
      detached: true,
      stdio: ['ignore', output, output, 'pipe', state, ...restore],
      env: { PATH: '/usr/sbin:/usr/bin:/sbin:/bin', MALLOC_ARENA_MAX: '1' },
    });
    // The node may run before others; what it starts does not. Threads to come inherit it.
    if (child.pid !== undefined && getPriority() < 0) setPriority(child.pid, 0);
  } finally {
    for (const fd of opened) closeSync(fd);
  }
  const exited = new Promise<{ readonly reason: string }>((resolve) => {
    child.once('error', (error) => resolve({ reason: `it could not be started: ${error.message}` }));
    child.once('exit', (code, signal) => resolve({ reason: signal ? `signal ${signal}` : `exit code ${code}` }));
  });
  const monitor = child.stdio[MONITOR_FD] as Duplex;
  const qmp = createQmpClient(monitor);
  const tail = boot ? keepTail([child.stdout!, child.stderr!]) : () => '';
  const pid = child.pid;
  const facts = pid === undefined ? undefined : readProcess(pid);
  if (!facts) {
    qmp.close();
    throw new CoppiceError('start_failed', `the VMM did not start: ${file} is missing or cannot be run`);
  }
  return {
    identity: { pid: facts.pid, startTime: facts.startTime },
    qmp,
    exited,
    consoleTail: tail,
    release: () => child.unref(),
  };
}

/** Reads streams for ever and keeps what came last. */
function keepTail(streams: readonly Readable[]): () => string {
  let kept: Buffer = Buffer.alloc(0);
  for (const stream of streams) {
    stream.on('data', (chunk: Buffer) => {
      kept = Buffer.concat([kept, chunk]);
      if (kept.length > CONSOLE_TAIL_BYTES) kept = kept.subarray(kept.length - CONSOLE_TAIL_BYTES);
    });
    stream.on('error', () => {});
  }
  return () => kept.toString('utf8');
}
