/**
 * Snapshots: what a sandbox is, captured while it goes on, as something to make sandboxes from.
 *
 *     <folder>/<buildID>/checkpoint/   as its backend published it; what it needs until then is beside it
 *
 * A row is written before its files and outlives them: `capturing` until they are published, `deleting` until they are
 * gone. Sandboxes need no file of a snapshot once they are made: what it shares, it shares with its golden checkpoint.
 */
import { randomUUID } from 'node:crypto';
import { mkdir, readdir, rm, statfs } from 'node:fs/promises';
import { join } from 'node:path';
import { CoppiceError } from '../contract/errors.ts';
import type { ListSnapshotsQuery, ListSnapshotsResult, SnapshotView } from '../contract/node-api.ts';
import type { Machine } from '../isolation/backend.ts';
import type { Backends } from '../isolation/backends.ts';
import { syncPath } from '../store/durable.ts';
import type { Log } from '../telemetry/log.ts';
import type { Captures } from './captures.ts';
import { newTemplateID } from './identifiers.ts';
import { bytesOf, type KeptSandboxes, linkCheckpoint } from './kept.ts';
import { DEFAULT_TAG, type KnownTemplates } from './known-templates.ts';
import type { Member } from './member.ts';
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
  readonly captures: Captures;
  readonly kept: KeptSandboxes;
  /** A snapshot can no longer be asked for. */
  readonly onDeleted: (buildID: string) => Promise<void>;
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

  /** Captures what `source` is; nobody parks, wakes, pauses or resumes it meanwhile. */
  async take(
    source: MachineRow,
    how: {
      /** What runs; absent, it is paused. */
      readonly member?: Member | undefined;
      readonly machine?: Machine | undefined;
      readonly name?: string;
      readonly hidden?: boolean;
      readonly signal?: AbortSignal;
      readonly onCapture?: (pauseMs: number) => void;
    },
  ): Promise<SnapshotRow> {
    const { rows, templates, folder, captures, stopping, log } = this.#options;
    const { hidden = false, signal } = how;
    const template = templates.of(source);
    if (!template || !source.owner)
      throw new CoppiceError('host_unfit', `the template of sandbox ${source.id} is not on this host`);
    const backend = captures.backendOf(source);
    const { diskSnapshot, memoryCheckpoint } = backend.capabilities;
    if (!diskSnapshot)
      throw new CoppiceError('not_implemented', `snapshot is not implemented for ${backend.kind} sandboxes yet`);
    const name = how.name === undefined ? undefined : parseNewName(how.name);
    const { teamID } = source.owner;
    if (name && templates.isTaken(teamID, name.name))
      throw new CoppiceError('conflict', `the name '${name.name}' belongs to a template`);
    if (rows.count(teamID) >= MOST_PER_TEAM)
      throw new CoppiceError('capacity', `there are ${MOST_PER_TEAM} snapshots already; delete some`);
    await demandRoom(folder);

    const base = await templates.base(source.baseID);
    const memory = source.kept?.memory ?? memoryCheckpoint;
    const buildID = randomUUID();
    rows.begin({
      buildID,
      templateID: newTemplateID(),
      teamID,
      alias: name?.name,
      tag: name?.tag ?? DEFAULT_TAG,
      sourceID: source.id,
      isolation: base.isolation,
      image: relativeImage(base.image, folder),
      shape: base.shape,
      languages: base.languages,
      env: template.env,
      createdAtMs: Date.now(),
      memory,
      hidden,
      baseID: source.baseID,
      parentID: source.parentID,
    });
    const bounds = [stopping, AbortSignal.timeout(CAPTURE_DEADLINE_MS), ...(signal ? [signal] : [])];
    const bounded = AbortSignal.any(bounds);
    let row: SnapshotRow;
    try {
      await mkdir(join(folder, buildID), { mode: 0o700 });
      const out = this.#checkpointOf(buildID);
      const ownBytes = how.machine
        ? await this.#capture(source, how.machine, out, { ...how, memory, signal: bounded })
        : await this.#copy(source, out);
      await syncPath(folder);
      bounded.throwIfAborted();
      row = rows.publish(buildID, ownBytes);
    } catch (error) {
      rows.intendDelete(buildID);
      await this.reconcile();
      if (bounded.aborted) throw new CoppiceError('aborted', 'the snapshot was given up', { cause: error });
      throw error;
    }
    log.info({ sandboxID: source.id, buildID, snapshotID: idOf(row), hidden }, 'snapshot taken');
    // What had its name before.
    await this.reconcile();
    return row;
  }

  async #capture(
    source: MachineRow,
    machine: Machine,
    out: string,
    how: {
      readonly memory: boolean;
      readonly member?: Member | undefined;
      readonly signal: AbortSignal;
      readonly onCapture?: (pauseMs: number) => void;
    },
  ): Promise<number> {
    const { memory, member, signal, onCapture } = how;
    const wish = { memory, goesOn: true, signal, ...(member ? { member } : {}) };
    const { ownBytes, pauseMs } = await this.#options.captures.capture(source, machine, out, wish);
    onCapture?.(pauseMs);
    return ownBytes;
  }

  /** Of a sandbox that is kept on disk: it is a checkpoint already. */
  async #copy(source: MachineRow, out: string): Promise<number> {
    if (!source.kept) throw new CoppiceError('unavailable', `sandbox ${source.id} has no machine`);
    await linkCheckpoint(this.#options.kept.pathOf(source.id, source.kept), out);
    return bytesOf(out);
  }

  /** A snapshot of this very sandbox, by one of its names. undefined: there is none. */
  ofSandbox(teamID: string, sandboxID: string, text: string): SnapshotRow | undefined {
    const name = parseName(text);
    const found = name ? this.#options.rows.find(teamID, { tag: DEFAULT_TAG, ...name }) : [];
    return found.find(({ sourceID }) => sourceID === sandboxID);
  }

  /**
   * The snapshot of the team that goes by this name, with its files kept until `release` is called. undefined: there is
   * none. checkpoint_corrupt or host_unfit when it cannot be used.
   */
  async hold(
    teamID: string,
    text: string,
  ): Promise<{ readonly template: ReadyTemplate; readonly release: () => void } | undefined> {
    const name = parseName(text);
    const row = name && this.#options.rows.find(teamID, { tag: DEFAULT_TAG, ...name })[0];
    return row && this.holdRow(row);
  }

  /** As `hold`, of one that is known. */
  async holdRow(row: SnapshotRow): Promise<{ readonly template: ReadyTemplate; readonly release: () => void }> {
    const { backends, templates, folder } = this.#options;
    const { buildID } = row;
    this.#holds.set(buildID, (this.#holds.get(buildID) ?? 0) + 1);
    let held = true;
    const release = (): void => {
      if (!held) return;
      held = false;
      const left = this.#holds.get(buildID)! - 1;
      if (left > 0) this.#holds.set(buildID, left);
      else {
        this.#holds.delete(buildID);
        void this.reconcile();
      }
    };
    try {
      const { checkpoint: base, runtime } = await templates.base(row.baseID);
      const checkpoint = await backends.of(row.isolation).openCheckpoint(this.#checkpointOf(buildID), { base });
      const template = { ...templateOf(row, folder), ...(runtime ? { runtime } : {}), checkpoint };
      return { template, release };
    } catch (error) {
      release();
      throw error;
    }
  }

  /** Where its checkpoint is. */
  folderOf({ buildID }: SnapshotRow): string {
    return this.#checkpointOf(buildID);
  }

  /** One that a verb made for itself is no longer needed. */
  async drop({ buildID }: SnapshotRow): Promise<void> {
    this.#options.rows.intendDelete(buildID);
    await this.reconcile();
  }

  async view(row: SnapshotRow): Promise<SnapshotView> {
    const { alias, tag, templateID, buildID, sourceID, isolation, memory, parentID, ownBytes, createdAtMs } = row;
    const { cpuCount, memoryMB, diskSizeMB } = row.shape;
    const base = await this.#options.templates.base(row.baseID).catch(() => undefined);
    const files = Object.values(base?.checkpoint.manifest.files ?? {});
    return {
      snapshotID: idOf(row),
      names: alias === undefined ? [] : [`${alias}:${tag}`],
      templateID,
      buildID,
      sourceID,
      isolation,
      memory,
      parentID,
      ownBytes,
      sharedBytes: files.reduce((sum, { bytes }) => sum + bytes, 0),
      createdAtMs,
      shape: { cpuCount, memoryMB, diskSizeMB },
    };
  }

  async list(query: ListSnapshotsQuery): Promise<ListSnapshotsResult> {
    const { name: text, limit, ...rest } = query;
    const name = text === undefined ? undefined : parseName(text);
    if (text !== undefined && !name) return { snapshots: [] };
    const found = this.#options.rows.page({ ...rest, ...(name ? { name } : {}), limit: limit + 1 });
    const page = found.slice(0, limit);
    const last = page.at(-1);
    return {
      snapshots: await Promise.all(page.map((row) => this.view(row))),
      ...(last && found.length > limit ? { next: { createdAtMs: last.createdAtMs, buildID: last.buildID } } : {}),
    };
  }

  async delete(teamID: string, text: string): Promise<void> {
    const { rows, templates, log } = this.#options;
    const name = parseName(text);
    const found = name ? rows.find(teamID, name) : [];
    if (found.length === 0) {
      if (templates.find(text))
        throw new CoppiceError(
          'forbidden',
          `template '${text.slice(0, 128)}' comes with Coppice and cannot be deleted`,
        );
      throw new CoppiceError('template_not_found', `template '${text.slice(0, 128)}' not found`);
    }
    for (const row of found) {
      rows.intendDelete(row.buildID);
      await this.#options.onDeleted(row.buildID);
      log.info({ buildID: row.buildID, snapshotID: idOf(row) }, 'snapshot deleted');
    }
    await this.reconcile();
  }

  /** What an earlier process was writing, and what nothing accounts for, goes. */
  async atStart(): Promise<void> {
    const { rows, folder, log } = this.#options;
    for (const { buildID } of [...rows.inState('capturing'), ...rows.hidden()]) rows.intendDelete(buildID);
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

async function demandRoom(folder: string): Promise<void> {
  const { bavail, bsize } = await statfs(folder);
  if (bavail * bsize < LEAST_FREE_BYTES)
    throw new CoppiceError(
      'capacity',
      'the disk of this host has no room for a snapshot: delete some, or paused sandboxes',
    );
}
