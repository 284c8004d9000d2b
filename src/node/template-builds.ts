/**
 * From a definition to a template that sandboxes are cloned from: image, first boot, warm-up, golden checkpoint, entry in
 * the catalogue. A build that is there and still fits this host is not made again.
 */
import { randomUUID } from 'node:crypto';
import { lstat, mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { isCoppiceError } from '../contract/errors.ts';
import type { Checkpoint, MachineImage, MachineSpec } from '../isolation/backend.ts';
import type { Backends } from '../isolation/backends.ts';
import type { Log } from '../telemetry/log.ts';
import { sweepArtifacts } from '../templates/artifact-store.ts';
import { type Catalogue, openCatalogue, type ResolvedTemplate } from '../templates/catalogue.ts';
import { type TemplateDefinition, templateIDOf } from '../templates/definitions.ts';
import { buildImage } from '../templates/image.ts';
import { sweepBlobs } from '../templates/oci/blob-store.ts';
import { captureGolden } from './golden.ts';
import { newMachineID } from './identifiers.ts';
import type { ReadyTemplate } from './nursery.ts';
import { DEFAULT_RUNTIME } from './runtime.ts';

export interface TemplateBuildsOptions {
  readonly backends: Backends;
  readonly imagesFolder: string;
  readonly templatesFolder: string;
  readonly machinesFolder: string;
  /** What sandboxes and snapshots are made of: builds that stay though no tag means them, image files. */
  readonly inUse?: () => { readonly builds: ReadonlySet<string>; readonly images: Iterable<string> };
  /** First uid of the machine that a golden boot is, when this process is root. */
  readonly uid: number | undefined;
  readonly log: Log;
}

export interface BuildNews {
  readonly label: string;
  readonly done: boolean;
  readonly fraction?: number;
  readonly etaSeconds?: number;
}

/** Part of a step: less than a second of the longest. */
const WORTH_TELLING = 0.004;
/** What a boot and its warm-up take under emulation, for the estimate on the screen. Seconds. */
const GOLDEN_GUESS_SECONDS = 25;
/** Layers of images that builds are made from; a template needs none of them any more. */
const LAYERS_KEPT_MS = 14 * 86_400_000;

export class TemplateBuilds {
  readonly #options: TemplateBuildsOptions;

  constructor(options: TemplateBuildsOptions) {
    this.#options = options;
  }

  /** What the catalogue holds, whether or not it can be restored here. */
  async list(): Promise<readonly ResolvedTemplate[]> {
    return (await this.#catalogue()).list();
  }

  /** Templates that `backends` can make machines of now. One that should be and cannot is logged and left out. */
  async ready(backends: Backends = this.#options.backends): Promise<readonly ReadyTemplate[]> {
    const found: ReadyTemplate[] = [];
    for (const entry of await this.list()) {
      const { isolation, name } = entry.template;
      if (!backends.has(isolation)) continue;
      const backend = backends.of(isolation);
      try {
        found.push(readyFrom(entry, await backend.openCheckpoint(entry.goldenFolder)));
      } catch (error) {
        this.#options.log.error({ error, template: name }, 'a template cannot be used');
      }
    }
    return found;
  }

  /** A build that is on disk, by its id, for what lies on it. undefined: there is none. */
  async find(buildID: string, backends: Backends = this.#options.backends): Promise<ReadyTemplate | undefined> {
    const entry = (await this.#catalogue()).findBuild(buildID);
    if (!entry || !backends.has(entry.template.isolation)) return undefined;
    const backend = backends.of(entry.template.isolation);
    return readyFrom(entry, await backend.openCheckpoint(entry.goldenFolder, { use: 'base' }));
  }

  #catalogue(): Promise<Catalogue> {
    const { templatesFolder, log } = this.#options;
    const onDamage = (path: string, error: unknown): void =>
      log.warn({ path, error }, 'a file of the catalogue cannot be read');
    return openCatalogue(templatesFolder, { onDamage });
  }

  async build(
    definition: TemplateDefinition,
    options: { readonly signal: AbortSignal; readonly force: boolean; readonly onProgress: (news: BuildNews) => void },
  ): Promise<ResolvedTemplate> {
    const { imagesFolder, log } = this.#options;
    const { signal, force, onProgress } = options;
    const { name } = definition;
    let worked = false;
    const image = await buildImage(definition, {
      imagesFolder,
      signal,
      force,
      onProgress: (event) => {
        // A step that turns out to be done already begins and ends in one breath.
        if (event.state !== 'running' || (event.fraction ?? 0) < WORTH_TELLING) return;
        worked = true;
        onProgress({
          label: `building ${name}: ${event.label}`,
          done: false,
          ...(event.fraction === undefined ? {} : { fraction: event.fraction }),
          etaSeconds: (event.etaSeconds ?? 0) + GOLDEN_GUESS_SECONDS,
        });
      },
    });
    if (worked) onProgress({ label: `built the image of ${name}`, done: true });
    const catalogue = await this.#catalogue();
    const known = catalogue.resolve(templateIDOf(name));
    if (known && !force && (await this.#fits(known, image, definition))) return known;

    const label = (stage: string): string => `taking the golden checkpoint of ${name}: ${stage}`;
    // Without memory to capture it is a matter of milliseconds.
    if (this.#options.backends.of(definition.isolation).capabilities.memoryCheckpoint)
      onProgress({ label: label('booting'), done: false, etaSeconds: GOLDEN_GUESS_SECONDS });
    const pending = await catalogue.begin(definition);
    let built: ResolvedTemplate;
    try {
      await this.#capture(definition, image, pending.goldenFolder, signal, (stage) =>
        onProgress({ label: label(stage), done: false }),
      );
      built = await catalogue.publish(pending, definition, image);
    } catch (error) {
      await catalogue.abandon(pending);
      throw error;
    }
    onProgress({ label: `template ${name} is ready`, done: true });
    log.info({ template: name, buildID: pending.buildID }, 'template built');
    const inUse = this.#options.inUse?.().builds ?? new Set();
    for (const stale of await catalogue.staleBuilds(inUse)) await catalogue.removeBuild(stale);
    return built;
  }

  /**
   * Removes image files that no build and no snapshot is made of, and layers that no build has asked for lately. Only when every template that is wanted has been built.
   * A folder of images that is a link belongs to another home, which knows what else is made of them.
   */
  async sweep(): Promise<void> {
    const { imagesFolder, inUse } = this.#options;
    if ((await lstat(imagesFolder)).isSymbolicLink()) return;
    await sweepArtifacts(
      imagesFolder,
      new Set([...(await this.#catalogue()).imageFiles(), ...(inUse?.().images ?? [])]),
    );
    await sweepBlobs(imagesFolder, Date.now() - LAYERS_KEPT_MS);
  }

  /** Made from this very image, and restorable by this host's VMM. */
  async #fits(entry: ResolvedTemplate, image: MachineImage, definition: TemplateDefinition): Promise<boolean> {
    const { build } = entry;
    if (build.image.hash !== image.hash || JSON.stringify(build.shape) !== JSON.stringify(definition.shape))
      return false;
    try {
      await this.#options.backends.of(definition.isolation).openCheckpoint(entry.goldenFolder);
      return true;
    } catch (error) {
      if (!isCoppiceError(error)) throw error;
      this.#options.log.warn({ error, template: definition.name }, 'the golden checkpoint is made anew');
      return false;
    }
  }

  async #capture(
    definition: TemplateDefinition,
    image: MachineImage,
    out: string,
    signal: AbortSignal,
    onStage: (stage: string) => void,
  ): Promise<Checkpoint> {
    const { backends, machinesFolder, uid, log } = this.#options;
    const id = `golden${randomUUID().replaceAll('-', '').slice(0, 12)}`;
    const folder = join(machinesFolder, id);
    await mkdir(folder, { recursive: true, mode: 0o700 });
    const spec: MachineSpec = {
      id,
      folder,
      shape: definition.shape,
      names: { hostname: 'coppice', machineID: newMachineID() },
      ...(uid === undefined ? {} : { uid }),
    };
    const { languages } = definition;
    const subject = { templateID: templateIDOf(definition.name), languages, runtime: DEFAULT_RUNTIME };
    return captureGolden(backends.of(definition.isolation), image, spec, out, subject, { signal, log, onStage });
  }
}

function readyFrom({ template, build }: ResolvedTemplate, checkpoint: Checkpoint): ReadyTemplate {
  return {
    templateID: template.templateID,
    buildID: build.buildID,
    tag: 'default',
    aliases: [template.name, ...template.aliases],
    isolation: template.isolation,
    family: template.family,
    shape: build.shape,
    languages: build.languages,
    env: {},
    image: build.image,
    checkpoint,
    baseID: build.buildID,
    createdAtMs: build.createdAtMs,
  };
}
