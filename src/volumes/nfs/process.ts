/** The process that serves volumes, seen from the node: started with the first need of it, and again when it ends. */
import { type ChildProcess, spawn } from 'node:child_process';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { CoppiceError } from '../../contract/errors.ts';
import type { Log } from '../../telemetry/log.ts';
import type { FromServer, ToServer } from './process-messages.ts';

export interface NfsProcessOptions {
  readonly port: number;
  /** A machine's volumes, open in this process until they are released; undefined: it has none. */
  readonly exportsOf: (address: string) => Promise<HeldVolumes | undefined>;
  readonly log: Log;
}

export interface HeldVolumes {
  readonly exports: readonly { readonly volumeID: string; readonly fd: number }[];
  readonly release: () => void;
}

export interface NfsProcess {
  /** Resolves when it listens. @param namespace path of the network namespace that machines reach it in */
  start(namespace: string): Promise<void>;
  stop(): Promise<void>;
}

const PROGRAM = fileURLToPath(new URL('program.ts', import.meta.url));
const START_DEADLINE_MS = 20_000;
/** Between an end that nobody asked for and the next start; of one that never listened, longer. */
const AGAIN_AFTER_MS = 500;
const FAILED_AGAIN_AFTER_MS = 10_000;

export function createNfsProcess({ port, exportsOf, log }: NfsProcessOptions): NfsProcess {
  let running: { readonly child: ChildProcess; readonly ready: Promise<void> } | undefined;
  let stopped = false;

  const launch = (namespace: string): Promise<void> => {
    const child = spawn(
      'nsenter',
      [`--net=${namespace}`, process.execPath, '--disable-warning=ExperimentalWarning', PROGRAM, String(port)],
      // A group of its own: Ctrl-C in a terminal ends the node, which ends it.
      { stdio: ['ignore', 'ignore', 'inherit', 'ipc'], detached: true, env: { PATH: process.env.PATH } },
    );
    const ready = Promise.withResolvers<void>();
    ready.promise.catch(() => {});
    let listened = false;
    const held = new Map<number, () => void>();
    const deadline = setTimeout(() => child.kill('SIGKILL'), START_DEADLINE_MS);
    child.on('message', (message: FromServer) => {
      if (message.kind === 'ready') {
        clearTimeout(deadline);
        listened = true;
        ready.resolve();
      } else if (message.kind === 'log') log.warn({ message: message.message }, 'volume server');
      else if (message.kind === 'done') {
        held.get(message.number)?.();
        held.delete(message.number);
      } else void respond(child, message, held);
    });
    const end = (reason: string): void => {
      clearTimeout(deadline);
      ready.reject(new CoppiceError('start_failed', `volumes cannot be served: ${reason}`));
      for (const release of held.values()) release();
      held.clear();
      if (running?.child !== child) return;
      running = undefined;
      if (stopped) return;
      log.error({ reason }, 'the volume server ended');
      void sleep(listened ? AGAIN_AFTER_MS : FAILED_AGAIN_AFTER_MS, undefined, { ref: false }).then(() => {
        // Somebody may have needed it meanwhile.
        if (!stopped && !running)
          launch(namespace).catch((error) => log.error({ error }, 'the volume server does not start'));
      });
    };
    child.once('error', (error) => end(error.message));
    child.once('exit', (code, signal) => end(signal ?? `exit code ${code}`));
    running = { child, ready: ready.promise };
    return ready.promise;
  };

  async function respond(
    child: ChildProcess,
    { number, address }: Extract<FromServer, { kind: 'ask' }>,
    held: Map<number, () => void>,
  ): Promise<void> {
    const found = await exportsOf(address).catch((error: unknown) => {
      log.error({ error, address }, 'volumes cannot be opened');
      return undefined;
    });
    if (found && !child.connected) return found.release();
    if (found) held.set(number, found.release);
    const reply: ToServer = { number, exports: found?.exports ?? null };
    if (child.connected) child.send(reply, () => {});
  }

  return {
    start(namespace) {
      if (stopped) return Promise.reject(new CoppiceError('unavailable', 'the node is stopping'));
      return running?.ready ?? launch(namespace);
    },

    async stop() {
      stopped = true;
      const child = running?.child;
      if (!child || child.exitCode !== null || child.signalCode !== null) return;
      const gone = new Promise((resolve) => child.once('exit', resolve));
      child.kill('SIGKILL');
      await gone;
    },
  };
}
