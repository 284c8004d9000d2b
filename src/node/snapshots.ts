/**
 * Snapshots: what a sandbox has on disk, captured while it goes on, as something to make sandboxes from.
 *
 *     <folder>/<buildID>/checkpoint/   as its backend published it; what it needs until then is beside it
 *
 * A row is written before its files and outlives them: `capturing` until they are published, `deleting` until they are
 * gone. Sandboxes are full copies and need no file of a snapshot once they are made.
 */
import { randomUUID } from 'node:crypto';
import { mkdir, open, readdir, rm, statfs } from 'node:fs/promises';
import { join } from 'node:path';
import { CoppiceError } from '../contract/errors.ts';
import type { ListSnapshotsQuery, ListSnapshotsResult, SnapshotView } from '../contract/node-api.ts';
import type { Machine } from '../isolation/backend.ts';
import type { Backends } from '../isolation/backends.ts';
import type { Log } from '../telemetry/log.ts';
import { newTemplateID } from './identifiers.ts';
import { DEFAULT_TAG, type KnownTemplates } from './known-templates.ts';
import type { ReadyTemplate } from './nursery.ts';
import type { MachineRow } from './rows.ts';
import type { SnapshotName, SnapshotRow, SnapshotRows } from './snapshot-rows.ts';
import { relativeImage, templateOf } from './snapshot-template.ts';

export interface SnapshotsOptions {
  readonly backends: Backends;
  readonly rows: SnapshotRows;
  readonly templates: KnownTemplates;
  /** Exists. */
  readonly folder: string;
  /** Aborts when the node stops. */
  readonly stopping: AbortSignal;
  readonly log: Log;
}

/** The longest that a capture may take; its sandbox may be stopped for as long. */
const CAPTURE_DEADLINE_MS = 120_000;
/** Snapshots of one team at once. */
const MOST_PER_TEAM = 1_000;
/** No capture begins with less than this left on the disk: the node's own database is there too. */
const LEAST_FREE_BYTES = 512 * 2 ** 20;
const ALIAS = /^[a-z0-9_-]{1,128}$/;
const TAG = /^[a-z0-9_.-]{1,128}$/;

export class Snapshots {
  readonly #options: SnapshotsOptions;
  /** Creates under way from each of them. */
  readonly #holds = new Map<string, number>();
  /** Removals under way. */
  readonly #removing = new Map<string, Promise<void>>();

  constructor(options: SnapshotsOptions) {
    this.#options = options;
  }

  /** Captures `machine`, which nobody parks or wakes meanwhile. */
  async take(
    source: MachineRow,
    machine: Machine,
    options: { readonly name?: string; readonly signal?: AbortSignal },
  ): Promise<SnapshotView> {
    const { backends, rows, templates, folder, stopping, log } = this.#options;
    const template = templates.of(source);
    const backend = backends.all.find(({ name }) => name === source.record?.backend);
    if (!template || !backend || !source.owner)
      throw new CoppiceError('host_unfit', `the backend or template of sandbox ${source.id} is not on this host`);
    if (!backend.capabilities.diskSnapshot || !backend.captureDisk)
      throw new CoppiceError('not_implemented', `snapshot is not implemented for ${backend.kind} sandboxes yet`);
    // A layer is worth nothing without the very image that it lies on.
    if (template.buildID !== source.buildID)
      throw new CoppiceError('conflict', `sandbox ${source.id} was made from an earlier build of its template`);
    const name = options.name === undefined ? undefined : parseNewName(options.name);
    if (name && templates.find(name.name))
      throw new CoppiceError('conflict', `the name '${name.name}' belongs to a template`);
    const { teamID } = source.owner;
    if (rows.count(teamID) >= MOST_PER_TEAM)
      throw new CoppiceError('capacity', `there are ${MOST_PER_TEAM} snapshots already; delete some`);
    await demandRoom(folder);

    const buildID = randomUUID();
    rows.begin({
      buildID,
      templateID: newTemplateID(),
      teamID,
      alias: name?.name,
      tag: name?.tag ?? DEFAULT_TAG,
      sourceID: source.id,
      isolation: template.isolation,
      image: relativeImage(template.image, folder),
      shape: template.shape,
      languages: template.languages,
      env: template.env,
      createdAtMs: Date.now(),
    });
    const { signal } = options;
    const bounds = [stopping, AbortSignal.timeout(CAPTURE_DEADLINE_MS), ...(signal ? [signal] : [])];
    const bounded = AbortSignal.any(bounds);
    let row: SnapshotRow;
    try {
      const { image, shape } = template;
      await mkdir(join(folder, buildID), { mode: 0o700 });
      await backend.captureDisk(machine, { image, shape }, this.#checkpointOf(buildID), bounded);
      await syncFolder(folder);
      bounded.throwIfAborted();
      row = rows.publish(buildID);
    } catch (error) {
      rows.intendDelete(buildID);
      await this.reconcile();
      if (bounded.aborted) throw new CoppiceError('aborted', 'the snapshot was given up', { cause: error });
      throw error;
    }
    log.info({ sandboxID: source.id, buildID, snapshotID: idOf(row) }, 'snapshot taken');
    // What had its name before.
    await this.reconcile();
    return viewOf(row);
  }

  /**
   * The snapshot of the team that goes by this name, with its files kept until `release` is called. undefined: there is
   * none. checkpoint_corrupt or host_unfit when it cannot be used.
   */
  async hold(
    teamID: string,
    text: string,
  ): Promise<{ readonly template: ReadyTemplate; readonly release: () => void } | undefined> {
    const { backends, rows, folder } = this.#options;
    const name = parseName(text);
    const row = name && rows.find(teamID, { tag: DEFAULT_TAG, ...name })[0];
    if (!row) return undefined;
    const { buildID } = row;
    this.#holds.set(buildID, (this.#holds.get(buildID) ?? 0) + 1);
    const release = (): void => {
      const left = this.#holds.get(buildID)! - 1;
      if (left > 0) this.#holds.set(buildID, left);
      else {
        this.#holds.delete(buildID);
        void this.reconcile();
      }
    };
    try {
      const golden = await backends.of(row.isolation).openGolden(this.#checkpointOf(buildID));
      return { template: { ...templateOf(row, folder), golden }, release };
    } catch (error) {
      release();
      throw error;
    }
  }

  list(query: ListSnapshotsQuery): ListSnapshotsResult {
    const { name: text, limit, ...rest } = query;
    const name = text === undefined ? undefined : parseName(text);
    if (text !== undefined && !name) return { snapshots: [] };
    const found = this.#options.rows.page({ ...rest, ...(name ? { name } : {}), limit: limit + 1 });
    const page = found.slice(0, limit);
    const last = page.at(-1);
    return {
      snapshots: page.map(viewOf),
      ...(last && found.length > limit ? { next: { createdAtMs: last.createdAtMs, buildID: last.buildID } } : {}),
    };
  }

  async delete(teamID: string, text: string): Promise<void> {
    const { rows, templates, log } = this.#options;
    const name = parseName(text);
    const found = name ? rows.find(teamID, name) : [];
    if (found.length === 0) {
      if (templates.find(text)) throw new CoppiceError('not_implemented', 'template delete is not implemented yet');
      throw new CoppiceError('template_not_found', `template '${text.slice(0, 128)}' not found`);
    }
    for (const row of found) {
      rows.intendDelete(row.buildID);
      log.info({ buildID: row.buildID, snapshotID: idOf(row) }, 'snapshot deleted');
    }
    await this.reconcile();
  }

  /** What an earlier process was writing, and what nothing accounts for, goes. */
  async atStart(): Promise<void> {
    const { rows, folder, log } = this.#options;
    for (const { buildID } of rows.inState('capturing')) rows.intendDelete(buildID);
    await this.reconcile();
    for (const name of await this.strays()) {
      await rm(join(folder, name), { recursive: true, force: true });
      log.warn({ name }, 'swept files of a snapshot that no row accounts for');
    }
  }

  /** Finishes what is to be deleted. Errors are logged: it is tried again at the next turn. */
  async reconcile(): Promise<void> {
    const { rows, log } = this.#options;
    try {
      for (const { buildID } of rows.inState('deleting')) if (!this.#holds.has(buildID)) await this.#remove(buildID);
      rows.purge();
    } catch (error) {
      log.error({ error }, 'a snapshot could not be deleted; it is tried again');
    }
  }

  /** Names in the folder that no row accounts for. */
  async strays(): Promise<readonly string[]> {
    const { rows, folder } = this.#options;
    const names = await readdir(folder);
    const known = new Set(rows.all().flatMap(({ state, buildID }) => (state === 'deleted' ? [] : [buildID])));
    const strays = names.filter((name) => !known.has(name));
    if (strays.length === 0) return strays;
    // One whose row went while the folder was read has no files any more.
    const still = new Set(await readdir(folder));
    return strays.filter((name) => still.has(name));
  }

  #checkpointOf(buildID: string): string {
    return join(this.#options.folder, buildID, 'checkpoint');
  }

  #remove(buildID: string): Promise<void> {
    const underway = this.#removing.get(buildID);
    if (underway) return underway;
    const { rows, folder } = this.#options;
    const removal = (async () => {
      await rm(join(folder, buildID), { recursive: true, force: true });
      rows.settleDelete(buildID);
    })().finally(() => this.#removing.delete(buildID));
    this.#removing.set(buildID, removal);
    return removal;
  }
}

/** `<name>` or `<name>:<tag>`, in lower case as E2B has its names; undefined: nothing can go by that. */
function parseName(text: string): SnapshotName | undefined {
  const [name = '', tag, ...rest] = text.toLowerCase().split(':');
  if (rest.length > 0 || !ALIAS.test(name)) return undefined;
  if (tag === undefined) return { name };
  return TAG.test(tag) ? { name, tag } : undefined;
}

function parseNewName(text: string): SnapshotName {
  const name = parseName(text);
  if (name) return name;
  throw new CoppiceError(
    'bad_request',
    'name must be an alias of a-z, 0-9, _ and -, which a tag may follow after a colon; namespaces are not supported',
  );
}

function idOf({ templateID, alias, tag }: SnapshotRow): string {
  return `${alias ?? templateID}:${tag}`;
}

function viewOf(row: SnapshotRow): SnapshotView {
  const { alias, tag, templateID, buildID, sourceID, isolation, createdAtMs } = row;
  return {
    snapshotID: idOf(row),
    names: alias === undefined ? [] : [`${alias}:${tag}`],
    templateID,
    buildID,
    sourceID,
    isolation,
    createdAtMs,
  };
}

async function syncFolder(folder: string): Promise<void> {
  const handle = await open(folder, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

async function demandRoom(folder: string): Promise<void> {
  const { bavail, bsize } = await statfs(folder);
  if (bavail * bsize < LEAST_FREE_BYTES)
    throw new CoppiceError('capacity', 'the disk of this host has no room for a snapshot');
}
