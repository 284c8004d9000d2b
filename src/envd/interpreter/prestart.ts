/**
 * What the node does with interpreters outside any request: start the default context before the golden checkpoint, and
 * make a clone's interpreters unlike those of every other clone.
 */
import { type AgentClient, AgentError, type AgentProcess } from '../../channel/agent.ts';
import type { Log } from '../../telemetry/log.ts';
import type { RunEvent } from './guest-event.ts';
import { Kernel } from './kernel.ts';
import { DEFAULT_KERNELS, type KernelSpecs } from './kernels.ts';
import { defaultTag, parseTag } from './names.ts';
import { DEFAULT_CWD, DEFAULT_USER } from './sandbox.ts';

/** ms. The warm-up imports numpy, pandas and matplotlib, and a template is built under emulation too. */
const PRESTART_TIMEOUT = 600_000;
/** ms for a program to answer. */
const RESEED_TIMEOUT = 5_000;
/** ms for the agent to answer. */
const ATTACH_TIMEOUT = 5_000;

export interface PrestartOptions {
  readonly log: Log;
  readonly kernels?: KernelSpecs;
  readonly user?: string;
  readonly cwd?: string;
  readonly signal?: AbortSignal;
}

/**
 * Starts the default context of a language, warms it, and proves it with a run of `1+1` that leaves no trace: the first
 * run of a user has execution count 1. The program stays, as a service that `createInterpreter` finds by its tag.
 * Throws when it does not start or does not answer 2. Languages that are started on demand are left alone.
 */
export async function prestartInterpreter(
  agent: AgentClient,
  language: string,
  options: PrestartOptions,
): Promise<void> {
  const { log, kernels = DEFAULT_KERNELS, user = DEFAULT_USER, cwd = DEFAULT_CWD } = options;
  const spec = kernels[language];
  if (spec === undefined) throw new Error(`no kernel for language '${language}'`);
  if (spec.onDemand) return;
  const begun = performance.now();
  const deadline = AbortSignal.timeout(PRESTART_TIMEOUT);
  const signal = options.signal === undefined ? deadline : AbortSignal.any([deadline, options.signal]);
  const args = [...spec.args, ...(spec.warmArgs ?? [])];
  const tag = defaultTag(language);
  const process = await agent.spawn({ cmd: spec.cmd, args, cwd, user, tag, stdin: true, service: true }, signal);
  const kernel = new Kernel(agent, process, log);
  try {
    if (!(await kernel.ready(signal))) throw new Error('it did not become ready');
    const events: RunEvent[] = [];
    const outcome = await kernel.run({ code: '1+1', trace: false }, (event) => void events.push(event), signal);
    signal.throwIfAborted();
    const answered = events.some((event) => event.type === 'result' && event.main && event.fields.text === '2');
    if (!outcome.ended || !answered) throw new Error('it does not answer 1+1');
  } catch (error) {
    const why = `${(error as Error).message}${kernel.stderr === '' ? '' : `: ${kernel.stderr}`}`;
    await kernel.kill().catch(() => {});
    throw new Error(`the ${language} interpreter cannot be prestarted: ${why}`, { cause: error });
  }
  kernel.detach();
  log.info({ language, ms: Math.round(performance.now() - begun) }, 'interpreter prestarted');
}

export interface ReseedOptions {
  readonly log: Log;
  /** The sandbox's environment, set in every program. */
  readonly env?: Readonly<Record<string, string>>;
  /** COPPICE_GENERATION in every program. */
  readonly generation?: string;
  /** For what is restored of a user's sandbox: generators that user code has seeded itself go on as they are. */
  readonly keepGiven?: boolean;
  /** ms that a program is waited for once it has been told; 5 000 if not given. */
  readonly timeoutMs?: number;
  readonly signal?: AbortSignal;
}

export interface ReseedResult {
  readonly reseeded: number;
  /**
   * Programs that did not say in time that they took it, or that ended. One that runs code takes it as soon as that is over,
   * and before whatever it is sent after this call.
   */
  readonly late: number;
}

/**
 * Mixes `entropy` (base64, at least 16 bytes, unique to this sandbox) into the generators of every interpreter in the guest.
 * Called before a clone is handed out. Throws AgentError when the channel is gone, and the signal's reason.
 */
export async function reseedInterpreters(
  agent: AgentClient,
  entropy: string,
  options: ReseedOptions,
): Promise<ReseedResult> {
  const { log, env, generation, keepGiven, timeoutMs = RESEED_TIMEOUT } = options;
  const within = (ms: number): AbortSignal =>
    options.signal === undefined ? AbortSignal.timeout(ms) : AbortSignal.any([AbortSignal.timeout(ms), options.signal]);
  const reseed = async (pid: number): Promise<boolean> => {
    const process = await attach(agent, pid, within(ATTACH_TIMEOUT));
    if (process === undefined) return false;
    const kernel = new Kernel(agent, process, log);
    try {
      return await kernel.reseed({ entropy, keepGiven, generation, env }, within(timeoutMs));
    } finally {
      kernel.detach();
    }
  };
  const processes = await agent.processes({ services: true });
  const interpreters = processes.filter((info) => parseTag(info.tag) !== undefined);
  const results = await Promise.all(interpreters.map(({ pid }) => reseed(pid)));
  options.signal?.throwIfAborted();
  const reseeded = results.filter(Boolean).length;
  return { reseeded, late: results.length - reseeded };
}

/** undefined: it has ended since it was listed. */
async function attach(agent: AgentClient, pid: number, signal: AbortSignal): Promise<AgentProcess | undefined> {
  try {
    return await agent.attach({ pid }, signal);
  } catch (error) {
    if (error instanceof AgentError && error.code === 'not_found') return undefined;
    throw error;
  }
}
