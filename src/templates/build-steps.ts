/**
 * The steps of a template's build, as E2B's SDKs send them: `{type, args, filesHash?, force?}`. Each becomes what it means,
 * or is refused with its name, which E2B's clients turn into the line of the caller's program that asked for it.
 */
import { posix } from 'node:path';
import { z } from 'zod';
import { CoppiceError, type ErrorCode, isCoppiceError } from '../contract/errors.ts';

interface StepBase {
  /** Its place, from "1" on. */
  readonly name: string;
  /** What was built from this step before is not to be used. */
  readonly force: boolean;
}

export interface CopyStep extends StepBase {
  readonly kind: 'copy';
  /** Where in the archive: a file, or a folder whose content is meant. Relative, never upwards; `.` for all of it. */
  readonly source: string;
  /** As it was written: relative to the working directory, variables and all. A slash at its end makes it a folder. */
  readonly target: string;
  /** `user` or `user:group`; absent: whoever the step runs as. */
  readonly owner?: string;
  /** Octal digits. */
  readonly mode?: string;
  /** Hex SHA-256, under which the archive was uploaded. */
  readonly filesHash: string;
}

export interface RunStep extends StepBase {
  readonly kind: 'run';
  readonly command: string;
  /** For this command alone. */
  readonly user?: string;
}

export interface WorkdirStep extends StepBase {
  readonly kind: 'workdir';
  readonly path: string;
}

export interface UserStep extends StepBase {
  readonly kind: 'user';
  readonly user: string;
}

export interface EnvStep extends StepBase {
  readonly kind: 'env';
  readonly pairs: readonly (readonly [name: string, value: string])[];
}

export type BuildStep = CopyStep | RunStep | WorkdirStep | UserStep | EnvStep;

/** Where a build can fail besides its steps. */
export const BASE_STEP = 'base';
export const FINAL_STEP = 'finalize';

const MOST_STEPS = 1_000;
/** Linux takes no longer argument of a program. */
const LONGEST_ARGUMENT = 131_071;
const FILES_HASH = /^[0-9a-f]{64}$/;
const ACCOUNT = /^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}$/;
const OWNER = /^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,63})?$/;
const MODE = /^[0-7]{1,5}$/;
/** What the SDKs' globs take for a pattern. */
const PATTERN = /[*?[{]|[!+@]\(/;

const argument = z
  .string()
  .max(LONGEST_ARGUMENT)
  .refine((text) => !text.includes('\0'), 'holds a zero byte');
/** The SDKs send more: what they need themselves to upload. */
const wire = z.object({
  type: z.string().max(64),
  args: z.array(argument).max(4_096).nullish(),
  filesHash: z.string().max(256).nullish(),
  force: z.boolean().nullish(),
});

/** A failure of a build, with the step that E2B calls `reason.step`. */
export function stepError(
  step: string,
  message: string,
  code: ErrorCode = 'bad_request',
  cause?: unknown,
): CoppiceError {
  return new CoppiceError(code, message, { cause, details: { step } });
}

/** undefined: the failure is of no step. */
export function stepOf(error: unknown): string | undefined {
  const step = isCoppiceError(error) ? error.details.step : undefined;
  return typeof step === 'string' ? step : undefined;
}

/** Malformed: bad_request, with the step in `details.step`. */
export function parseBuildSteps(input: unknown): readonly BuildStep[] {
  if (input === undefined || input === null) return [];
  if (!Array.isArray(input)) throw stepError(BASE_STEP, 'steps must be a list');
  if (input.length > MOST_STEPS) throw stepError(BASE_STEP, `a build has at most ${MOST_STEPS} steps`);
  return input.map((step, at) => parseStep(step, String(at + 1)));
}

function parseStep(input: unknown, name: string): BuildStep {
  const parsed = wire.safeParse(input);
  if (!parsed.success) {
    const [issue] = parsed.error.issues;
    throw stepError(name, `step ${name} is malformed at '${issue?.path.join('.')}': ${issue?.message}`);
  }
  const { type, filesHash } = parsed.data;
  const args = parsed.data.args ?? [];
  const base: StepBase = { name, force: parsed.data.force ?? false };
  const demand = (good: boolean, message: string): void => {
    if (!good) throw stepError(name, message);
  };
  // Docker and E2B take them in either case.
  switch (type.toUpperCase()) {
    case 'COPY':
    case 'ADD': {
      const [source = '', target = '', owner = '', mode = ''] = args;
      demand(source !== '' && target !== '', 'COPY requires a local path and a container path argument');
      demand(FILES_HASH.test(filesHash ?? ''), 'COPY requires files hash to be set');
      demand(owner === '' || OWNER.test(owner), `COPY cannot give files to '${owner}'`);
      demand(mode === '' || MODE.test(mode), `COPY cannot give files the mode '${mode}'`);
      return {
        ...base,
        kind: 'copy',
        source: archivePath(source, name),
        target,
        ...(owner === '' ? {} : { owner }),
        ...(mode === '' ? {} : { mode }),
        filesHash: filesHash!,
      };
    }
    case 'RUN': {
      const [command = '', user = ''] = args;
      demand(command !== '', 'RUN requires command argument');
      demand(user === '' || ACCOUNT.test(user), `invalid username: '${user}'`);
      return { ...base, kind: 'run', command, ...(user === '' ? {} : { user }) };
    }
    case 'WORKDIR': {
      const [path = ''] = args;
      demand(path !== '', 'WORKDIR requires a path argument');
      return { ...base, kind: 'workdir', path };
    }
    case 'USER': {
      const [user = ''] = args;
      demand(user !== '', 'USER requires a username argument');
      demand(ACCOUNT.test(user), `invalid username: '${user}'`);
      return { ...base, kind: 'user', user };
    }
    case 'ENV': {
      demand(args.length > 0, 'ENV does not support passing no arguments');
      demand(args.length % 2 === 0, 'ENV requires both a key and value arguments');
      const pairs: [string, string][] = [];
      for (let at = 0; at < args.length; at += 2) pairs.push([args[at]!, args[at + 1]!]);
      for (const [key] of pairs) demand(key !== '' && !key.includes('='), `ENV cannot set '${key}'`);
      return { ...base, kind: 'env', pairs };
    }
    default:
      throw stepError(name, `step type '${type}' is not supported: there are COPY, RUN, WORKDIR, USER and ENV`);
  }
}

/** The folder that a pattern begins in, or the path itself: what it matched is in the archive under its own name. */
function archivePath(source: string, step: string): string {
  const names = source.split('/');
  const pattern = names.findIndex((name) => PATTERN.test(name));
  const path = posix.normalize(pattern < 0 ? source : names.slice(0, pattern).join('/') || '.');
  if (source.startsWith('/') || path === '..' || path.startsWith('../'))
    throw stepError(step, `COPY takes what is below the folder of the build, not '${source}'`);
  return path.replace(/(?<=.)\/$/, '');
}
