/**
 * What build steps gave, kept for builds that begin alike: the disk of a builder after a step, by its key and for its team.
 *
 *     <folder>/<resultID>/checkpoint/
 *
 * They are worth only the time that it takes to make them again: the least lately used go when there are too many.
 */
import { randomUUID } from 'node:crypto';
import { mkdir, readdir, rm } from 'node:fs/promises';
import { join, relative } from 'node:path';
import type { Log } from '../telemetry/log.ts';
import type { StepRow, StepRows } from './step-rows.ts';

export interface StepResultsOptions {
  readonly rows: StepRows;
  /** Exists. */
  readonly folder: string;
  /** Bytes of all of them together. */
  readonly mostBytes?: number;
  readonly log: Log;
}

const MOST_BYTES = 16 * 2 ** 30;
/** One that nobody has used for so long goes. */
const UNUSED_MS = 14 * 24 * 3_600_000;

export class StepResults {
  readonly #options: StepResultsOptions;
  /** Builds that read them now. */
  readonly #holds = new Map<string, number>();

  constructor(options: StepResultsOptions) {
    this.#options = options;
  }

  find(teamID: string, key: string): StepRow | undefined {
    return this.#options.rows.find(teamID, key);
  }

  folderOf(resultID: string): string {
    return join(this.#options.folder, resultID, 'checkpoint');
  }

  /** It stays until the returned function is called. */
  hold(resultID: string): () => void {
    this.#holds.set(resultID, (this.#holds.get(resultID) ?? 0) + 1);
    this.#options.rows.touch(resultID);
    let held = true;
    return () => {
      if (!held) return;
      held = false;
      const left = this.#holds.get(resultID)! - 1;
      if (left > 0) this.#holds.set(resultID, left);
      else this.#holds.delete(resultID);
    };
  }

  /** `write` publishes the checkpoint at a path and says what it takes. `rootfs`: what it lies on. */
  async keep(
    wish: { readonly teamID: string; readonly key: string; readonly rootfs: string },
    write: (out: string) => Promise<number>,
  ): Promise<string> {
    const { rows, folder } = this.#options;
    const { teamID, key, rootfs } = wish;
    const resultID = randomUUID();
    rows.begin({ resultID, teamID, key, rootfs: relative(folder, rootfs) });
    try {
      await mkdir(join(folder, resultID), { mode: 0o700 });
      rows.publish({ resultID, teamID, key }, await write(this.folderOf(resultID)));
      return resultID;
    } catch (error) {
      rows.intendDelete(resultID);
      throw error;
    }
  }

  /** One that cannot be used. */
  drop(resultID: string): void {
    this.#options.rows.intendDelete(resultID);
  }

  /** What an earlier process was writing, and what no row accounts for, goes. */
  async atStart(): Promise<void> {
    const { rows } = this.#options;
    for (const { resultID, state } of rows.all()) if (state === 'keeping') rows.intendDelete(resultID);
    await this.reconcile();
    for (const name of await this.strays()) await rm(join(this.#options.folder, name), REMOVAL);
  }

  /** Removes what is to go, the least lately used first. Errors are logged: it is tried again. */
  async reconcile(): Promise<void> {
    const { rows, folder, mostBytes = MOST_BYTES, log } = this.#options;
    try {
      let bytes = 0;
      for (const row of rows.all()) {
        if (row.state === 'keeping' || this.#holds.has(row.resultID)) continue;
        bytes += row.bytes;
        const old = row.usedAtMs < Date.now() - UNUSED_MS || bytes > mostBytes;
        if (row.state === 'ready' && !old) continue;
        rows.intendDelete(row.resultID);
        await rm(join(folder, row.resultID), REMOVAL);
        rows.forget(row.resultID);
      }
    } catch (error) {
      log.error({ error }, 'the result of a build step could not be removed; it is tried again');
    }
  }

  /** Names in the folder that no row accounts for. */
  async strays(): Promise<readonly string[]> {
    const known = new Set(this.#options.rows.all().map(({ resultID }) => resultID));
    return (await readdir(this.#options.folder)).filter((name) => !known.has(name));
  }
}

const REMOVAL = { recursive: true, force: true } as const;
