/** What a build begins with: the root filesystem of an image or of a template, and what holds in it. */
import { dirname } from 'node:path';
import { CoppiceError, isCoppiceError } from '../contract/errors.ts';
import type { Isolation, MachineImage } from '../isolation/backend.ts';
import type { Backends } from '../isolation/backends.ts';
import { openArtifact } from '../templates/artifact-store.ts';
import { type BuildContext, startContext } from '../templates/build-plan.ts';
import type { BuildBase } from '../templates/build-request.ts';
import { BASE_STEP, stepError } from '../templates/build-steps.ts';
import { GUEST_USER, type RootFacts } from '../templates/guest-root.ts';
import { imageWith } from '../templates/image.ts';
import { obtainImageRootfs } from '../templates/oci/image-rootfs.ts';
import { importedSource, LOCAL_REGISTRY } from '../templates/oci/imported.ts';
import { formatImageReference } from '../templates/oci/reference.ts';
import { registrySource } from '../templates/oci/registry.ts';
import type { BuildLog } from './build-log.ts';
import { type HeldTemplate, noAccess } from './built-templates.ts';
import type { KnownTemplates } from './known-templates.ts';
import { DEFAULT_RUNTIME, type StartProgram } from './runtime.ts';
import type { BuildJob } from './template-builder.ts';

export interface BuilderBase {
  readonly image: MachineImage;
  /** Names its root filesystem by what it holds. */
  readonly content: string;
  readonly context: BuildContext;
  readonly facts: RootFacts;
  readonly languages: readonly string[];
  /** What the template is to run as. */
  readonly isolation: Isolation;
  /** What its template runs. */
  readonly start?: StartProgram;
  readonly diskSizeMB: number;
  /** Build of the template that it is of; empty for an image. */
  readonly baseID: string;
  readonly release: () => void;
}

export interface BuildBasesOptions {
  readonly backends: Backends;
  readonly templates: KnownTemplates;
  readonly imagesFolder: string;
  readonly insecureRegistries: readonly string[];
}

export class BuildBases {
  readonly #options: BuildBasesOptions;

  constructor(options: BuildBasesOptions) {
    this.#options = options;
  }

  /** Kept until it is released. Errors name the step `base`. */
  async obtain({ request, teamID }: BuildJob, log: BuildLog, signal: AbortSignal): Promise<BuilderBase> {
    const { base, force } = request;
    try {
      if (base.kind === 'template') {
        log.say('info', `FROM TEMPLATE ${base.name}`, BASE_STEP);
        return await this.#ofTemplate(teamID, base.name);
      }
      log.say('info', `FROM ${formatImageReference(base.reference)}`, BASE_STEP);
      return await this.#ofImage(base, force, log, signal);
    } catch (error) {
      if (!isCoppiceError(error)) throw error;
      throw stepError(BASE_STEP, error.message, error.code, error);
    }
  }

  async #ofTemplate(teamID: string, name: string): Promise<BuilderBase> {
    const { template, release } = await this.#hold(teamID, name.toLowerCase());
    try {
      const { image, runtime = DEFAULT_RUNTIME, env } = template;
      if (template.inPlace)
        throw new CoppiceError(
          'not_implemented',
          `template '${name}' was built where there are no jails, and cannot be built upon`,
        );
      const { user, workdir = `/home/${GUEST_USER}`, shell, sudo, start } = runtime;
      return {
        image,
        content: await contentOfRootfs(dirname(image.rootfs)),
        context: { user, workdir, env },
        facts: { ...(shell === undefined ? {} : { shell }), sudo },
        languages: template.languages,
        isolation: template.isolation,
        ...(start === undefined ? {} : { start }),
        diskSizeMB: template.shape.diskSizeMB,
        baseID: template.buildID,
        release,
      };
    } catch (error) {
      release();
      throw error;
    }
  }

  async #hold(teamID: string, name: string): Promise<HeldTemplate> {
    const { templates } = this.#options;
    const builtIn = templates.find(name);
    if (builtIn) return { template: builtIn, release: () => {} };
    const own = await templates.hold(teamID, name, 'own');
    const found = (own !== 'foreign' && own) || (await templates.hold(teamID, name, 'public'));
    if (found === 'foreign') throw noAccess(name);
    if (found) return found;
    throw new CoppiceError('template_not_found', `template '${name}' not found`);
  }

  async #ofImage(
    base: Extract<BuildBase, { kind: 'image' }>,
    force: boolean,
    log: BuildLog,
    signal: AbortSignal,
  ): Promise<BuilderBase> {
    const { backends, templates, imagesFolder, insecureRegistries } = this.#options;
    const isolation = (['microvm', 'jail'] as const).find((kind) => backends.has(kind))!;
    // The parts of a machine that are no image's.
    const like = templates.all[0];
    if (!like) throw new CoppiceError('host_unfit', 'there is no built-in template on this host');
    const { reference, credentials } = base;
    // A registry on this host that the operator has allowed is one.
    const imported = reference.registry === LOCAL_REGISTRY && !insecureRegistries.includes(LOCAL_REGISTRY);
    if (imported && credentials)
      throw new CoppiceError('bad_request', 'an image that was imported is in no registry: leave the credentials out');
    const source = imported
      ? await importedSource(imagesFolder, reference, signal)
      : registrySource(reference, { insecureRegistries, ...(credentials ? { credentials } : {}) });
    try {
      const onStage = (stage: string): void => log.say('info', stage, BASE_STEP);
      const { artifact, config, facts } = await obtainImageRootfs(source, { imagesFolder, signal, onStage, force });
      return {
        image: await imageWith(artifact.folder, like.image),
        content: artifact.manifest.content,
        context: startContext(config.env),
        facts,
        languages: [],
        isolation,
        diskSizeMB: like.shape.diskSizeMB,
        baseID: '',
        release: () => {},
      };
    } finally {
      source.close();
    }
  }
}

async function contentOfRootfs(folder: string): Promise<string> {
  const artifact = await openArtifact(folder);
  if (!artifact) throw new CoppiceError('host_unfit', 'the root filesystem of the template is not whole');
  return artifact.manifest.content;
}
