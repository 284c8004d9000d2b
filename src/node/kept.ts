/**
 * Where paused sandboxes are that no machine holds: one folder a sandbox, in it checkpoints by name, of which its row names
 * the one that counts. A row names its checkpoint before it is written and until what was made of it runs; the rest is swept.
 *
 *     <folder>/<sandboxID>/<name>/   as a backend published it, or linked from a snapshot
 */
import { randomUUID } from 'node:crypto';
import { existsSync } from 'node:fs';
import { copyFile, link, mkdir, readdir, rename, rm, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { syncPath } from '../store/durable.ts';
import type { Kept, MachineRow } from './rows.ts';

/** A kill does not wait for the verb under way, which may be writing just there. */
const REMOVAL = { recursive: true, force: true, maxRetries: 5, retryDelay: 20 } as const;

export class KeptSandboxes {
  readonly #folder: string;

  /** `folder` exists. */
  constructor(folder: string) {
    this.#folder = folder;
  }

  /** A name for a checkpoint that is to come, with the folder of its sandbox made. */
  async plan(sandboxID: string, memory: boolean): Promise<Kept> {
    await mkdir(join(this.#folder, sandboxID), { recursive: true, mode: 0o700 });
    return { name: randomUUID(), memory };
  }

  pathOf(sandboxID: string, kept: Kept): string {
    return join(this.#folder, sandboxID, kept.name);
  }

  /** Whether it is there whole: it appears by one rename. */
  isThere(sandboxID: string, kept: Kept): boolean {
    return existsSync(this.pathOf(sandboxID, kept));
  }

  /** Makes it of a published checkpoint that lies at `from`, without copying: files of checkpoints never change. */
  async link(sandboxID: string, kept: Kept, from: string): Promise<void> {
    await linkCheckpoint(from, this.pathOf(sandboxID, kept));
  }

  /** Removes what a row does not name. */
  async tidy(sandboxID: string, kept: Kept | undefined): Promise<void> {
    const folder = join(this.#folder, sandboxID);
    const names = await readdir(folder).catch(() => [] as string[]);
    for (const name of names) if (name !== kept?.name) await rm(join(folder, name), REMOVAL);
    if (kept === undefined) await rm(folder, REMOVAL);
  }

  /** Ids of the sandboxes that something is kept of. */
  async all(): Promise<readonly string[]> {
    return readdir(this.#folder);
  }

  /** Names in the folder that are no sandbox's. */
  async strays(rows: readonly MachineRow[]): Promise<readonly string[]> {
    const known = new Set(rows.map(({ id }) => id));
    return (await this.all()).filter((name) => !known.has(name));
  }
}

/** Publishes hard links to the files of a checkpoint at `to`, or copies on another file system, by one rename. They outlive each other. */
export async function linkCheckpoint(from: string, to: string): Promise<void> {
  const work = `${to}.new`;
  await rm(work, { recursive: true, force: true });
  await mkdir(work, { mode: 0o700 });
  try {
    for (const name of await readdir(from)) await linkOrCopy(join(from, name), join(work, name));
    await rename(work, to);
  } catch (error) {
    await rm(work, { recursive: true, force: true });
    throw error;
  }
  await syncPath(dirname(to));
}

async function linkOrCopy(from: string, to: string): Promise<void> {
  try {
    await link(from, to);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EXDEV') throw error;
    await copyFile(from, to);
    await syncPath(to);
  }
}

/** What the files of a checkpoint take on the disk. */
export async function bytesOf(folder: string): Promise<number> {
  let bytes = 0;
  for (const name of await readdir(folder)) bytes += (await stat(join(folder, name))).blocks * 512;
  return bytes;
}
