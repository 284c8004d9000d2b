/** The contexts of one sandbox, in the order in which they were made. The truth is in the guest: processes and their tags. */
import { randomUUID } from 'node:crypto';
import type { AgentClient } from '../../channel/agent.ts';
import type { Log } from '../../telemetry/log.ts';
import { Context, gone, KernelStartError } from './context.ts';
import type { KernelSpecs } from './kernels.ts';
import { contextTag, defaultContextID, defaultTag, normalizeLanguage, parseTag } from './names.ts';
import { DEFAULT_CWD, type InterpreterSandbox } from './sandbox.ts';

/** Contexts of one sandbox; each is a process of the guest. */
const MAX_CONTEXTS = 64;

export interface ContextView {
  readonly id: string;
  readonly language: string;
  readonly cwd: string;
}

export interface ContextsOptions {
  readonly sandbox: InterpreterSandbox;
  readonly kernels: KernelSpecs;
  readonly user: string;
  /** Where contexts begin when nothing else is said. */
  readonly cwd?: string;
  readonly log: Log;
}

export class Contexts {
  readonly #options: ContextsOptions;
  readonly #contexts = new Map<string, Context>();
  #discoveredOn: AgentClient | undefined;

  constructor(options: ContextsOptions) {
    this.#options = options;
    const { sandbox, kernels } = options;
    for (const [language, { listed }] of Object.entries(kernels))
      if (listed && sandbox.languages.includes(language)) this.#addDefault(language);
  }

  /** The context of that id, however it came to be; undefined when there is none. */
  async find(id: string): Promise<Context | undefined> {
    const known = this.#contexts.get(id);
    if (known !== undefined) return known;
    if ((await this.#agent()) !== this.#discoveredOn) await this.#discover();
    return this.#contexts.get(id);
  }

  /** The default context of a language, with its program attached or started. Throws KernelStartError. */
  async default(language: string): Promise<Context> {
    const name = normalizeLanguage(language);
    const id = defaultContextID(this.#options.sandbox.sandboxID, name);
    const context = this.#contexts.get(id) ?? this.#addDefault(name);
    try {
      await context.ready();
      return context;
    } catch (error) {
      if (!this.#options.kernels[name]?.listed) this.#contexts.delete(id);
      throw error;
    }
  }

  async create(language: string, cwd: string | undefined): Promise<Context> {
    const name = normalizeLanguage(language);
    const id = randomUUID();
    const context = this.#add({ id, language: name, tag: contextTag(name, id), cwd });
    try {
      await context.ready();
      return context;
    } catch (error) {
      this.#contexts.delete(id);
      throw error;
    }
  }

  async list(): Promise<readonly ContextView[]> {
    await this.#discover();
    return [...this.#contexts.values()].map(({ id, language, cwd }) => ({ id, language, cwd }));
  }

  async remove(context: Context): Promise<void> {
    this.#contexts.delete(context.id);
    await context.remove();
  }

  detach(): void {
    for (const context of this.#contexts.values()) context.detach();
  }

  async #agent(): Promise<AgentClient> {
    try {
      return await this.#options.sandbox.agent();
    } catch (error) {
      throw gone(error);
    }
  }

  #addDefault(language: string): Context {
    const id = defaultContextID(this.#options.sandbox.sandboxID, language);
    return this.#add({ id, language, tag: defaultTag(language) });
  }

  #add(wanted: { id: string; language: string; tag: string; cwd?: string | undefined }): Context {
    const { sandbox, kernels, user, log } = this.#options;
    const spec = kernels[wanted.language];
    if (spec === undefined || !sandbox.languages.includes(wanted.language)) {
      throw new KernelStartError(`No kernel for language '${wanted.language}' in this template`);
    }
    if (this.#contexts.size >= MAX_CONTEXTS) {
      throw new KernelStartError(`The sandbox has ${MAX_CONTEXTS} contexts, and more are not allowed; remove one`);
    }
    const context = new Context({
      ...wanted,
      cwd: wanted.cwd ?? this.#options.cwd ?? DEFAULT_CWD,
      user,
      spec,
      agent: () => this.#agent(),
      log,
    });
    this.#contexts.set(wanted.id, context);
    return context;
  }

  /** Takes up the programs that are in the guest and not yet known: after a resume, a fork, a new node process. */
  async #discover(): Promise<void> {
    const { sandbox, kernels } = this.#options;
    const agent = await this.#agent();
    for (const info of await agent.processes({ services: true })) {
      const name = parseTag(info.tag);
      if (name === undefined || kernels[name.language] === undefined || !sandbox.languages.includes(name.language))
        continue;
      const id = name.id ?? defaultContextID(sandbox.sandboxID, name.language);
      if (this.#contexts.has(id) || this.#contexts.size >= MAX_CONTEXTS) continue;
      this.#add({ id, language: name.language, tag: info.tag!, cwd: info.cwd });
    }
    this.#discoveredOn = agent;
  }
}
