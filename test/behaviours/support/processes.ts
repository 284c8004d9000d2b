/** The host's view of a sandbox: its processes are those in its cgroup, whatever the kind. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { listPids } from '../../../src/isolation/process-table.ts';

const read = (path: string): string => {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
};

/** Pids, as the host counts them. */
export function processesOf(sandboxID: string): number[] {
  const group = new RegExp(`/${sandboxID}(/|$)`, 'm');
  return listPids().filter((pid) => group.test(read(`/proc/${pid}/cgroup`)));
}

/** The process that the sandbox ends with: its VMM, or the first of its process namespace. */
export function firstProcessOf(sandboxID: string): number {
  const pids = processesOf(sandboxID);
  const inits = pids.filter((pid) => /^NSpid:\t\d+(\t\d+)*\t1$/m.test(read(`/proc/${pid}/status`)));
  const [first, ...others] = inits.length > 0 ? inits : pids;
  assert.ok(first !== undefined, `no process of ${sandboxID}`);
  assert.deepEqual(others, [], 'one process is the first');
  return first;
}
