/** What is left of machines on the host: found by command line, cgroup and folder, without any record. */
import { readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { Cgroups } from '../../cgroup.ts';
import { commandLine, endProcess, listPids, type ProcessIdentity, readProcess } from '../../process-table.ts';

const NAME = /^coppice-([a-z0-9]{1,32})$/;

export interface CensusItem {
  readonly kind: 'process' | 'cgroup' | 'file' | 'mount';
  readonly id: string;
  readonly detail: string;
}

/** Id of the machine under `machinesFolder` that a command line runs, if it is one of ours. */
export function machineOf(args: readonly string[], machinesFolder: string): string | undefined {
  const id = NAME.exec(args[args.indexOf('-name') + 1] ?? '')?.[1];
  if (id === undefined || !args.includes('-name')) return undefined;
  return args.some((arg) => arg.includes(`${machinesFolder}/${id}/`)) ? id : undefined;
}

function processes(machinesFolder: string): readonly (ProcessIdentity & { readonly id: string })[] {
  return listPids().flatMap((pid) => {
    const id = machineOf(commandLine(pid), machinesFolder);
    const facts = id === undefined ? undefined : readProcess(pid);
    return id !== undefined && facts ? [{ id, pid, startTime: facts.startTime }] : [];
  });
}

export async function census(machinesFolder: string, cgroups: Cgroups): Promise<readonly CensusItem[]> {
  const folders = await readdir(machinesFolder).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return [];
    throw error;
  });
  return [
    ...processes(machinesFolder).map(({ id, pid }) => ({ kind: 'process' as const, id, detail: `pid ${pid}` })),
    ...(await cgroups.list()).map((id) => ({ kind: 'cgroup' as const, id, detail: id })),
    ...folders.map((id) => ({ kind: 'file' as const, id, detail: join(machinesFolder, id) })),
  ];
}

/** Ends and removes whatever there is of one machine. Idempotent. */
export async function sweep(id: string, machinesFolder: string, cgroups: Cgroups): Promise<void> {
  for (const found of processes(machinesFolder)) if (found.id === id) await endProcess(found);
  await cgroups.remove(id);
  await rm(join(machinesFolder, id), { recursive: true, force: true });
}
