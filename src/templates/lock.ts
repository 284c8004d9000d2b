/**
 * A lock between processes on one machine: SQLite's exclusive transaction on an empty database file, which is a kernel
 * file lock and so ends with its holder, however that dies.
 */
import { mkdirSync } from 'node:fs';
import { dirname } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { setTimeout as sleep } from 'node:timers/promises';
import { throwIfAborted } from './run.ts';

export interface Lock {
  release(): void;
}

/** Milliseconds between two tries. */
const RETRY_MS = 100;
const SQLITE_BUSY = 5;

/** The lock, or undefined when another holder (in this process or any other) has it. */
export function tryLock(path: string): Lock | undefined {
  mkdirSync(dirname(path), { recursive: true });
  const database = new DatabaseSync(path);
  try {
    database.exec('PRAGMA busy_timeout = 0; BEGIN EXCLUSIVE');
  } catch (error) {
    database.close();
    if (((error as { errcode?: number }).errcode ?? 0) % 256 === SQLITE_BUSY) return undefined;
    throw error;
  }
  let held = true;
  return {
    release: () => {
      if (held) database.close();
      held = false;
    },
  };
}

/** Waits for the lock. CoppiceError aborted when the signal fires first. */
export async function lock(path: string, signal?: AbortSignal): Promise<Lock> {
  for (;;) {
    throwIfAborted(signal);
    const held = tryLock(path);
    if (held !== undefined) return held;
    await sleep(RETRY_MS, undefined, { signal }).catch(() => {});
  }
}
