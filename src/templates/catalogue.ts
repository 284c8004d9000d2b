/**
 * The templates and builds of one node, on disk:
 *
 *     <folder>/<templateID>/template.json            names, and which build each tag means
 *     <folder>/<templateID>/builds/<buildID>/build.json
 *     <folder>/<templateID>/builds/<buildID>/golden/  the golden checkpoint
 *
 * A build exists once its build.json does, and is used once template.json names it; both appear by one rename. Lookups are
 * answered from memory: nothing here touches the disk when a sandbox is created.
 */
import { randomUUID } from 'node:crypto';
import { mkdir, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { dirname, join, relative, resolve } from 'node:path';
import { CoppiceError } from '../contract/errors.ts';
import { ISOLATIONS } from '../contract/node-api.ts';
import type { Isolation, MachineImage, MachineShape } from '../isolation/backend.ts';
import { syncPath } from '../store/durable.ts';
import { type TemplateDefinition, templateIDOf } from './definitions.ts';
import { imageFiles, mapImageFiles } from './image-files.ts';
import { type Lock, lock, tryLock } from './lock.ts';

export interface TemplateRecord {
  readonly format: 1;
  /** 20 characters of [a-z0-9]. */
  readonly templateID: string;
  readonly name: string;
  readonly aliases: readonly string[];
  /** Tag -> build id. `default` is what a name without a tag means. */
  readonly tags: Readonly<Record<string, string>>;
  readonly isolation: Isolation;
  /** See TemplateDefinition. */
  readonly family: string;
  readonly createdAtMs: number;
  readonly updatedAtMs: number;
}

export interface BuildRecord {
  readonly format: 1;
  /** UUID. */
  readonly buildID: string;
  readonly templateID: string;
  readonly image: MachineImage;
  readonly shape: MachineShape;
  readonly languages: readonly string[];
  readonly createdAtMs: number;
}

export interface ResolvedTemplate {
  readonly template: TemplateRecord;
  readonly build: BuildRecord;
  /** Absolute path of the golden checkpoint's folder. */
  readonly goldenFolder: string;
}

export interface PendingBuild {
  readonly templateID: string;
  readonly buildID: string;
  /** Where the golden checkpoint is to be published, by a rename within the same folder; its parent exists. */
  readonly goldenFolder: string;
}

export interface BuildFolder {
  readonly templateID: string;
  readonly buildID: string;
  readonly folder: string;
}

export interface Catalogue {
  /** Every template that has a default build, by name. */
  list(): readonly ResolvedTemplate[];
  /** Template id, name or alias, with or without `:tag`; a UUID in the place of the tag is a build id. */
  resolve(text: string): ResolvedTemplate | undefined;
  /** A build that is on disk, whether or not a tag means it. */
  findBuild(buildID: string): ResolvedTemplate | undefined;
  /** Makes the folder for a new build of the definition's template. It is nobody's garbage until this process ends. */
  begin(definition: TemplateDefinition): Promise<PendingBuild>;
  /**
   * Makes a begun build the one that `tag` (default: `default`) means. Its golden folder must be there (internal); a name
   * that belongs to another template: conflict.
   */
  publish(
    pending: PendingBuild,
    definition: TemplateDefinition,
    image: MachineImage,
    tag?: string,
  ): Promise<ResolvedTemplate>;
  /** Removes a begun build that came to nothing. Idempotent. */
  abandon(pending: PendingBuild): Promise<void>;
  /** Builds on disk that no tag means, that no process is making, and whose id is not in `inUse`. */
  staleBuilds(inUse?: ReadonlySet<string>): Promise<readonly BuildFolder[]>;
  /** Removes a build's folder; refused (conflict) while a tag means it. Idempotent. */
  removeBuild(build: { readonly templateID: string; readonly buildID: string }): Promise<void>;
  /** The image files that builds on disk refer to: what a sweep of the images folder must keep. */
  imageFiles(): ReadonlySet<string>;
}

const TEMPLATE_ID = /^[a-z0-9]{20}$/;
const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/;
const NAME = /^[a-z0-9_-]{1,128}$/;
const TAG = /^[a-z0-9_.-]{1,128}$/;
const LONGEST_NAME = 256;
const DEFAULT_TAG = 'default';

/** Reads the catalogue. A template or build whose file cannot be read is left out and handed to `onDamage`. */
export async function openCatalogue(
  folder: string,
  options: { readonly onDamage?: (path: string, error: unknown) => void; readonly now?: () => number } = {},
): Promise<Catalogue> {
  const root = resolve(folder);
  const { onDamage = () => {}, now = Date.now } = options;
  await mkdir(root, { recursive: true });
  const { templates, builds } = await load(root, onDamage);
  const pending = new Map<string, Lock>();

  const buildFolder = (templateID: string, buildID: string) => join(root, templateID, 'builds', buildID);
  const lockOf = (name: string) => join(root, '.locks', `${name}.lock`);
  const isTagged = (buildID: string) =>
    [...templates.values()].some(({ tags }) => Object.values(tags).includes(buildID));
  const resolved = (template: TemplateRecord, buildID: string | undefined): ResolvedTemplate | undefined => {
    const build = buildID === undefined ? undefined : builds.get(buildID);
    if (build === undefined || build.templateID !== template.templateID) return undefined;
    return { template, build, goldenFolder: join(buildFolder(template.templateID, build.buildID), 'golden') };
  };
  const find = (name: string) =>
    templates.get(name) ??
    [...templates.values()].find((template) => template.name === name || template.aliases.includes(name));
  const letGo = async (buildID: string) => {
    pending.get(buildID)?.release();
    pending.delete(buildID);
    await rm(lockOf(buildID), { force: true });
  };
  const remove = async (templateID: string, buildID: string) => {
    // Its record first: a build that is half removed must not be found.
    await rm(join(buildFolder(templateID, buildID), 'build.json'), { force: true });
    builds.delete(buildID);
    await rm(buildFolder(templateID, buildID), { recursive: true, force: true });
    await letGo(buildID);
  };

  return {
    list: () =>
      [...templates.values()]
        .toSorted((a, b) => (a.name < b.name ? -1 : 1))
        .flatMap((template) => resolved(template, own(template.tags, DEFAULT_TAG)) ?? []),

    resolve: (text) => {
      if (text.length > LONGEST_NAME) return undefined;
      const [name = '', tag = DEFAULT_TAG, ...rest] = text.toLowerCase().split(':');
      const template = find(name);
      if (template === undefined || rest.length > 0) return undefined;
      return resolved(template, UUID.test(tag) ? tag : own(template.tags, tag));
    },

    findBuild: (buildID) => {
      const template = templates.get(builds.get(buildID)?.templateID ?? '');
      return template && resolved(template, buildID);
    },

    begin: async (definition) => {
      const templateID = templateIDOf(definition.name);
      const buildID = randomUUID();
      pending.set(buildID, await lock(lockOf(buildID)));
      const target = buildFolder(templateID, buildID);
      await mkdir(target, { recursive: true });
      return { templateID, buildID, goldenFolder: join(target, 'golden') };
    },

    publish: async ({ templateID, buildID, goldenFolder }, definition, image, tag = DEFAULT_TAG) => {
      const { shape, languages, name, aliases, isolation, family } = definition;
      if (!TAG.test(tag) || UUID.test(tag)) throw new CoppiceError('bad_request', `invalid tag '${tag}'`);
      const held = await lock(lockOf(templateID));
      try {
        // What other processes have published meanwhile must be kept, and their names respected.
        const fresh = await load(root, onDamage);
        for (const [id, template] of fresh.templates) templates.set(id, template);
        for (const [id, build] of fresh.builds) builds.set(id, build);
        for (const one of [name, ...aliases]) {
          if (!NAME.test(one)) throw new CoppiceError('bad_request', `invalid template name '${one}'`);
          const owner = find(one);
          if (owner !== undefined && owner.templateID !== templateID)
            throw new CoppiceError('conflict', `the name '${one}' belongs to template ${owner.templateID}`);
        }
        if ((await readdir(goldenFolder).catch(() => [])).length === 0)
          throw new CoppiceError('internal', `no golden checkpoint at ${goldenFolder}`);
        const at = now();
        const build: BuildRecord = { format: 1, buildID, templateID, image, shape, languages, createdAtMs: at };
        const record = { ...build, image: mapImageFiles(image, (path) => relative(root, path)) };
        await writeJson(join(buildFolder(templateID, buildID), 'build.json'), record);
        const before = templates.get(templateID);
        const template: TemplateRecord = {
          format: 1,
          templateID,
          name,
          aliases,
          tags: { ...before?.tags, [tag]: buildID },
          isolation,
          family,
          createdAtMs: before?.createdAtMs ?? at,
          updatedAtMs: at,
        };
        await writeJson(join(root, templateID, 'template.json'), template);
        builds.set(buildID, build);
        templates.set(templateID, template);
        await letGo(buildID);
        return resolved(template, buildID)!;
      } finally {
        held.release();
      }
    },

    abandon: async ({ templateID, buildID }) => {
      if (!isTagged(buildID)) await remove(templateID, buildID);
    },

    staleBuilds: async (inUse = new Set()) => {
      const stale: BuildFolder[] = [];
      for (const found of await buildFolders(root)) {
        const { buildID } = found;
        if (isTagged(buildID) || inUse.has(buildID) || pending.has(buildID)) continue;
        const held = tryLock(lockOf(buildID));
        if (held === undefined) continue;
        held.release();
        stale.push(found);
      }
      return stale;
    },

    removeBuild: async ({ templateID, buildID }) => {
      if (!TEMPLATE_ID.test(templateID) || !UUID.test(buildID))
        throw new CoppiceError('bad_request', `not a build: ${templateID}/${buildID}`);
      if (isTagged(buildID)) throw new CoppiceError('conflict', `build ${buildID} is in use by a tag`);
      await remove(templateID, buildID);
    },

    imageFiles: () => new Set([...builds.values()].flatMap(({ image }) => imageFiles(image))),
  };
}

interface Loaded {
  readonly templates: Map<string, TemplateRecord>;
  readonly builds: Map<string, BuildRecord>;
}

async function load(root: string, onDamage: (path: string, error: unknown) => void): Promise<Loaded> {
  const templates = new Map<string, TemplateRecord>();
  const builds = new Map<string, BuildRecord>();
  const attempt = async (path: string, work: (parsed: unknown) => void) => {
    try {
      const parsed: unknown = JSON.parse(await readFile(path, 'utf8'));
      const format = (parsed as { format?: unknown } | null)?.format;
      if (format !== 1) throw new Error(`unknown format ${String(format)}`);
      work(parsed);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') onDamage(path, error);
    }
  };
  for (const { folder, templateID, buildID } of await buildFolders(root)) {
    await attempt(join(folder, 'build.json'), (parsed) => {
      const record = parsed as BuildRecord;
      const image = mapImageFiles(record.image, (path) => resolve(root, path));
      if (record.buildID !== buildID || record.templateID !== templateID) throw new Error('it is in another place');
      if (!Array.isArray(record.languages)) throw new Error('it names no languages');
      builds.set(buildID, { ...record, image });
    });
  }
  for (const templateID of await templateIDs(root)) {
    await attempt(join(root, templateID, 'template.json'), (parsed) => {
      const record = parsed as TemplateRecord;
      if (record.templateID !== templateID) throw new Error('it is in another place');
      if (typeof record.tags !== 'object' || !Array.isArray(record.aliases))
        throw new Error('it has no tags or aliases');
      if (!ISOLATIONS.includes(record.isolation) || typeof record.family !== 'string')
        throw new Error('it names no isolation or no family');
      templates.set(templateID, record);
    });
  }
  return { templates, builds };
}

async function templateIDs(root: string): Promise<string[]> {
  return (await readdir(root)).filter((name) => TEMPLATE_ID.test(name));
}

async function buildFolders(root: string): Promise<BuildFolder[]> {
  const found: BuildFolder[] = [];
  for (const templateID of await templateIDs(root)) {
    const folder = join(root, templateID, 'builds');
    for (const buildID of await readdir(folder).catch(() => [] as string[]))
      if (UUID.test(buildID)) found.push({ templateID, buildID, folder: join(folder, buildID) });
  }
  return found;
}

function own(tags: Readonly<Record<string, string>>, tag: string): string | undefined {
  return Object.hasOwn(tags, tag) ? tags[tag] : undefined;
}

/** Complete and on disk before it is seen under its name. */
async function writeJson(path: string, value: unknown): Promise<void> {
  const temporary = `${path}.${randomUUID()}.tmp`;
  await writeFile(temporary, `${JSON.stringify(value, null, 2)}\n`, { mode: 0o644 });
  await syncPath(temporary);
  await rename(temporary, path);
  await syncPath(dirname(path));
}
