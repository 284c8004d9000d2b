/**
 * One attached program in the guest: requests in, events out, one run at a time. Knows nothing of HTTP. Whatever the
 * guest sends is bounded: lines by MAX_LINE, one result by MAX_RESULT, stray lines are counted and dropped.
 */
import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { type AgentClient, AgentError, type AgentProcess } from '../../channel/agent.ts';
import { KIND } from '../../channel/protocol.ts';
import type { Log } from '../../telemetry/log.ts';
import { type GuestEvent, parseGuestEvent, type RunEvent } from './guest-event.ts';
import { LineSplitter } from './lines.ts';

/** Bytes. The guest's own limits (wire.py) keep well below it. */
const MAX_LINE = 4 << 20;
/** Characters in the parts of one result. */
const MAX_RESULT = 65 << 20;
/** Bytes kept of what the program says on stderr: why it could not start. */
const STDERR_TAIL = 4_096;
/** ms between one SIGINT and the next, while a run that nobody waits for any more goes on. The last one repeats. */
const INTERRUPT_DELAYS = [0, 100, 250, 500, 1_000, 2_000, 5_000];

/** How a kernel ended. `lost`: the channel is gone, the program may live on. */
export interface KernelEnd {
  readonly reason: 'exited' | 'lost' | 'broken' | 'detached';
  readonly message: string;
  /** Why we ended it ourselves, as `kill` was told. */
  readonly killedFor?: 'restart' | 'remove';
}

export interface RunRequest {
  readonly code: string;
  readonly envVars?: Readonly<Record<string, string>>;
  /** False: leaves no trace in the namespace. Default true. */
  readonly trace?: boolean;
  /** The sandbox's environment, set ahead of the run. */
  readonly env?: Readonly<Record<string, string>>;
}

/** `ended`: end_of_execution came. Otherwise the kernel ended first; `started` says whether code can have run. */
export type RunOutcome =
  | { readonly ended: true }
  | { readonly ended: false; readonly started: boolean; readonly end: KernelEnd };

export interface ReseedRequest {
  /** base64. */
  readonly entropy: string;
  /** True: generators that user code has seeded itself go on as they are. */
  readonly keepGiven?: boolean;
  /** COPPICE_GENERATION in the program from now on. */
  readonly generation?: string;
  /** The sandbox's environment, set ahead of it. */
  readonly env?: Readonly<Record<string, string>>;
}

type Sink = (event: RunEvent) => Promise<void> | void;

interface Run {
  readonly id: string;
  readonly sink: Sink;
  readonly done: PromiseWithResolvers<RunOutcome>;
  muted: boolean;
  started: boolean;
  partBytes: number;
}

export class Kernel {
  readonly agent: AgentClient;
  readonly pid: number;
  /** Resolves, never rejects, when the program or the way to it is gone. */
  readonly ended: Promise<KernelEnd>;
  readonly #process: AgentProcess;
  readonly #log: Log;
  readonly #ended = Promise.withResolvers<KernelEnd>();
  readonly #ready = Promise.withResolvers<void>();
  readonly #answers = new Map<string, (good: boolean) => void>();
  #end: KernelEnd | undefined;
  #run: Run | undefined;
  #interrupting: Promise<void> = Promise.resolve();
  #stderr = '';
  #strays = 0;
  #sentEnv: string | undefined;
  #killedFor: 'restart' | 'remove' | undefined;

  constructor(agent: AgentClient, process: AgentProcess, log: Log) {
    this.agent = agent;
    this.pid = process.pid;
    this.ended = this.#ended.promise;
    this.#process = process;
    this.#log = log;
    void this.#read();
  }

  get alive(): boolean {
    return this.#end === undefined;
  }

  /** Last words of the program on stderr. */
  get stderr(): string {
    return this.#stderr.trim();
  }

  /** Waits until a program that was just spawned takes requests. False: it ended first, or the time is over. */
  async ready(signal: AbortSignal): Promise<boolean> {
    return await Promise.race([this.#ready.promise.then(() => true), this.ended.then(() => false), aborted(signal)]);
  }

  /**
   * Runs one cell; the caller sees to it that there is one at a time. When `signal` fires, the program is interrupted,
   * its events are dropped from then on, and the promise still resolves only when the run is over.
   */
  async run(request: RunRequest, sink: Sink, signal?: AbortSignal): Promise<RunOutcome> {
    if (this.#run !== undefined) throw new Error('a run is in progress');
    // A SIGINT on its way from the run before must not hit this one.
    await this.#interrupting;
    if (this.#end !== undefined) return { ended: false, started: false, end: this.#end };
    const done = Promise.withResolvers<RunOutcome>();
    const run: Run = { id: randomUUID(), sink, done, muted: false, started: false, partBytes: 0 };
    this.#run = run;
    const onAbort = (): void => {
      run.muted = true;
      this.#interrupting = this.#interrupt(run);
    };
    try {
      if (signal?.aborted) return { ended: true };
      const execute = {
        op: 'execute',
        id: run.id,
        code: request.code,
        env_vars: request.envVars,
        trace: request.trace,
      };
      signal?.addEventListener('abort', onAbort, { once: true });
      await this.#send(this.#envRequest(request.env), JSON.stringify(execute));
      return await done.promise;
    } finally {
      signal?.removeEventListener('abort', onAbort);
      this.#run = undefined;
    }
  }

  /**
   * Mixes entropy into the program's generators. A program that runs code takes it when that is over, before anything that it
   * is sent after. False: no answer in time, or not all of its generators took it.
   */
  async reseed(request: ReseedRequest, signal: AbortSignal): Promise<boolean> {
    const { entropy, keepGiven, generation, env } = request;
    const id = randomUUID();
    const answered = new Promise<boolean>((resolve) => this.#answers.set(id, resolve));
    try {
      const reseed = { op: 'reseed', id, entropy, keep_given: keepGiven, generation };
      await this.#send(this.#envRequest(env), JSON.stringify(reseed));
      return await Promise.race([answered, this.ended.then(() => false), aborted(signal)]);
    } finally {
      this.#answers.delete(id);
    }
  }

  /** SIGKILL to the program's process group, and waits until it is gone (5 s at most). */
  async kill(why?: 'restart' | 'remove'): Promise<void> {
    if (this.#end?.reason === 'exited') return;
    this.#killedFor = why;
    try {
      await this.agent.signal(this.pid, 'SIGKILL');
    } catch (error) {
      if (error instanceof AgentError && error.code === 'not_found') return;
      throw error;
    }
    await Promise.race([this.ended, sleep(5_000, undefined, { ref: false })]);
  }

  /** Lets go; the program goes on. */
  detach(): void {
    this.#finish({ reason: 'detached', message: 'detached' });
    this.#process.detach();
  }

  #envRequest(env: Readonly<Record<string, string>> | undefined): string | undefined {
    if (env === undefined) return undefined;
    const text = JSON.stringify({ op: 'env', set: env });
    if (text === this.#sentEnv) return undefined;
    this.#sentEnv = text;
    return text;
  }

  async #send(...requests: readonly (string | undefined)[]): Promise<void> {
    const text = requests.filter((request) => request !== undefined).join('\n');
    try {
      await this.#process.writeStdin(Buffer.from(`${text}\n`));
    } catch (error) {
      // The reader finds out how it ended; a program that took no input and lives on is of no use.
      this.#log.debug({ error, pid: this.pid }, 'interpreter: the program takes no input');
      await Promise.race([this.ended, sleep(1_000, undefined, { ref: false })]);
      this.#finish({ reason: 'broken', message: 'the program takes no input' });
    }
  }

  async #interrupt(run: Run): Promise<void> {
    for (let attempt = 0; this.#run === run && this.alive; attempt += 1) {
      const delay = INTERRUPT_DELAYS[Math.min(attempt, INTERRUPT_DELAYS.length - 1)]!;
      const over = await Promise.race([run.done.promise.then(() => true), sleep(delay, false, { ref: false })]);
      if (over || this.#run !== run || !this.alive) return;
      try {
        await this.agent.signal(this.pid, 'SIGINT');
      } catch (error) {
        this.#log.debug({ error, pid: this.pid }, 'interpreter: interrupt failed');
        return;
      }
    }
  }

  async #read(): Promise<void> {
    const lines = new LineSplitter(MAX_LINE);
    try {
      for await (const output of this.#process.output) {
        if (output.type === 'exit') {
          const how = output.signal === undefined ? `exit status ${output.exitCode}` : `signal: ${output.signal}`;
          this.#finish({ reason: 'exited', message: how });
          return;
        }
        if (output.kind === KIND.STDERR) {
          this.#stderr = (this.#stderr + Buffer.from(output.bytes).toString('utf8')).slice(-STDERR_TAIL);
          continue;
        }
        for (const line of lines.push(output.bytes)) await this.#onLine(line);
        if (this.#end !== undefined) return;
      }
      this.#finish({ reason: 'lost', message: 'the output ended' });
    } catch (error) {
      if (error instanceof AgentError) {
        this.#finish({ reason: 'lost', message: error.message });
        return;
      }
      await this.#break(error);
    }
  }

  async #onLine(line: string): Promise<void> {
    if (line === '') return;
    const event = parseGuestEvent(line);
    if (event === undefined) {
      // Where an attachment begins in the middle of a line, or where user code writes into the protocol.
      this.#strays += 1;
      if (this.#strays === 1 || this.#strays % 10_000 === 0) {
        this.#log.warn({ pid: this.pid, strays: this.#strays }, 'interpreter: unreadable line from the guest');
      }
      return;
    }
    await this.#onEvent(event);
  }

  async #onEvent(event: GuestEvent): Promise<void> {
    if (event.type === 'ready') return this.#ready.resolve();
    if (event.type === 'ack') return this.#answers.get(event.id)?.(true);
    if (event.type === 'refused') {
      this.#log.warn({ pid: this.pid, reason: event.reason }, 'interpreter: the program refused a request');
      if (event.id !== undefined) this.#answers.get(event.id)?.(false);
      if (this.#run === undefined || event.id !== this.#run.id) return;
      await this.#run.sink({ type: 'error', name: 'RequestRefused', value: event.reason, traceback: event.reason });
      return this.#run.done.resolve({ ended: true });
    }
    const run = this.#run;
    if (run === undefined || run.id !== event.id) return;
    run.started = true;
    if (event.event.type === 'end_of_execution') return run.done.resolve({ ended: true });
    if (event.event.type === 'part') {
      run.partBytes += event.event.text.length;
      if (run.partBytes > MAX_RESULT) throw new Error('a result is larger than it may be');
    } else if (event.event.type === 'result') {
      run.partBytes = 0;
    }
    if (!run.muted) await run.sink(event.event);
  }

  /** The program broke the protocol: it is ended, since nothing it says can be placed any more. */
  async #break(error: unknown): Promise<void> {
    this.#log.warn({ error, pid: this.pid }, 'interpreter: protocol broken by the guest; the program is ended');
    this.#finish({ reason: 'broken', message: error instanceof Error ? error.message : String(error) });
    await this.agent.signal(this.pid, 'SIGKILL').catch(() => {});
    this.#process.detach();
  }

  #finish(end: KernelEnd): void {
    if (this.#end !== undefined) return;
    this.#end = this.#killedFor === undefined ? end : { ...end, killedFor: this.#killedFor };
    this.#run?.done.resolve({ ended: false, started: this.#run.started, end: this.#end });
    this.#ended.resolve(this.#end);
  }
}

async function aborted(signal: AbortSignal): Promise<false> {
  if (signal.aborted) return false;
  return await new Promise((resolve) => signal.addEventListener('abort', () => resolve(false), { once: true }));
}
