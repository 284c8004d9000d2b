/** The VMMs of this host's sandboxes, found by their command lines. */
import { readdirSync, readFileSync } from 'node:fs';
import { basename } from 'node:path';

/** Pids by sandbox id, as far as there are any. */
export function vmmsOf(sandboxIDs: Iterable<string>): ReadonlyMap<string, number> {
  const wanted = new Map(Array.from(sandboxIDs, (id) => [`coppice-${id}`, id]));
  const found = new Map<string, number>();
  for (const entry of readdirSync('/proc')) {
    if (!/^\d+$/.test(entry)) continue;
    const args = argumentsOf(entry);
    // A shell took its name ahead of its sandbox: both have the same id.
    const id = wanted.get(args[args.indexOf('-name') + 1] ?? '');
    if (id !== undefined && basename(args[0]!).startsWith('qemu-')) found.set(id, Number(entry));
  }
  return found;
}

/** None of a process that has ended. */
function argumentsOf(pid: string): string[] {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0');
  } catch {
    return [];
  }
}
