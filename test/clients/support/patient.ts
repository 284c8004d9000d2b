/** A sandbox that something happens to: what it holds, how its owner speaks to it, and what has to hold of it afterwards. */
import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { Sandbox } from 'e2b';
import { say } from '../../behaviours/support/asks.ts';
import type { TestService } from '../../helpers/service.ts';
import { until } from '../../helpers/until.ts';
import { type Answer, type Rest, restOf } from './rest.ts';

const TIMEOUT_MS = 3_600_000;
const ON_DISK = 'on disk';
const IN_MEMORY = 'in memory';

export class Patient {
  readonly sandbox: Sandbox;
  readonly #service: TestService;
  readonly #rest: Rest;

  private constructor(service: TestService, sandbox: Sandbox) {
    this.#service = service;
    this.#rest = restOf(service);
    this.sandbox = sandbox;
  }

  static async create(service: TestService): Promise<Patient> {
    const sandbox = await Sandbox.create('base', { ...service.sdk, timeoutMs: TIMEOUT_MS });
    await say(sandbox, `echo ${ON_DISK} > file; echo ${IN_MEMORY} > /dev/shm/word`);
    return new Patient(service, sandbox);
  }

  get id(): string {
    return this.sandbox.sandboxId;
  }

  post(verb: string, body: unknown = {}): Promise<Answer> {
    return this.#rest('POST', `/sandboxes/${this.id}/${verb}`, body);
  }

  connect(): Promise<Answer> {
    return this.post('connect', { timeout: TIMEOUT_MS / 1_000 });
  }

  async state(): Promise<unknown> {
    const { body } = await this.#rest('GET', `/sandboxes/${this.id}`);
    return (body as { readonly state?: unknown }).state;
  }

  /** Where its only checkpoint is while it is paused. */
  checkpoint(): string {
    const folder = join(this.#service.home.paused, this.id);
    const [name, ...others] = readdirSync(folder);
    assert.ok(name !== undefined && others.length === 0, 'one checkpoint is kept');
    return join(folder, name);
  }

  /** It runs, and what it holds is what it was given. */
  async assertWell(): Promise<void> {
    assert.equal(await this.state(), 'running');
    assert.equal(await say(this.sandbox, 'cat file /dev/shm/word'), `${ON_DISK}\n${IN_MEMORY}`);
  }

  /** It can be ended, and nothing of anybody is left that should not be. */
  async end(): Promise<void> {
    assert.equal((await this.#rest('DELETE', `/sandboxes/${this.id}`)).status, 204);
    assert.equal((await this.#rest('GET', `/sandboxes/${this.id}`)).status, 404);
    await until('nothing leaks', async () => (await this.#service.leaks()).details.length === 0, 30_000);
  }
}
