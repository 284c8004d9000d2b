/** What was thrown, as an error of a run. */
import path from 'node:path';
import util from 'node:util';
import type { Event } from './channel.ts';
import { ProcessExit } from './globals.ts';

/** Frames of this program, and of what lies between it and a cell. */
const OURS = `${import.meta.dirname}${path.sep}`;
const BETWEEN = /\bnode:(?:inspector|vm|internal)\b/;

type Failure = Extract<Event, { type: 'error' }>;

export const INTERRUPTED: Failure = {
  type: 'error',
  name: 'Interrupted',
  value: 'The execution was interrupted',
  traceback: 'Interrupted: The execution was interrupted',
};

/** None for code that ends its process with success, which has not failed. */
export function failureOf(thrown: unknown): Failure | undefined {
  return thrown instanceof ProcessExit && thrown.code === 0 ? undefined : { type: 'error', ...describe(thrown) };
}

/** Whether it tells of a child that an interrupt has ended, as node:child_process has it and as shells do. */
export function isOfInterrupt(thrown: unknown): boolean {
  if (!(thrown instanceof Error)) return false;
  const { signal, status } = thrown as { readonly signal?: unknown; readonly status?: unknown };
  return signal === 'SIGINT' || status === 130;
}

function describe(thrown: unknown): Omit<Failure, 'type'> {
  try {
    if (thrown instanceof ProcessExit) return { ...named(thrown), traceback: `${thrown.name}: ${thrown.code}` };
    if (thrown instanceof Error) return { ...named(thrown), traceback: tracebackOf(thrown) };
    const value = typeof thrown === 'string' ? thrown : util.inspect(thrown);
    return { name: 'Error', value, traceback: `Uncaught ${value}` };
  } catch {
    return { name: 'Error', value: 'what was thrown cannot be printed', traceback: 'Uncaught' };
  }
}

function named(error: Error): { readonly name: string; readonly value: string } {
  return { name: String(error.name || error.constructor.name), value: String(error.message) };
}

function tracebackOf(error: Error): string {
  const kept: string[] = [];
  for (const line of util.inspect(error).split('\n')) {
    if (isTheirs(line)) kept.push(line);
    // The last frame of an error with properties begins the list of them.
    else if (line.endsWith(' {')) kept.push(`${kept.pop() ?? ''} {`);
  }
  return kept.join('\n');
}

/** Whether a line of a stack is of user code, or no frame at all. */
function isTheirs(line: string): boolean {
  return (
    !/^\s+at /.test(line) ||
    !(line.includes(OURS) || BETWEEN.test(line) || line.endsWith('at new Promise (<anonymous>)'))
  );
}
