/** One context: a language, a directory, a program that is started when it is needed and again when it has died. */
import { setTimeout as sleep } from 'node:timers/promises';
import { type AgentClient, AgentError } from '../../channel/agent.ts';
import type { Log } from '../../telemetry/log.ts';
import type { RunEvent } from './guest-event.ts';
import { Kernel, type KernelEnd, type RunRequest } from './kernel.ts';
import type { KernelSpec } from './kernels.ts';

/** Runs of one context: the one that is going on, and those that wait. */
const MAX_RUNS = 64;
/** ms. Under emulation a program takes seconds to start, Java a minute, and contexts may start side by side. */
const START_TIMEOUT = 300_000;
/** ms. Clients wait 30 s for the head of a reply. */
const READY_PATIENCE = 15_000;

/** The program of a context cannot be started; the message says why and is for the client. */
export class KernelStartError extends Error {
  override readonly name = 'KernelStartError';
}

/** The channel or the sandbox is gone. */
export class SandboxGone extends Error {
  override readonly name = 'SandboxGone';
}

export class TooManyRuns extends Error {
  override readonly name = 'TooManyRuns';
}

export interface ContextOptions {
  readonly id: string;
  readonly language: string;
  readonly cwd: string;
  readonly tag: string;
  readonly user: string;
  readonly spec: KernelSpec;
  /** Throws SandboxGone. */
  readonly agent: () => Promise<AgentClient>;
  readonly log: Log;
}

type Sink = (event: RunEvent) => Promise<void> | void;

export class Context {
  readonly id: string;
  readonly language: string;
  readonly cwd: string;
  readonly #options: ContextOptions;
  #kernel: Promise<Kernel> | undefined;
  #tail: Promise<unknown> = Promise.resolve();
  #runs = 0;
  /** A program with our tag is known to have died: the next one is started, not looked for. */
  #died = false;
  #removed = false;

  constructor(options: ContextOptions) {
    this.id = options.id;
    this.language = options.language;
    this.cwd = options.cwd;
    this.#options = options;
  }

  /**
   * Attaches to the program, or starts it. One that is slow is left to start: a run waits for it, and tells how it went.
   * Throws KernelStartError, SandboxGone.
   */
  async ready(): Promise<void> {
    await Promise.race([this.#ensure(), sleep(READY_PATIENCE, undefined, { ref: false })]);
  }

  /**
   * Runs a cell when the ones before it are over. The last event is always end_of_execution, unless `signal` fires: then
   * nothing more is told, and the program is interrupted. Throws SandboxGone.
   */
  async run(request: RunRequest, sink: Sink, signal: AbortSignal): Promise<void> {
    this.#runs += 1;
    const mine = this.#tail.then(() => this.#runNow(request, sink, signal));
    // What goes wrong in one run is not the affair of the next.
    this.#tail = mine
      .catch(() => {})
      .then(() => {
        this.#runs -= 1;
      });
    await Promise.race([mine, whenAborted(signal)]);
  }

  /** True: no more runs may wait. */
  get full(): boolean {
    return this.#runs >= MAX_RUNS;
  }

  /** A new program in place of the old one; runs that wait go on with it. Throws as `ready`. */
  async restart(): Promise<void> {
    const old = this.#kernel;
    await this.#adopt(
      (async () => {
        const agent = await this.#options.agent();
        const kernel = await this.#find(old, agent);
        await kernel?.kill('restart');
        return await this.#spawn(agent);
      })(),
    );
  }

  async remove(): Promise<void> {
    this.#removed = true;
    const old = this.#kernel;
    this.#kernel = undefined;
    const kernel = await this.#find(old, await this.#options.agent());
    await kernel?.kill('remove');
  }

  /** Lets go of the program, which goes on in the guest. */
  detach(): void {
    const kernel = this.#kernel;
    this.#kernel = undefined;
    kernel?.then((it) => it.detach()).catch(() => {});
  }

  async #runNow(request: RunRequest, sink: Sink, signal: AbortSignal): Promise<void> {
    // A program that died before it took the cell has run nothing of it: another one takes it, once.
    for (let attempt = 0; ; attempt += 1) {
      if (signal.aborted) return;
      let kernel: Kernel;
      try {
        kernel = await this.#ensure();
      } catch (error) {
        if (error instanceof SandboxGone || signal.aborted) throw error;
        await this.#fail(sink, 'ContextUnavailable', error instanceof Error ? error.message : String(error));
        return;
      }
      const outcome = await kernel.run(request, sink, signal);
      if (outcome.ended) {
        if (!signal.aborted) await sink({ type: 'end_of_execution' });
        return;
      }
      if (signal.aborted) return;
      const { end, started } = outcome;
      if (end.reason === 'lost' || end.reason === 'detached') throw new SandboxGone(end.message);
      if (end.killedFor === 'restart') {
        await this.#fail(sink, 'ContextRestarting', 'The context was restarted while the code was running');
        return;
      }
      if (started || attempt > 0 || this.#removed) {
        await this.#fail(sink, 'UnexpectedEndOfExecution', describeEnd(end));
        return;
      }
    }
  }

  async #fail(sink: Sink, name: string, value: string): Promise<void> {
    await sink({ type: 'error', name, value, traceback: `${name}: ${value}` });
    await sink({ type: 'end_of_execution' });
  }

  /** The program that there is, attached; undefined when there is none. */
  async #find(old: Promise<Kernel> | undefined, agent: AgentClient): Promise<Kernel | undefined> {
    const kernel = await old?.catch(() => undefined);
    return kernel?.alive ? kernel : await this.#attach(agent);
  }

  async #ensure(): Promise<Kernel> {
    if (this.#removed) throw new KernelStartError(`Context ${this.id} not found`);
    return await (this.#kernel ?? this.#adopt(this.#start()));
  }

  /** Makes `starting` the program of this context, until it ends. */
  #adopt(starting: Promise<Kernel>): Promise<Kernel> {
    this.#kernel = starting;
    const forget = (end?: KernelEnd): void => {
      if (this.#kernel !== starting) return;
      this.#kernel = undefined;
      this.#died = end?.reason === 'exited' || end?.reason === 'broken';
    };
    starting.then(
      (kernel) => void kernel.ended.then(forget),
      () => forget(),
    );
    return starting;
  }

  async #start(): Promise<Kernel> {
    const agent = await this.#options.agent();
    return (this.#died ? undefined : await this.#attach(agent)) ?? (await this.#spawn(agent));
  }

  async #attach(agent: AgentClient): Promise<Kernel | undefined> {
    try {
      const process = await agent.attach({ tag: this.#options.tag });
      return new Kernel(agent, process, this.#options.log);
    } catch (error) {
      if (error instanceof AgentError && error.code === 'not_found') return undefined;
      throw gone(error);
    }
  }

  async #spawn(agent: AgentClient): Promise<Kernel> {
    const { spec, cwd, tag, user, log } = this.#options;
    let kernel: Kernel;
    const begun = performance.now();
    try {
      const process = await agent.spawn({ cmd: spec.cmd, args: spec.args, cwd, tag, user, stdin: true, service: true });
      kernel = new Kernel(agent, process, log);
    } catch (error) {
      if (error instanceof AgentError && error.code !== 'unavailable') throw this.#startError(error.message);
      throw gone(error);
    }
    if (await kernel.ready(AbortSignal.timeout(START_TIMEOUT))) {
      log.info(
        { context: this.id, language: this.language, ms: Math.round(performance.now() - begun) },
        'context started',
      );
      return kernel;
    }
    const reason = kernel.alive ? `it was not ready after ${START_TIMEOUT / 1_000} s` : (await kernel.ended).message;
    const lost = !kernel.alive && (await kernel.ended).reason === 'lost';
    if (lost) throw new SandboxGone(reason);
    await kernel.kill().catch(() => {});
    const lastLine = kernel.stderr.split('\n').at(-1) ?? '';
    throw this.#startError(lastLine === '' ? reason : `${reason}: ${lastLine}`);
  }

  #startError(reason: string): KernelStartError {
    return new KernelStartError(`Failed to start a ${this.language} context: ${reason}`);
  }
}

function describeEnd(end: KernelEnd): string {
  return `The context's process ended before the execution was finished (${end.message})`;
}

/** The same failure, said as the fact that there is nobody to ask. */
export function gone(error: unknown): SandboxGone {
  return new SandboxGone(error instanceof Error ? error.message : String(error), { cause: error });
}

async function whenAborted(signal: AbortSignal): Promise<void> {
  if (signal.aborted) return;
  await new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve(), { once: true }));
}
