/** Programs that the sandbox's owner has put where they are run when something happens to it: see HookEvent. */
import { type ChildProcess, spawn } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { HOOK_NAME, type HookEvent, type HookRun, type HooksResult, MAX_HOOKS } from '../../src/channel/protocol.ts';
import type { Context } from './context.ts';
import { Failure } from './failure.ts';
import { environmentOf, resetOOMScore } from './spawn.ts';
import type { Account } from './users.ts';

const FOLDER = 'coppice/hooks';
const EVENTS: readonly HookEvent[] = ['hand-out', 'before-pause', 'after-resume'];
const ROOT: Account = { name: 'root', uid: 0, gid: 0, home: '/root' };
const NONE: HooksResult = { ran: [], left: 0 };
const OTHERS_WRITE = 0o022;
const MAY_EXECUTE = 0o111;

/**
 * Runs the hooks of `event` one after the other, `timeoutMs` for all together, or until `wanted` says that nobody waits any
 * more. Without any it costs one look for the folder.
 */
export async function runHooks(
  context: Context,
  event: HookEvent,
  timeoutMs: number,
  wanted: () => boolean,
): Promise<HooksResult> {
  if (!EVENTS.includes(event)) throw new Failure('invalid_argument', `'${event}' is no event of a sandbox`);
  const folder = path.join(context.folders.etc, FOLDER, `${event}.d`);
  const stat = fs.lstatSync(folder, { throwIfNoEntry: false });
  if (!stat?.isDirectory() || !isOurs(stat)) return NONE;
  const names = hooksIn(folder);
  const deadline = performance.now() + timeoutMs;
  const env = environmentOf(context, ROOT, {
    COPPICE_EVENT: event,
    ...(context.sandboxID === undefined ? {} : { COPPICE_SANDBOX_ID: context.sandboxID }),
  });
  const ran: HookRun[] = [];
  for (const name of names.slice(0, MAX_HOOKS)) {
    const leftMs = deadline - performance.now();
    if (leftMs <= 0 || !wanted()) break;
    ran.push(await runHook(context, path.join(folder, name), env, leftMs));
  }
  return { ran, left: names.length - ran.length };
}

/** In the order of their bytes. */
function hooksIn(folder: string): string[] {
  const isHook = (name: string): boolean => {
    if (!HOOK_NAME.test(name)) return false;
    const stat = fs.lstatSync(path.join(folder, name), { throwIfNoEntry: false });
    return stat?.isFile() === true && isOurs(stat) && (stat.mode & MAY_EXECUTE) !== 0;
  };
  return fs.readdirSync(folder).filter(isHook).sort();
}

/** The agent's own user is root in a sandbox. What others could write would let them be root. */
function isOurs(stat: fs.Stats): boolean {
  return stat.uid === process.getuid!() && (stat.mode & OTHERS_WRITE) === 0;
}

async function runHook(context: Context, file: string, env: NodeJS.ProcessEnv, timeoutMs: number): Promise<HookRun> {
  const begun = performance.now();
  const end = await outcomeOf(context, file, env, timeoutMs);
  return { name: path.basename(file), ms: Math.round(performance.now() - begun), ...end };
}

type Outcome = Pick<HookRun, 'exitCode' | 'failure'>;

async function outcomeOf(context: Context, file: string, env: NodeJS.ProcessEnv, timeoutMs: number): Promise<Outcome> {
  let child: ChildProcess;
  try {
    child = spawn(file, [], { cwd: '/', env, detached: true, stdio: 'ignore' });
  } catch {
    return { exitCode: -1, failure: 'start' };
  }
  const { pid } = child;
  if (pid !== undefined && context.resetOOMScore) resetOOMScore(pid);
  return new Promise((resolve) => {
    const timer = setTimeout(() => {
      if (pid !== undefined) killGroup(pid);
      resolve({ exitCode: -1, failure: 'timeout' });
    }, timeoutMs);
    const settle = (outcome: Outcome): void => {
      clearTimeout(timer);
      resolve(outcome);
    };
    child.once('error', () => settle({ exitCode: -1, failure: 'start' }));
    child.once('exit', (code) => settle(code === null ? { exitCode: -1, failure: 'signal' } : { exitCode: code }));
  });
}

function killGroup(pid: number): void {
  try {
    process.kill(-pid, 'SIGKILL');
  } catch {
    // It has just ended.
  }
}
