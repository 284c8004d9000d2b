/** The templates that this node can make sandboxes from, and the names that clients know them by. */
import { CoppiceError } from '../contract/errors.ts';
import type { Isolation } from '../isolation/backend.ts';
import type { ReadyTemplate, Template } from './nursery.ts';
import type { SnapshotRows } from './snapshot-rows.ts';
import { templateOf } from './snapshot-template.ts';

export class KnownTemplates {
  readonly all: readonly ReadyTemplate[];
  readonly #snapshots: SnapshotRows;
  readonly #snapshotsFolder: string;

  constructor(all: readonly ReadyTemplate[], snapshots: SnapshotRows, snapshotsFolder: string) {
    this.all = all;
    this.#snapshots = snapshots;
    this.#snapshotsFolder = snapshotsFolder;
  }

  /** What a machine was made from, snapshots that are deleted included. */
  of({ templateID, buildID }: { readonly templateID: string; readonly buildID: string }): Template | undefined {
    const template = this.all.find((one) => one.templateID === templateID);
    if (template) return template;
    const row = this.#snapshots.get(buildID);
    return row && templateOf(row, this.#snapshotsFolder);
  }

  /** By id, alias or either with a tag; snapshots are not among them. */
  find(name: string): ReadyTemplate | undefined {
    return this.all.find((template) => namesOf(template).includes(name));
  }

  /** The template itself, or with a wish for isolation the one of its family that has it. */
  inKind(template: ReadyTemplate, isolation: Isolation | undefined): ReadyTemplate {
    if (isolation === undefined || template.isolation === isolation) return template;
    const sibling = this.all.find((one) => one.family === template.family && one.isolation === isolation);
    if (sibling) return sibling;
    throw new CoppiceError(
      'bad_request',
      `template '${template.aliases[0]}' cannot run as a ${isolation} on this host`,
    );
  }
}

/** Everything a client may call it. */
export function namesOf({ templateID, aliases, tag }: Template): string[] {
  return [templateID, ...aliases].flatMap((name) =>
    tag === DEFAULT_TAG ? [name, `${name}:${tag}`] : [`${name}:${tag}`],
  );
}

/** What a name without a tag means. */
export const DEFAULT_TAG = 'default';
