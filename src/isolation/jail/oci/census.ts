/** What is left of jails on the host: found by cgroup, folder, loop device and the runtime's notes, without any record. */
import { readdir } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import type { IsolationBackend } from '../../backend.ts';
import type { Cgroups } from '../../cgroup.ts';
import { loopDevices } from './loop-devices.ts';
import { LAYER_FILE } from './names.ts';
import { groupsBelow } from './own-groups.ts';

type Items = Awaited<ReturnType<IsolationBackend['census']>>;

export async function census(machinesFolder: string, stateFolder: string, cgroups: Cgroups): Promise<Items> {
  const [limited, everywhere, folders, states] = await Promise.all([
    cgroups.list(),
    groupsBelow(dirname(cgroups.path('any'))),
    namesIn(machinesFolder),
    namesIn(stateFolder),
  ]);
  const groups = [...new Set([...limited, ...everywhere])];
  return [
    ...groups.flatMap((id) =>
      cgroups.processes(id).map((pid) => ({ kind: 'process' as const, id, detail: `pid ${pid}` })),
    ),
    ...groups.map((id) => ({ kind: 'cgroup' as const, id, detail: `jail ${id}` })),
    ...loops(machinesFolder).map(({ id, device }) => ({ kind: 'mount' as const, id, detail: `layer on ${device}` })),
    ...folders.map((id) => ({ kind: 'file' as const, id, detail: join(machinesFolder, id) })),
    ...states.map((id) => ({ kind: 'file' as const, id, detail: join(stateFolder, id) })),
  ];
}

async function namesIn(folder: string): Promise<string[]> {
  return readdir(folder).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return [];
    throw error;
  });
}

/** Loop devices on layers of this home: as long as one is there, some mount of that layer is. */
function loops(machinesFolder: string): readonly { readonly id: string; readonly device: string }[] {
  return loopDevices().flatMap(({ name: device, file }) => {
    if (!file.startsWith(`${machinesFolder}/`)) return [];
    const [id, name] = file
      .replace(/ \(deleted\)$/, '')
      .slice(machinesFolder.length + 1)
      .split('/');
    return id && name === LAYER_FILE ? [{ id, device }] : [];
  });
}
