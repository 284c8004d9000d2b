/**
 * Groups that a runtime has made for a jail in every cgroup hierarchy of the host, also in those that limit nothing of
 * ours. Found and removed without the runtime's notes: one that was killed early has written none.
 */
import { readFileSync } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { removeGroup } from '../../cgroup.ts';

/** Names of the groups below `path`, which is a path below the hierarchies' mounts. */
export async function groupsBelow(path: string): Promise<ReadonlySet<string>> {
  const names = new Set<string>();
  for (const mount of hierarchies())
    for (const entry of await readdir(`${mount}${path}`, { withFileTypes: true }).catch(() => []))
      if (entry.isDirectory()) names.add(entry.name);
  return names;
}

/** Removes the group at `path` from every hierarchy. Idempotent. */
export async function removeGroups(path: string): Promise<void> {
  for (const mount of hierarchies()) await removeGroup(`${mount}${path}`);
}

/** Where the hierarchies of both versions are mounted. */
function hierarchies(): readonly string[] {
  return readFileSync('/proc/self/mounts', 'utf8')
    .split('\n')
    .map((line) => line.split(' '))
    .filter(([, , type]) => type === 'cgroup' || type === 'cgroup2')
    .map(([, mount]) => mount!);
}
