/**
 * A thread that ends a computation which keeps the main thread from seeing an interrupt. What a cell does before it waits
 * for something is interrupted without it (evaluate.ts), so it exists only once a cell has gone beyond that.
 */
import inspector from 'node:inspector';
import net from 'node:net';
import { isMainThread, Worker, workerData } from 'node:worker_threads';
import { INTERRUPTS } from './channel.ts';

/** ms that the main thread has to take notice of an interrupt. */
const PATIENCE = 150;
const BREAK_OFF = 'coppice.breakOff';

/** Interrupts that the main thread has taken notice of; shared with the thread. */
const notices = isMainThread ? new Int32Array(new SharedArrayBuffer(4)) : (workerData as Int32Array);
let worker: Worker | undefined;
/** The main thread is at work for this program, and must not be broken off. */
let ours = false;

export function undisturbed(part: () => void): void {
  ours = true;
  try {
    part();
  } finally {
    ours = false;
  }
}

export function noticeInterrupt(): void {
  Atomics.add(notices, 0, 1);
}

/** `terminate`: ends the computation that calls it. */
export function startWatchdog(terminate: () => void): void {
  if (worker !== undefined) return;
  // Called by the thread through the inspector, in the middle of whatever the main thread computes: what is true here
  // is still true when it is broken off.
  const value = (seen: number): void => {
    if (!ours && Atomics.load(notices, 0) === seen) terminate();
  };
  Object.defineProperty(globalThis, Symbol.for(BREAK_OFF), { value, configurable: true, enumerable: false });
  worker = new Worker(new URL(import.meta.url), { workerData: notices, execArgv: [], stdin: false });
  worker.unref();
  worker.on('error', () => {});
}

function watch(): void {
  const session = new inspector.Session();
  session.connectToMainThread();
  const socket = new net.Socket({ fd: INTERRUPTS, readable: true, writable: false });
  socket.on('error', () => {});
  socket.on('data', () => {
    const seen = Atomics.load(notices, 0);
    setTimeout(() => {
      if (Atomics.load(notices, 0) !== seen) return;
      session.post('Runtime.evaluate', { expression: `globalThis[Symbol.for("${BREAK_OFF}")](${seen})`, silent: true });
    }, PATIENCE);
  });
}

if (!isMainThread) watch();
