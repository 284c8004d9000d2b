/** What a build is asked for, as E2B's `POST /v2/templates/{id}/builds/{buildID}` has it. */
import { z } from 'zod';
import { BASE_STEP, type BuildStep, parseBuildSteps, stepError } from './build-steps.ts';
import { formatImageReference, type ImageReference, parseImageReference } from './oci/reference.ts';
import { parseRegistryCredentials, type RegistryCredentials } from './oci/registry-auth.ts';

export type BuildBase =
  | { readonly kind: 'image'; readonly reference: ImageReference; readonly credentials?: RegistryCredentials }
  /** Name, alias or id of a template, with or without its tag. */
  | { readonly kind: 'template'; readonly name: string };

export interface BuildRequest {
  readonly base: BuildBase;
  readonly steps: readonly BuildStep[];
  /** Nothing that was built before is used, not even the base. */
  readonly force: boolean;
  readonly startCmd?: string;
  readonly readyCmd?: string;
}

/** E2B's own images: what they are for, our templates are. */
const TEMPLATE_OF_IMAGE: ReadonlyMap<string, string> = new Map([
  ['docker.io/e2bdev/base', 'base'],
  ['docker.io/e2bdev/code-interpreter', 'code-interpreter-v1'],
]);

const text = z.string().max(131_071);
const wire = z.object({
  fromImage: z.string().max(1_024).nullish(),
  fromTemplate: z.string().max(256).nullish(),
  fromImageRegistry: z.unknown().optional(),
  force: z.boolean().nullish(),
  steps: z.unknown().optional(),
  startCmd: text.nullish(),
  readyCmd: text.nullish(),
});

/** Malformed: bad_request; credentials that cannot be used: not_implemented. Both with the step in `details.step`. */
export function parseBuildRequest(input: unknown): BuildRequest {
  const parsed = wire.safeParse(input);
  if (!parsed.success) {
    const [issue] = parsed.error.issues;
    throw stepError(BASE_STEP, `the build is malformed at '${issue?.path.join('.')}': ${issue?.message}`);
  }
  const { fromImage, fromTemplate, fromImageRegistry, force, steps, startCmd, readyCmd } = parsed.data;
  const base = ofBase(() =>
    parseBase(fromImage || undefined, fromTemplate || undefined, fromImageRegistry ?? undefined),
  );
  return {
    base,
    steps: parseBuildSteps(steps),
    force: force ?? false,
    ...(startCmd ? { startCmd } : {}),
    ...(readyCmd ? { readyCmd } : {}),
  };
}

function parseBase(image: string | undefined, template: string | undefined, registry: unknown): BuildBase {
  if ((image === undefined) === (template === undefined))
    throw stepError(BASE_STEP, 'a build is from an image or from a template: give one of fromImage, fromTemplate');
  if (template !== undefined) return { kind: 'template', name: template };
  const reference = parseImageReference(image!);
  const ours = TEMPLATE_OF_IMAGE.get(
    formatImageReference({ registry: reference.registry, repository: reference.repository }),
  );
  if (ours !== undefined) return { kind: 'template', name: ours };
  return {
    kind: 'image',
    reference,
    ...(registry === undefined ? {} : { credentials: parseRegistryCredentials(registry) }),
  };
}

/** Names the step of what goes wrong before the first one. */
function ofBase<T>(work: () => T): T {
  try {
    return work();
  } catch (error) {
    const { message, code } = error as { message: string; code?: unknown };
    throw stepError(BASE_STEP, message, code === 'not_implemented' ? code : 'bad_request', error);
  }
}
