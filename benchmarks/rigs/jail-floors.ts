/**
 * Rows: what others take to run /bin/true on the same root filesystem, without any part of ours. The runs are made by
 * jail-floors-inside.ts in namespaces of its own, so that no mount and no process is left
 * whatever happens.
 */
import { spawn } from 'node:child_process';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { mkdtemp, rm, rmdir } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Summary } from './statistics.ts';

export interface ForeignRow {
  /** null: the tool is not here, or refuses this host; `note` says which. */
  readonly ms: Summary | null;
  readonly version: string | null;
  readonly note: string;
}

export interface ForeignFloors {
  readonly crun_run: ForeignRow;
  readonly crun_run_without_cgroups: ForeignRow;
  readonly runc_run: ForeignRow;
  readonly podman_run: ForeignRow;
}

export interface InsideOptions {
  /** Empty, and removed by the caller. */
  readonly folder: string;
  /** ext4 image. */
  readonly rootfs: string;
  readonly n: number;
}

const DEADLINE_MS = 300_000;
/** What podman leaves in every hierarchy. */
const PODMAN_GROUP = 'libpod_parent';

export async function measureForeign(rootfs: string, n: number, signal: AbortSignal): Promise<ForeignFloors> {
  const folder = await mkdtemp(join(tmpdir(), 'coppice-floors-'));
  const there = podmanGroups();
  try {
    const options: InsideOptions = { folder, rootfs, n };
    return JSON.parse(await runInside(options, signal)) as ForeignFloors;
  } finally {
    await rm(folder, { recursive: true, force: true });
    for (const group of podmanGroups()) if (!there.includes(group)) await removeTree(group);
  }
}

/** What the program printed. Returns, or throws, when nothing of it runs any more. */
async function runInside(options: InsideOptions, signal: AbortSignal): Promise<string> {
  signal.throwIfAborted();
  const child = spawn(
    'unshare',
    [
      '--mount',
      '--propagation=private',
      // podman goes on in the background after it has ended: what is left of it ends with its first process.
      '--pid',
      '--fork',
      '--kill-child',
      '--mount-proc',
      process.execPath,
      '--disable-warning=ExperimentalWarning',
      join(import.meta.dirname, 'jail-floors-inside.ts'),
      JSON.stringify(options),
    ],
    { stdio: ['ignore', 'pipe', 'pipe'] },
  );
  // The first process of the namespace: with it all others end, and `unshare` after them.
  const end = (): void => {
    for (const pid of [...childrenOf(child.pid!), child.pid!]) {
      try {
        process.kill(pid, 'SIGKILL');
        return;
      } catch {
        // It has ended.
      }
    }
  };
  const bounded = AbortSignal.any([signal, AbortSignal.timeout(DEADLINE_MS)]);
  bounded.addEventListener('abort', end, { once: true });
  const said = { out: '', err: '' };
  child.stdout.on('data', (chunk: Buffer) => {
    said.out += chunk.toString();
  });
  child.stderr.on('data', (chunk: Buffer) => {
    said.err = (said.err + chunk.toString()).slice(-2_000);
  });
  try {
    const code = await new Promise<number | null>((resolve, reject) => {
      child.once('error', reject);
      child.once('close', resolve);
    });
    bounded.throwIfAborted();
    if (code !== 0) throw new Error(`the floors could not be measured: ${said.err.trim()}`);
    return said.out;
  } finally {
    bounded.removeEventListener('abort', end);
  }
}

function childrenOf(pid: number): number[] {
  try {
    return readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim().split(/\s+/).filter(Boolean).map(Number);
  } catch {
    return [];
  }
}

function podmanGroups(): string[] {
  const mount = '/sys/fs/cgroup';
  return [mount, ...readdirSync(mount).map((name) => join(mount, name))]
    .map((folder) => join(folder, PODMAN_GROUP))
    .filter((folder) => existsSync(folder));
}

/** Groups that are empty; one that is in use stays, and belongs to somebody else. */
async function removeTree(group: string): Promise<void> {
  for (const entry of readdirSync(group, { withFileTypes: true }))
    if (entry.isDirectory()) await removeTree(join(group, entry.name));
  await rmdir(group).catch(() => {});
}
