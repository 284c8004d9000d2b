/**
 * One live machine in this process: a pool entry first, a sandbox after its claim. Holds what is needed to speak to it
 * and to end it; the row in the store says what it is.
 */
import type { AgentClient } from '../channel/agent.ts';
import { connectAgent } from '../channel/client.ts';
import { CoppiceError } from '../contract/errors.ts';
import { createEnvd, type Envd } from '../envd/envd.ts';
import { createInterpreter, type Interpreter } from '../envd/interpreter/index.ts';
import type { ProcessNotes } from '../envd/process-notes.ts';
import type { Machine } from '../isolation/backend.ts';
import type { Attachment } from '../network/fabric.ts';
import type { Log } from '../telemetry/log.ts';
import { DEFAULT_RUNTIME, type Runtime } from './runtime.ts';
import type { Tokens } from './views.ts';

export interface MemberOptions {
  readonly id: string;
  readonly templateID: string;
  readonly generation: string;
  readonly memoryMB: number;
  readonly languages: readonly string[];
  /** Environment of its processes, until `assign` says otherwise. */
  readonly env: Readonly<Record<string, string>>;
  readonly machine: Machine;
  /** Its agent comes and goes, and is told at each session whose it is. */
  readonly agentOnDemand: boolean;
  readonly attachment: Attachment | undefined;
  /** Of its template. */
  readonly runtime?: Runtime;
  readonly log: Log;
}

/** A session that nothing has used for this long is let go of where the agent then ends: an idle jail has none. */
const UNUSED_MS = 15_000;
/** How long a session may take to begin with a guest that already runs. Wide: an emulated guest on a loaded host is slow. */
const SESSION_DEADLINE_MS = 20_000;
/** And with one that boots. */
const BOOT_DEADLINE_MS = 100_000;

export class Member {
  readonly id: string;
  readonly templateID: string;
  readonly generation: string;
  readonly memoryMB: number;
  readonly machine: Machine;
  readonly attachment: Attachment | undefined;
  /** When the guest was last told the time; ms since the epoch. A member is made just before it is told. */
  readonly clockSetAtMs = Date.now();
  /** What the fabric lets it do now; a fresh attachment is denied everything. */
  internet = false;
  /** Where what its processes do is told; settled when it is handed out. */
  notes: ProcessNotes | undefined;
  readonly #log: Log;
  readonly #languages: readonly string[];
  readonly #agentOnDemand: boolean;
  readonly #runtime: Runtime;
  readonly #cuts = new Set<() => void>();
  #agent: AgentClient | undefined;
  #connecting: Promise<AgentClient> | undefined;
  #env: Readonly<Record<string, string>>;
  #accessToken: string | undefined;
  #trafficToken: string | undefined;
  #maskRequestHost: string | undefined;
  #envd: Envd | undefined;
  #interpreter: Interpreter | undefined;
  #ended = false;
  /** When the session was last asked for or in use. */
  #usedAtMs = 0;

  constructor(options: MemberOptions) {
    this.id = options.id;
    this.templateID = options.templateID;
    this.generation = options.generation;
    this.memoryMB = options.memoryMB;
    this.machine = options.machine;
    this.attachment = options.attachment;
    this.#languages = options.languages;
    this.#env = options.env;
    this.#agentOnDemand = options.agentOnDemand;
    this.#runtime = options.runtime ?? DEFAULT_RUNTIME;
    this.#log = options.log.child({ sandboxID: options.id });
  }

  get ended(): boolean {
    return this.#ended;
  }

  get env(): Readonly<Record<string, string>> {
    return this.#env;
  }

  get accessToken(): string | undefined {
    return this.#accessToken;
  }

  /** What ports other than envd's demand; undefined: nothing. */
  get trafficToken(): string | undefined {
    return this.#trafficToken;
  }

  /** See NetworkWish. */
  get maskRequestHost(): string | undefined {
    return this.#maskRequestHost;
  }

  /** The session that stands now, if any; asking counts as using it. */
  get session(): AgentClient | undefined {
    this.#usedAtMs = performance.now();
    return this.#agent;
  }

  /** The session with the agent; begun anew when the one before broke (the node was restarted, the guest sent garbage). */
  async agent(): Promise<AgentClient> {
    if (this.#ended)
      throw new CoppiceError('sandbox_not_found', `Sandbox "${this.id}" doesn't exist or you don't have access to it`);
    this.#usedAtMs = performance.now();
    if (this.#agent) return this.#agent;
    this.#connecting ??= this.#connect(this.#agentOnDemand).finally(() => {
      this.#connecting = undefined;
    });
    return this.#connecting;
  }

  /**
   * First session of a fresh machine. The byte stream of a template ends on the edge of a frame, that of a sandbox that was
   * captured anywhere; one without memory boots first.
   */
  async begin(
    signal: AbortSignal,
    from: { readonly memory: 'whole' | 'own' | 'none'; readonly bornItself: boolean },
  ): Promise<AgentClient> {
    const boots = from.memory === 'none' && !from.bornItself;
    return this.#connect(from.memory !== 'own', signal, boots ? BOOT_DEADLINE_MS : SESSION_DEADLINE_MS);
  }

  async #connect(clean: boolean, signal?: AbortSignal, deadlineMs = SESSION_DEADLINE_MS): Promise<AgentClient> {
    const open = async (): Promise<AgentClient> =>
      connectAgent(await this.machine.openChannel(signal), {
        log: this.#log,
        signal,
        deadlineMs,
        resync: !clean,
      });
    const agent = await open().catch((error: unknown) => {
      // One on demand may have been ending just as it was spoken to; the next attempt starts another.
      if (!this.#agentOnDemand || signal?.aborted) throw error;
      return open();
    });
    if (this.#ended) {
      agent.close();
      throw new CoppiceError('sandbox_not_found', `sandbox ${this.id} ended while its session began`);
    }
    if (this.#agentOnDemand) await this.#introduce(agent, signal);
    this.#agent = agent;
    this.#usedAtMs = performance.now();
    void agent.closed.then((reason) => {
      const unexpected = this.#agent === agent && !this.#ended;
      if (this.#agent === agent) this.#agent = undefined;
      if (unexpected) this.#log.warn({ error: reason }, 'the session with the agent ended');
    });
    return agent;
  }

  /** Called now and then: lets go of a session that nobody has used for so long, where that lets the agent end. */
  rest(unusedMs = UNUSED_MS): void {
    const agent = this.#agent;
    if (!agent || !this.#agentOnDemand) return;
    const now = performance.now();
    if (agent.operations > 0) this.#usedAtMs = now;
    if (now - this.#usedAtMs < unusedMs) return;
    this.#agent = undefined;
    agent.close();
  }

  async #introduce(agent: AgentClient, signal?: AbortSignal): Promise<void> {
    const { generation, id: sandboxID, templateID } = this;
    try {
      await agent.identity({ generation, sandboxID, templateID, env: this.#env }, signal);
    } catch (error) {
      agent.close();
      throw error;
    }
  }

  /** From pool entry to sandbox: what its services serve from now on. */
  assign(
    owner: Tokens & {
      readonly env: Readonly<Record<string, string>>;
      readonly maskRequestHost: string | undefined;
    },
  ): void {
    this.#env = owner.env;
    this.#accessToken = owner.accessToken;
    this.#trafficToken = owner.trafficToken;
    this.#maskRequestHost = owner.maskRequestHost;
  }

  /** Made at the first request: a claim pays for neither. */
  get envd(): Envd {
    this.#envd ??= createEnvd(this.#face(), { log: this.#log });
    return this.#envd;
  }

  get interpreter(): Interpreter {
    this.#interpreter ??= createInterpreter(this.#face(), { log: this.#log });
    return this.#interpreter;
  }

  /** What the services see. Read at each use: environment and token come with the claim. */
  #face() {
    const member = this;
    const { user, workdir, shell } = this.#runtime;
    return {
      sandboxID: this.id,
      templateID: this.templateID,
      languages: this.#languages,
      defaultUser: user,
      ...(workdir === undefined ? {} : { defaultWorkdir: workdir }),
      ...(shell === '/bin/sh' ? { insteadOfBash: shell } : {}),
      agent: () => {
        this.#usedAtMs = performance.now();
        return this.#agent ?? this.agent();
      },
      get env(): Readonly<Record<string, string>> {
        return member.#env;
      },
      get accessToken(): string | undefined {
        return member.#accessToken;
      },
      get notes(): ProcessNotes | undefined {
        return member.notes;
      },
    };
  }

  /** Registers something to cut when the sandbox ends; the returned function takes it back. */
  track(cut: () => void): () => void {
    if (this.#ended) {
      cut();
      return () => {};
    }
    this.#cuts.add(cut);
    return () => this.#cuts.delete(cut);
  }

  /** Cuts every stream and session at once. The machine itself is ended by the caller. Idempotent. */
  end(reason: string): void {
    if (this.#ended) return;
    this.#ended = true;
    for (const cut of this.#cuts) cut();
    this.#cuts.clear();
    this.#envd?.close(new Error(reason));
    this.#interpreter?.close();
    this.#agent?.close(new Error(reason));
  }
}
