/**
 * What a builder does for each step, without a builder: which commands are run as whom, where and with which environment,
 * which archives are taken where, and what holds from then on. Everything that runs needs nothing of the image but what a
 * step asks for itself: scripts of ours are run by the busybox on the agent's drive.
 */
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { posix } from 'node:path';
import { expandVariables } from './build-expand.ts';
import { type BuildStep, type CopyStep, FINAL_STEP, stepError } from './build-steps.ts';
import { DEFAULT_PATH, GUEST_USER, PATH_SCRIPT, pathScript, type RootFacts } from './guest-root.ts';

/** What holds between two steps; after the last one, for every sandbox of the template. */
export interface BuildContext {
  readonly user: string;
  /** Absolute. */
  readonly workdir: string;
  readonly env: Readonly<Record<string, string>>;
}

/** As the agent takes it to spawn a process. */
export interface GuestCommand {
  readonly cmd: string;
  readonly args: readonly string[];
  readonly user: string;
  /** Absent: wherever processes start. */
  readonly cwd?: string;
  readonly env: Readonly<Record<string, string>>;
}

export type BuildAction =
  /** The uploaded archive of this hash becomes this file in the guest, root's alone. Its folder is made. */
  | { readonly kind: 'upload'; readonly filesHash: string; readonly path: string }
  /** To its end; another exit than 0 fails the step. `told`: its output is for whoever builds. */
  | { readonly kind: 'command'; readonly command: GuestCommand; readonly told: boolean };

export interface PlannedStep {
  readonly step: BuildStep;
  /** One line for whoever builds: `RUN apt-get update`. */
  readonly label: string;
  readonly actions: readonly BuildAction[];
  readonly after: BuildContext;
}

/** Where sandboxes' commands start, whatever the image says of itself: as E2B has it. */
export function startContext(imageEnv: Readonly<Record<string, string>>): BuildContext {
  return { user: GUEST_USER, workdir: `/home/${GUEST_USER}`, env: imageEnv };
}

const DRIVE_BUSYBOX = '/run/coppice/drive/bin/busybox';
/** On the disk of the guest: what is moved from here to its place is not copied. Gone when its step is done. */
const STAGE = '/.coppice-build';
const LABEL_LENGTH = 200;

const script = (name: string): string => readFileSync(new URL(`build-scripts/${name}.sh`, import.meta.url), 'utf8');
export const BUILD_SCRIPTS = {
  copy: script('copy'),
  workdir: script('workdir'),
  user: script('user'),
  path: script('path'),
  settle: script('settle'),
} as const;

/** Errors: bad_request with the step that cannot be. */
export function planSteps(steps: readonly BuildStep[], start: BuildContext, facts: RootFacts): readonly PlannedStep[] {
  let context = start;
  return steps.map((step) => {
    const planned = planStep(step, context, facts);
    context = planned.after;
    return planned;
  });
}

export function planStep(step: BuildStep, context: BuildContext, facts: RootFacts): PlannedStep {
  const planned = (label: string, actions: readonly BuildAction[], after: BuildContext = context): PlannedStep => ({
    step,
    label: label.length > LABEL_LENGTH ? `${label.slice(0, LABEL_LENGTH)}…` : label,
    actions,
    after,
  });
  switch (step.kind) {
    case 'run': {
      const { command, user = context.user } = step;
      const shell = shellCommand(command, { ...context, user }, facts, step.name);
      return planned(`RUN ${command}`, [{ kind: 'command', command: shell, told: true }]);
    }
    case 'copy':
      return planned(`COPY ${step.source} ${step.target}`, copyActions(step, context));
    case 'workdir': {
      const workdir = absolute(expand(step.path, context), context);
      return planned(`WORKDIR ${step.path}`, [ourScript('workdir', [workdir, ownerOf(context.user)])], {
        ...context,
        workdir,
      });
    }
    case 'user':
      return planned(`USER ${step.user}`, [ourScript('user', [step.user])], { ...context, user: step.user });
    case 'env': {
      let { env } = context;
      // One after the other: a value may name what the one before it has set.
      for (const [name, value] of step.pairs) {
        const pair = [name, expand(value, { ...context, env })] as const;
        env = Object.fromEntries([...Object.entries(env).filter(([known]) => known !== name), pair]);
      }
      const moved = env.PATH !== undefined && env.PATH !== context.env.PATH;
      const actions = moved ? [ourScript('path', [PATH_SCRIPT, pathScript(env.PATH!)])] : [];
      return planned(`ENV ${step.pairs.map(([name, value]) => `${name}=${value}`).join(' ')}`, actions, {
        ...context,
        env,
      });
    }
  }
}

export interface FinishPlan {
  /** Left running, and part of the golden checkpoint. */
  readonly start?: GuestCommand;
  /** Run again and again until it exits with 0. */
  readonly ready: GuestCommand;
  /** Milliseconds between two tries, and for all of them. */
  readonly everyMs: number;
  readonly deadlineMs: number;
}

const READY_EVERY_MS = 2_000;
const READY_DEADLINE_MS = 600_000;
/** What E2B waits for a start command that nobody says how to ask. */
const DEFAULT_READY = 'sleep 20';

/** undefined: there is nothing to start and nothing to wait for. Errors: bad_request of the step `finalize`. */
export function planFinish(
  commands: { readonly startCmd?: string; readonly readyCmd?: string },
  context: BuildContext,
  facts: RootFacts,
): FinishPlan | undefined {
  const { startCmd = '', readyCmd = '' } = commands;
  if (startCmd === '' && readyCmd === '') return undefined;
  const command = (text: string) => shellCommand(text, context, facts, FINAL_STEP);
  return {
    ...(startCmd === '' ? {} : { start: command(startCmd) }),
    ready: command(readyCmd === '' ? DEFAULT_READY : readyCmd),
    everyMs: READY_EVERY_MS,
    deadlineMs: READY_DEADLINE_MS,
  };
}

/** The message that E2B gives for a step that failed; `why`: `exit status 1`, `command failed: …`. */
export function stepFailure(step: BuildStep, why: string): string {
  switch (step.kind) {
    case 'run':
      return `failed to run command '${step.command}': ${why}`;
    case 'copy':
      return `failed to copy "${step.source}" to "${step.target}" in sandbox: ${why}`;
    case 'workdir':
      return `failed to create workdir: ${why}`;
    case 'user':
      return `failed to create user: ${why}`;
    case 'env':
      return `failed to set the environment: ${why}`;
  }
}

/** Changes when the same steps would give another result. */
const KEY_FORMAT = 1;

/** Names the first state of a build: a root filesystem by its content, and what holds in it. Hex. */
export function baseKey(content: string, { user, workdir, env }: BuildContext): string {
  const sorted = Object.entries(env).toSorted(([a], [b]) => (a < b ? -1 : 1));
  return keyOf(['base', content, user, workdir, sorted]);
}

/**
 * Names what a step gives on top of `previous`: `baseKey`, or what identifies the result before it, which is not the same
 * when that was built anew. A forced step is not looked up by its key, only kept under it; its result being another one,
 * every key after it is new.
 */
export function stepKey(previous: string, step: BuildStep): string {
  switch (step.kind) {
    case 'copy':
      return keyOf(['copy', previous, step.source, step.target, step.owner ?? '', step.mode ?? '', step.filesHash]);
    case 'run':
      return keyOf(['run', previous, step.command, step.user ?? '']);
    case 'workdir':
      return keyOf(['workdir', previous, step.path]);
    case 'user':
      return keyOf(['user', previous, step.user]);
    case 'env':
      return keyOf(['env', previous, step.pairs]);
  }
}

function keyOf(parts: readonly unknown[]): string {
  return createHash('sha256')
    .update(JSON.stringify([KEY_FORMAT, ...parts]))
    .digest('hex');
}

/** A login shell, as every command of a sandbox is run. */
function shellCommand(
  text: string,
  { user, workdir, env }: BuildContext,
  { shell }: RootFacts,
  step: string,
): GuestCommand {
  if (shell === undefined) throw stepError(step, 'the image has no shell, so no command can be run in it');
  return { cmd: shell, args: ['-l', '-c', text], user, cwd: workdir, env: withPath(env) };
}

/** What is everywhere is found even when the template's own PATH leaves it out. */
function withPath(env: Readonly<Record<string, string>>): Readonly<Record<string, string>> {
  return env.PATH === undefined || env.PATH.endsWith(DEFAULT_PATH)
    ? env
    : { ...env, PATH: `${env.PATH}:${DEFAULT_PATH}` };
}

function copyActions(step: CopyStep, context: BuildContext): readonly BuildAction[] {
  const { source, filesHash, mode = '', owner = context.user } = step;
  const archive = `${STAGE}/${filesHash}.tar`;
  const written = expand(step.target, context);
  const target = absolute(written, context);
  const isFolder = /(?:^|\/)\.{0,2}$/.test(written);
  const args = [archive, source, target, isFolder ? 'folder' : '', ownerOf(owner), mode];
  return [{ kind: 'upload', filesHash, path: archive }, ourScript('copy', args)];
}

/** `:` alone is the account's own group. */
function ownerOf(owner: string): string {
  return owner.includes(':') ? owner : `${owner}:`;
}

/** Before the disk of a builder is captured; says what parseSettled reads. */
export function settleCommand(): GuestCommand {
  return scriptCommand('settle', []);
}

/** What the root filesystem has come to be. */
export function parseSettled(output: string): RootFacts {
  const lines = output.split('\n');
  const shell = (['/bin/bash', '/bin/sh'] as const).find((path) => lines.includes(path));
  return { ...(shell === undefined ? {} : { shell }), sudo: lines.includes('sudo') };
}

function ourScript(name: keyof typeof BUILD_SCRIPTS, args: readonly string[]): BuildAction {
  return { kind: 'command', command: scriptCommand(name, args), told: false };
}

function scriptCommand(name: keyof typeof BUILD_SCRIPTS, args: readonly string[]): GuestCommand {
  return {
    cmd: DRIVE_BUSYBOX,
    args: ['sh', '-c', BUILD_SCRIPTS[name], `coppice-${name}`, DRIVE_BUSYBOX, ...args],
    user: 'root',
    cwd: '/',
    env: {},
  };
}

/** As E2B reads variables: those of the build, and root's. */
function expand(text: string, { env }: BuildContext): string {
  const own = (name: string) => (Object.hasOwn(env, name) ? env[name] : undefined);
  const fallback = new Map([
    ['PATH', DEFAULT_PATH],
    ['HOME', '/root'],
  ]);
  return expandVariables(text, (name) => own(name) ?? fallback.get(name));
}

function absolute(path: string, { workdir }: BuildContext): string {
  return posix.resolve('/', workdir, path);
}
