/** The snapshots of a fake node: names, owners, pages, and which build each one grew from. */
import { randomBytes, randomUUID } from 'node:crypto';
import { CoppiceError } from '../../src/contract/errors.ts';
import type {
  ListSnapshotsQuery,
  ListSnapshotsResult,
  SandboxView,
  SnapshotView,
} from '../../src/contract/node-api.ts';

export const FAKE_OWN_BYTES = 3 * 1024 * 1024;
export const FAKE_SHARED_BYTES = 200 * 1024 * 1024;

export class FakeSnapshots {
  readonly #all: (SnapshotView & { readonly teamID: string })[] = [];
  /** Build that each sandbox last was. */
  readonly #builds = new Map<string, string>();

  /** Of a sandbox that has just been made, or rolled back. */
  isFrom(sandboxID: string, buildID: string): void {
    this.#builds.set(sandboxID, buildID);
  }

  buildOf(sandboxID: string): string {
    return this.#builds.get(sandboxID) ?? '';
  }

  take(source: SandboxView, name: string | undefined, nowMs: number): SnapshotView {
    const [alias, tag = 'default'] = name?.split(':') ?? [];
    if (alias !== undefined && !/^[a-z0-9_-]+$/.test(alias)) throw new CoppiceError('bad_request', 'name is malformed');
    const templateID = Array.from(randomBytes(20), (byte) => (byte % 36).toString(36)).join('');
    const snapshot: SnapshotView = {
      snapshotID: `${alias ?? templateID}:${tag}`,
      names: alias === undefined ? [] : [`${alias}:${tag}`],
      templateID,
      buildID: randomUUID(),
      sourceID: source.sandboxID,
      isolation: source.isolation,
      memory: source.isolation === 'microvm',
      parentID: this.buildOf(source.sandboxID),
      ownBytes: FAKE_OWN_BYTES,
      sharedBytes: source.isolation === 'microvm' ? FAKE_SHARED_BYTES : 0,
      createdAtMs: nowMs + this.#all.length,
      shape: { cpuCount: source.cpuCount, memoryMB: source.memoryMB, diskSizeMB: source.diskSizeMB },
    };
    this.#all.unshift({ ...snapshot, teamID: source.teamID });
    this.isFrom(source.sandboxID, snapshot.buildID);
    return snapshot;
  }

  find(name: string): SnapshotView | undefined {
    return this.#all.find((each) => namesOf(each).includes(name));
  }

  findOwn(teamID: string, sourceID: string, name: string): SnapshotView {
    const found = this.#all.find(
      (each) => each.teamID === teamID && each.sourceID === sourceID && namesOf(each).includes(name),
    );
    if (found) return found;
    throw new CoppiceError('template_not_found', `Sandbox "${sourceID}" has no snapshot '${name}'`);
  }

  list({ teamID, sourceID, name, limit, after }: ListSnapshotsQuery): ListSnapshotsResult {
    const matching = this.#all
      .filter((each) => each.teamID === teamID && (sourceID === undefined || each.sourceID === sourceID))
      .filter((each) => name === undefined || namesOf(each).includes(name))
      .filter((each) => after === undefined || each.createdAtMs < after.createdAtMs);
    const page = matching.slice(0, limit);
    const last = page.at(-1);
    const next = last && matching.length > limit ? { createdAtMs: last.createdAtMs, buildID: last.buildID } : undefined;
    return { snapshots: page, ...(next ? { next } : {}) };
  }

  /** @returns whether there was one. */
  delete(teamID: string, name: string): boolean {
    const index = this.#all.findIndex((each) => each.teamID === teamID && namesOf(each).includes(name));
    if (index >= 0) this.#all.splice(index, 1);
    return index >= 0;
  }
}

function namesOf({ templateID, names }: SnapshotView): string[] {
  return [templateID, `${templateID}:default`, ...names.flatMap((name) => [name, name.split(':')[0]!])];
}
