/**
 * A thread that hears of interrupts whatever the main thread does. It tells the main thread, and breaks off what keeps the
 * main thread from ending the run. SIGINT itself would not do: it names no run, and the one handler of Node that sees it
 * in the middle of a computation (`breakOnSigint` of node:vm) leaves moments in which it ends the process.
 */
import inspector from 'node:inspector';
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads';
import { onInterrupt } from './channel.ts';

/** ms that the main thread has to end a run, and between one attempt at breaking it off and the next. */
const PATIENCE = 150;
const BREAK_OFF = 'coppice.breakOff';

/** The number of the last run that has ended; shared with the thread. */
const ended = isMainThread ? new Int32Array(new SharedArrayBuffer(4)) : (workerData as Int32Array);
let worker: Worker | undefined;
/** The main thread is at work for this program, and must not be broken off. */
let ours = false;

export function undisturbed(part: () => void): void {
  const before = ours;
  ours = true;
  try {
    part();
  } finally {
    ours = before;
  }
}

/** False: what is computed from here on is user code. Broken off, it returns to nobody. */
export function setUndisturbed(value: boolean): void {
  ours = value;
}

export function hasEnded(run: number): boolean {
  return Atomics.load(ended, 0) >= run;
}

export function noteEnd(run: number): void {
  Atomics.store(ended, 0, run);
}

/**
 * Starts the thread, once. `interrupt` is called with the number of a run, more than once if need be; `terminate` ends the
 * computation that calls it.
 */
export function startWatchdog(interrupt: (run: number) => void, terminate: () => void): void {
  if (worker !== undefined) return;
  // Called by the thread through the inspector, in the middle of whatever the main thread computes: what is true here
  // is still true when it is broken off.
  const value = (run: number): void => {
    if (!ours && !hasEnded(run)) terminate();
  };
  Object.defineProperty(globalThis, Symbol.for(BREAK_OFF), { value, configurable: true, enumerable: false });
  worker = new Worker(new URL(import.meta.url), { workerData: ended, execArgv: [], stdin: false });
  worker.unref();
  worker.on('error', () => {});
  worker.on('message', interrupt);
}

function watch(): void {
  const session = new inspector.Session();
  session.connectToMainThread();
  let run = 0;
  let timer: NodeJS.Timeout | undefined;
  const insist = (): void => {
    if (hasEnded(run)) {
      clearInterval(timer);
      timer = undefined;
      return;
    }
    session.post('Runtime.evaluate', { expression: `globalThis[Symbol.for("${BREAK_OFF}")](${run})`, silent: true });
    // The first may have been lost in what was broken off.
    parentPort?.postMessage(run);
  };
  onInterrupt((number) => {
    run = number;
    parentPort?.postMessage(run);
    timer ??= setInterval(insist, PATIENCE);
  });
}

if (!isMainThread) watch();
