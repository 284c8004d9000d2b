/**
 * Volumes of teams: an image a volume, named by its row before it is made and until it is gone.
 *
 *     <folder>/<volumeID>.ext4
 */
import { randomUUID } from 'node:crypto';
import { close } from 'node:fs';
import { readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { CoppiceError } from '../contract/errors.ts';
import type { VolumeAndToken, VolumeMount, VolumeView } from '../contract/volume-api.ts';
import { sameSecret } from '../envd/auth.ts';
import type { MachineVolume } from '../isolation/backend.ts';
import type { Backends } from '../isolation/backends.ts';
import type { Log } from '../telemetry/log.ts';
import { volumeToken } from './identifiers.ts';
import type { Rows } from './rows.ts';
import type { VolumeRow } from './volume-rows.ts';

export interface VolumesOptions {
  readonly rows: Rows;
  readonly backends: Backends;
  /** Exists. */
  readonly folder: string;
  /** MiB of each that is made from now on. */
  readonly sizeMB: number;
  /** Makes an empty one, whole or not at all. */
  readonly makeImage: (path: string, sizeMB: number) => Promise<void>;
  /** What tokens are derived from. */
  readonly seed: Buffer;
  readonly log: Log;
}

/** A volume in a sandbox, as its row has it. */
export interface Mounted extends VolumeMount {
  readonly volumeID: string;
}

const SUFFIX = '.ext4';
const MOST_OF_A_TEAM = 100;
/** A volume whose files were asked for stays mounted for this long after. */
const IDLE_MS = 10_000;

/** A root folder, mounted while somebody reads or writes it, and a while longer. */
interface Open {
  readonly root: Promise<number>;
  users: number;
  timer?: NodeJS.Timeout;
}

export class Volumes {
  readonly #options: VolumesOptions;
  readonly #open = new Map<string, Open>();
  /** Creates under way, by volume: their sandboxes have no rows yet. */
  readonly #held = new Map<string, number>();

  constructor(options: VolumesOptions) {
    this.#options = options;
  }

  async create(teamID: string, name: string): Promise<VolumeAndToken> {
    const { rows, sizeMB, makeImage, log } = this.#options;
    this.#demandHost();
    if (rows.volumes.countOfTeam(teamID) >= MOST_OF_A_TEAM)
      throw new CoppiceError('bad_request', `a team may have ${MOST_OF_A_TEAM} volumes; delete one first`);
    const volumeID = randomUUID();
    if (!rows.volumes.plan(volumeID, teamID, name))
      throw new CoppiceError('conflict', `Volume with name '${name}' already exists`);
    try {
      await makeImage(this.#pathOf(volumeID), sizeMB);
      rows.volumes.move(volumeID, 'making', 'ready');
    } catch (error) {
      rows.volumes.move(volumeID, 'making', 'deleting');
      await this.#remove(volumeID);
      throw error;
    }
    log.info({ volumeID, name, teamID, sizeMB }, 'volume created');
    return { volumeID, name, token: this.#tokenOf(volumeID) };
  }

  list(teamID: string): readonly VolumeView[] {
    return this.#options.rows.volumes.ofTeam(teamID).map(({ volumeID, name }) => ({ volumeID, name }));
  }

  get(teamID: string, volumeID: string): VolumeAndToken {
    const { name } = this.#demand(teamID, volumeID);
    return { volumeID, name, token: this.#tokenOf(volumeID) };
  }

  /** What is under way in it by the content API goes on, with what nobody will find again. */
  async delete(teamID: string, volumeID: string): Promise<void> {
    const { rows, log } = this.#options;
    const { name } = this.#demand(teamID, volumeID);
    const sandboxID = rows.userOfVolume(volumeID);
    if (sandboxID !== undefined || this.#held.has(volumeID))
      throw new CoppiceError(
        'conflict',
        `Volume '${name}' is mounted in ${sandboxID === undefined ? 'a sandbox that is being made' : `sandbox ${sandboxID}`}; kill it first`,
      );
    rows.volumes.move(volumeID, 'ready', 'deleting');
    await this.#remove(volumeID);
    log.info({ volumeID, name, teamID }, 'volume deleted');
  }

  /** What a create asks for, kept there until it is released. bad_request: it names what the team does not have. */
  hold(
    teamID: string,
    mounts: readonly VolumeMount[],
  ): { readonly mounted: readonly Mounted[]; readonly release: () => void } {
    if (mounts.length === 0) return { mounted: [], release: () => {} };
    const known = new Map(this.list(teamID).map(({ name, volumeID }) => [name, volumeID]));
    const missing = [...new Set(mounts.map(({ name }) => name).filter((name) => !known.has(name)))];
    if (missing.length > 0)
      throw new CoppiceError('bad_request', `Volumes not found: ${missing.map((name) => `'${name}'`).join(', ')}`);
    const mounted = mounts.map(({ name, path }) => ({ volumeID: known.get(name)!, name, path }));
    for (const { volumeID } of mounted) this.#held.set(volumeID, (this.#held.get(volumeID) ?? 0) + 1);
    return {
      mounted,
      release: () => {
        for (const { volumeID } of mounted) {
          const left = this.#held.get(volumeID)! - 1;
          if (left > 0) this.#held.set(volumeID, left);
          else this.#held.delete(volumeID);
        }
      },
    };
  }

  /** For a backend. */
  machineVolumes(mounted: readonly Mounted[]): readonly MachineVolume[] {
    return mounted.map(({ volumeID, path }) => ({ image: this.#pathOf(volumeID), path }));
  }

  /**
   * The root folder of the volume whose token this is, for the content API, until it is released. `unauthorized`,
   * `volume_not_found`.
   */
  async open(volumeID: string, token: string): Promise<{ readonly root: number; readonly release: () => void }> {
    if (!sameSecret(token, this.#tokenOf(volumeID)))
      throw new CoppiceError(
        'unauthorized',
        'missing or invalid token of the volume: send it as Authorization: Bearer',
      );
    return this.use(volumeID);
  }

  /** The root folder of a volume, mounted until it is released. `volume_not_found`. */
  async use(volumeID: string): Promise<{ readonly root: number; readonly release: () => void }> {
    if (this.#options.rows.volumes.get(volumeID)?.state !== 'ready') throw volumeNotFound(volumeID);
    let open = this.#open.get(volumeID);
    if (!open) {
      open = { root: this.#demandHost()(this.#pathOf(volumeID)), users: 0 };
      this.#open.set(volumeID, open);
    }
    const found = open;
    clearTimeout(found.timer);
    found.users++;
    let released = false;
    const release = (): void => {
      if (released) return;
      released = true;
      found.users--;
      this.#closeLater(volumeID, found);
    };
    try {
      return { root: await found.root, release };
    } catch (error) {
      if (this.#open.get(volumeID) === found) this.#open.delete(volumeID);
      throw error;
    }
  }

  /** Of an earlier process: what was not made whole goes, and what was to go. */
  async atStart(): Promise<void> {
    const { rows, folder, log } = this.#options;
    for (const { volumeID, state } of rows.volumes.all()) if (state !== 'ready') await this.#remove(volumeID);
    for (const name of await this.strays()) {
      await rm(join(folder, name), { force: true });
      log.warn({ name }, 'swept a volume that no row accounts for');
    }
  }

  async close(): Promise<void> {
    for (const [volumeID, open] of this.#open) await this.#close(volumeID, open);
  }

  /** Names in the folder that no row accounts for. */
  async strays(): Promise<readonly string[]> {
    const { rows, folder } = this.#options;
    const known = new Set(
      rows.volumes.all().flatMap(({ volumeID }) => [volumeID + SUFFIX, `${volumeID}${SUFFIX}.new`]),
    );
    return (await readdir(folder)).filter((name) => !known.has(name));
  }

  #closeLater(volumeID: string, open: Open): void {
    if (open.users > 0) return;
    open.timer = setTimeout(() => void this.#close(volumeID, open), IDLE_MS).unref();
  }

  async #close(volumeID: string, open: Open): Promise<void> {
    if (open.users > 0) return;
    clearTimeout(open.timer);
    if (this.#open.get(volumeID) === open) this.#open.delete(volumeID);
    const root = await open.root.catch(() => undefined);
    // The kernel writes back what it holds: not on this thread.
    if (root !== undefined) await promisify(close)(root);
  }

  async #remove(volumeID: string): Promise<void> {
    const open = this.#open.get(volumeID);
    if (open) {
      this.#open.delete(volumeID);
      await this.#close(volumeID, open);
    }
    const path = this.#pathOf(volumeID);
    await rm(path, { force: true });
    await rm(`${path}.new`, { force: true });
    this.#options.rows.volumes.remove(volumeID);
  }

  #demand(teamID: string, volumeID: string): VolumeRow {
    const row = this.#options.rows.volumes.get(volumeID);
    if (row?.teamID !== teamID || row.state !== 'ready') throw volumeNotFound(volumeID);
    return row;
  }

  #demandHost(): (image: string) => Promise<number> {
    const backend = this.#options.backends.all.find(({ openVolume }) => openVolume !== undefined);
    if (!backend) throw new CoppiceError('unsupported_policy', 'volumes need jails, and this host has none');
    return (image) => backend.openVolume!(image);
  }

  #tokenOf(volumeID: string): string {
    return volumeToken(this.#options.seed, volumeID);
  }

  #pathOf(volumeID: string): string {
    return join(this.#options.folder, volumeID + SUFFIX);
  }
}

function volumeNotFound(volumeID: string): CoppiceError {
  return new CoppiceError('volume_not_found', `Volume '${volumeID.slice(0, 128)}' not found`);
}
