/** The templates that this node can make sandboxes from, and the names that clients know them by. */
import { CoppiceError } from '../contract/errors.ts';
import type { Isolation } from '../isolation/backend.ts';
import type { BuiltTemplates, HeldTemplate } from './built-templates.ts';
import type { ReadyTemplate, Template } from './nursery.ts';
import type { SnapshotRows } from './snapshot-rows.ts';
import { templateOf } from './snapshot-template.ts';

export interface KnownTemplatesOptions {
  readonly all: readonly ReadyTemplate[];
  readonly snapshots: SnapshotRows;
  readonly snapshotsFolder: string;
  /** A build that is on disk though its template has a newer one. */
  readonly olderBuild: (buildID: string) => Promise<ReadyTemplate | undefined>;
  /** What teams have built; undefined: they cannot. */
  readonly built?: BuiltTemplates | undefined;
}

export class KnownTemplates {
  /** Those that come with Coppice. */
  readonly all: readonly ReadyTemplate[];
  readonly #options: KnownTemplatesOptions;
  readonly #older = new Map<string, Promise<ReadyTemplate | undefined>>();

  constructor(options: KnownTemplatesOptions) {
    this.all = options.all;
    this.#options = options;
  }

  /** The build of a template by its id, what machines and snapshots lie on. host_unfit: it is gone. */
  async base(buildID: string): Promise<ReadyTemplate> {
    const known = this.all.find((one) => one.buildID === buildID);
    if (known) return known;
    const built = await this.#options.built?.ready(buildID);
    if (built) return built;
    const looking = this.#older.get(buildID) ?? this.#options.olderBuild(buildID);
    this.#older.set(buildID, looking);
    const found = await looking.catch((error: unknown) => {
      this.#older.delete(buildID);
      throw error;
    });
    if (found) return found;
    throw new CoppiceError('host_unfit', `the build ${buildID} of a template, on which this lies, is not on this host`);
  }

  /** What a machine was made from, snapshots that are deleted included. */
  of({ templateID, buildID }: { readonly templateID: string; readonly buildID: string }): Template | undefined {
    const template = this.all.find((one) => one.templateID === templateID);
    if (template) return template;
    const { snapshots, snapshotsFolder, built } = this.#options;
    const row = snapshots.get(buildID);
    if (!row) return built?.of(buildID);
    const { runtime } = built?.of(row.baseID) ?? {};
    return { ...templateOf(row, snapshotsFolder), ...(runtime ? { runtime } : {}) };
  }

  /** By id, alias or either with a tag; snapshots are not among them. */
  find(name: string): ReadyTemplate | undefined {
    return this.all.find((template) => namesOf(template).includes(name));
  }

  /** Whether the team calls something so already that is no snapshot. */
  isTaken(teamID: string, name: string): boolean {
    if (this.find(name)) return true;
    const found = this.#options.built?.resolve(teamID, name);
    return found !== undefined && found !== 'foreign' && found.teamID === teamID;
  }

  /**
   * What teams have built, by a name as a client wrote it. `own`: the team's; `public`: another's, which may be used. `foreign`:
   * it may not.
   */
  async hold(teamID: string, name: string, whose: 'own' | 'public'): Promise<HeldTemplate | 'foreign' | undefined> {
    const { built } = this.#options;
    const row = built?.resolve(teamID, name);
    if (!row || row === 'foreign') return row;
    return (row.teamID === teamID) === (whose === 'own') ? built?.hold(row, name) : undefined;
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
