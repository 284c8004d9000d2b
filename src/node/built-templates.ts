/** Templates that teams have built, as something to make machines of. What they are called and whose they are, rows say. */
import { join, relative, resolve } from 'node:path';
import { CoppiceError } from '../contract/errors.ts';
import type { MachineImage } from '../isolation/backend.ts';
import type { Backends } from '../isolation/backends.ts';
import { mapImageFiles } from '../templates/image-files.ts';
import type { BuildRow, BuildRows, TemplateRow } from './build-rows.ts';
import { DEFAULT_TAG } from './known-templates.ts';
import type { ReadyTemplate, Template } from './nursery.ts';
import { isBuildID, parseTemplateName } from './template-names.ts';

export interface BuiltTemplatesOptions {
  readonly rows: BuildRows;
  /** Exists; one folder a build. */
  readonly folder: string;
  readonly backends: Backends;
}

/** A template of a team, kept until it is released. */
export interface HeldTemplate {
  readonly template: ReadyTemplate;
  readonly release: () => void;
}

export class BuiltTemplates {
  readonly #options: BuiltTemplatesOptions;
  /** By build. What is ready never changes. */
  readonly #open = new Map<string, Promise<ReadyTemplate>>();
  /** Creates and builds under way from each of them. */
  readonly #holds = new Map<string, number>();

  constructor(options: BuiltTemplatesOptions) {
    this.#options = options;
  }

  /** Where the files of a build are. */
  folderOf(buildID: string): string {
    return join(this.#options.folder, buildID);
  }

  goldenOf(buildID: string): string {
    return join(this.folderOf(buildID), 'golden');
  }

  /** As a row keeps it. */
  relative(image: MachineImage): MachineImage {
    return mapImageFiles(image, (path) => relative(this.#options.folder, path));
  }

  /** What a machine of the build is made of, whether or not anybody can still ask for it. */
  of(buildID: string): Template | undefined {
    const { rows, folder } = this.#options;
    const row = rows.get(buildID);
    return row && templateOf(row, rows.template(row.templateID), folder);
  }

  /** undefined: there is no such build. One that this host cannot restore is a base still, and is not cloned. */
  async ready(buildID: string): Promise<ReadyTemplate | undefined> {
    const template = this.of(buildID);
    if (!template) return undefined;
    const opening = this.#open.get(buildID) ?? this.#openBuild(template);
    this.#open.set(buildID, opening);
    const opened = await opening.catch((error: unknown) => {
      this.#open.delete(buildID);
      throw error;
    });
    return { ...template, checkpoint: opened.checkpoint };
  }

  async #openBuild(template: Template): Promise<ReadyTemplate> {
    const backend = this.#options.backends.of(template.isolation);
    return { ...template, checkpoint: await backend.openCheckpoint(this.goldenOf(template.buildID), { use: 'base' }) };
  }

  /**
   * What a team means by a name or id: of its own templates, else of public ones of others. `foreign`: it is another team's
   * alone.
   */
  resolve(teamID: string, text: string): TemplateRow | 'foreign' | undefined {
    const { rows } = this.#options;
    const { name } = parseTemplateName(text) ?? {};
    if (name === undefined) return undefined;
    const byID = rows.template(name);
    const found = byID ? [byID] : rows.named(name);
    const usable = found.find((row) => row.teamID === teamID) ?? found.find((row) => row.public);
    return usable ?? (found.length > 0 ? 'foreign' : undefined);
  }

  /** For changing it. `forbidden`: it is another team's; `template_not_found`. */
  demandOwn(teamID: string, text: string): TemplateRow {
    const row = this.resolve(teamID, text);
    if (row === 'foreign' || (row && row.teamID !== teamID)) throw noAccess(text);
    if (!row) throw new CoppiceError('template_not_found', `template '${text.slice(0, 128)}' not found`);
    return row;
  }

  /** The build that a name means, kept until it is released. undefined: it has none that is ready. */
  async hold(row: TemplateRow, text: string): Promise<HeldTemplate | undefined> {
    const buildID = this.buildOf(row, text);
    if (buildID === undefined) return undefined;
    this.#holds.set(buildID, (this.#holds.get(buildID) ?? 0) + 1);
    let held = true;
    const release = (): void => {
      if (!held) return;
      held = false;
      const left = this.#holds.get(buildID)! - 1;
      if (left > 0) this.#holds.set(buildID, left);
      else this.#holds.delete(buildID);
    };
    try {
      const template = await this.ready(buildID);
      if (template) return { template, release };
      release();
      return undefined;
    } catch (error) {
      release();
      throw error;
    }
  }

  isHeld(buildID: string): boolean {
    return this.#holds.has(buildID);
  }

  buildOf({ templateID }: TemplateRow, text: string): string | undefined {
    const { tag = DEFAULT_TAG } = parseTemplateName(text) ?? {};
    const { rows } = this.#options;
    if (!isBuildID(tag)) return rows.tags(templateID).find((one) => one.tag === tag)?.buildID;
    const build = rows.get(tag);
    return build?.templateID === templateID && build.state === 'ready' ? tag : undefined;
  }

  /** Its files are about to go. */
  forget(buildID: string): void {
    this.#open.delete(buildID);
  }
}

export function noAccess(text: string): CoppiceError {
  return new CoppiceError('forbidden', `you don't have access to template '${text.slice(0, 128)}'`);
}

/** undefined: nothing came of the build, or nothing yet. */
function templateOf(row: BuildRow, owner: TemplateRow | undefined, folder: string): Template | undefined {
  const { result, templateID, buildID, teamID, name } = row;
  if (!result) return undefined;
  const { isolation, shape, languages, env, runtime } = result;
  return {
    templateID,
    buildID,
    baseID: buildID,
    tag: row.tags[0] ?? DEFAULT_TAG,
    aliases: [name],
    isolation,
    family: templateID,
    shape,
    languages,
    env,
    image: mapImageFiles(result.image, (path) => resolve(folder, path)),
    createdAtMs: row.createdAtMs,
    owner: { teamID, public: owner?.public ?? false },
    runtime,
    ...(result.inPlace ? { inPlace: true } : {}),
  };
}
