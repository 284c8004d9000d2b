/**
 * Processes of this host by pid and start time, read from /proc (proc(5)). A pid alone may have been given to another
 * process meanwhile; the pair never is, within one boot of the host.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { CoppiceError } from '../contract/errors.ts';

export interface ProcessIdentity {
  readonly pid: number;
  /** Field 22 of /proc/<pid>/stat, in clock ticks since boot, as printed. */
  readonly startTime: string;
}

export interface ProcessFacts extends ProcessIdentity {
  /** One letter: R S D T t Z X I. */
  readonly state: string;
  /** User and system time of all threads so far. */
  readonly cpuSeconds: number;
  readonly residentBytes: number;
}

/** USER_HZ: the unit of times in /proc, 100 on every architecture Linux runs QEMU on. */
const TICKS_PER_SECOND = 100;
const PAGE_BYTES = 4096;
const EXIT_DEADLINE_MS = 5_000;

/** Takes /proc/<pid>/stat apart; the command name (field 2) may hold spaces and parentheses. undefined: not such a line. */
export function parseStat(text: string): ProcessFacts | undefined {
  const open = text.indexOf('(');
  const close = text.lastIndexOf(')');
  if (open < 1 || close < open) return undefined;
  const pid = Number(text.slice(0, open).trim());
  const fields = text
    .slice(close + 1)
    .trim()
    .split(/\s+/);
  const [state, startTime] = [fields[0], fields[19]];
  if (!Number.isInteger(pid) || state === undefined || startTime === undefined || !/^\d+$/.test(startTime))
    return undefined;
  return {
    pid,
    startTime,
    state,
    cpuSeconds: (Number(fields[11]) + Number(fields[12])) / TICKS_PER_SECOND,
    residentBytes: Number(fields[21]) * PAGE_BYTES,
  };
}

/** What /proc says of a pid now; undefined when there is none. */
export function readProcess(pid: number): ProcessFacts | undefined {
  if (!Number.isInteger(pid) || pid <= 0) return undefined;
  try {
    return parseStat(readFileSync(`/proc/${pid}/stat`, 'latin1'));
  } catch {
    return undefined;
  }
}

/** The same process, and not a zombie. */
export function isAlive(identity: ProcessIdentity): boolean {
  const facts = readProcess(identity.pid);
  return (
    facts !== undefined &&
    facts.startTime === identity.startTime &&
    facts.state !== 'Z' &&
    facts.state.toUpperCase() !== 'X'
  );
}

/** Sends a signal if that process still is the one meant. False: it is gone. */
export function signalProcess(identity: ProcessIdentity, signal: NodeJS.Signals): boolean {
  if (!isAlive(identity)) return false;
  try {
    return process.kill(identity.pid, signal);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ESRCH') return false;
    throw error;
  }
}

/** Waits until it is gone (or a zombie). False: still there after `deadlineMs`. */
export async function waitGone(identity: ProcessIdentity, deadlineMs: number): Promise<boolean> {
  const end = performance.now() + deadlineMs;
  for (let pause = 1; isAlive(identity); pause = Math.min(pause * 2, 50)) {
    if (performance.now() >= end) return false;
    await sleep(pause);
  }
  return true;
}

/** Arguments of a process; empty for kernel threads, zombies and processes that are gone. */
export function commandLine(pid: number): readonly string[] {
  try {
    const text = readFileSync(`/proc/${pid}/cmdline`, 'utf8');
    return text === '' ? [] : text.replace(/\0$/, '').split('\0');
  } catch {
    return [];
  }
}

/** Every pid there is now. */
export function listPids(): readonly number[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map(Number);
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

export function identityOf(record: { readonly pid: number; readonly pidStartTime: string }): ProcessIdentity {
  return { pid: record.pid, startTime: record.pidStartTime };
}
