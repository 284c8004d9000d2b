/**
 * The running service as seen by its supervisor: the node process and the control process, restarted when they die,
 * ended in the right order. The supervisor itself serves nothing.
 */
import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { CoppiceError } from '../contract/errors.ts';
import type { Certificate, KeyPair } from '../edge/certificate.ts';
import type { Home } from '../store/home.ts';
import type { Log } from '../telemetry/log.ts';
import type { Certificates } from './certificates.ts';

/** What a child tells its supervisor over IPC. */
export type ChildMessage =
  | { readonly type: 'ready'; readonly port?: number }
  | { readonly type: 'failed'; readonly message: string; readonly suggestion?: string };

/** What the supervisor asks of a child. Losing the supervisor means the same as `stop`. */
export type SupervisorMessage =
  | { readonly type: 'stop' }
  /** For control, which can no longer read the key. */
  | ({ readonly type: 'certificate' } & KeyPair);

export interface ServiceOptions {
  readonly home: Home;
  readonly host: string;
  readonly port: number;
  readonly log: Log;
  /** Default: what COPPICE_DOMAIN says. */
  readonly domains?: readonly string[];
  /** With them the port speaks TLS. */
  readonly certificates?: Certificates;
  /** Waits before a child that dies again at once is started again, in ms; the last holds from then on. */
  readonly restartMs?: readonly number[];
}

const READY_MS = 120_000;
const STOP_MS = 30_000;
/** A child that dies again at once is restarted ever more slowly. */
const RESTART_MS = [50, 500, 2_000, 10_000];
const STEADY_MS = 30_000;
/** How often the certificate is looked at: one of an ACME client is replaced weeks before it expires. */
const CERTIFICATE_MS = 3_600_000;

export class Service {
  readonly #options: ServiceOptions;
  readonly #node: Keeper;
  readonly #control: Keeper;
  /** What control serves with. */
  #certificate: Certificate | undefined;
  #certificateTimer: NodeJS.Timeout | undefined;

  constructor(options: ServiceOptions) {
    this.#options = options;
    const { home, log, domains = [], certificates, restartMs = RESTART_MS } = options;
    const env = { COPPICE_HOME: home.folder, ...(domains.length > 0 ? { COPPICE_DOMAIN: domains.join(',') } : {}) };
    this.#node = new Keeper('node', ['run-node', '--home', home.folder], env, home, log, restartMs);
    this.#control = new Keeper(
      'control',
      [
        ...['run-control', '--home', home.folder, '--host', options.host, '--port', String(options.port)],
        ...(certificates ? ['--tls-cert', certificates.files.certificate, '--tls-key', certificates.files.key] : []),
      ],
      env,
      home,
      log,
      restartMs,
    );
  }

  /** Resolves with the port when both serve. */
  async start(signal: AbortSignal): Promise<number> {
    const { certificates } = this.#options;
    this.#certificate = await certificates?.current(signal);
    certificates?.publish();
    await this.#node.start(signal);
    const { port } = await this.#control.start(signal);
    if (certificates) this.#certificateTimer = setInterval(() => void this.renewCertificate(), CERTIFICATE_MS).unref();
    return port ?? this.#options.port;
  }

  /** Clients first, then machines. After `force`, whatever still lives is killed. */
  async stop(): Promise<void> {
    clearInterval(this.#certificateTimer);
    await this.#control.stop();
    await this.#node.stop();
  }

  /** Renews the certificate if it is time, and lets control know of a new one. A control started anew reads the files itself. */
  async renewCertificate(): Promise<void> {
    const { certificates, log } = this.#options;
    try {
      const found = await certificates?.current();
      if (found === undefined || found.certificate === this.#certificate?.certificate) return;
      this.#certificate = found;
      this.#control.send({ type: 'certificate', certificate: found.certificate, key: found.key });
      log.info({ expiresAt: found.expiresAt }, 'a new certificate');
    } catch (error) {
      log.warn({ error }, 'the certificate could not be looked at or renewed');
    }
  }

  /** Of the node process that serves now; 0 while there is none. */
  get nodePid(): number {
    return this.#node.pid;
  }

  /** As `nodePid`, of control. */
  get controlPid(): number {
    return this.#control.pid;
  }

  force(): void {
    this.#control.kill();
    this.#node.kill();
  }
}

class Keeper {
  readonly #name: string;
  readonly #args: readonly string[];
  readonly #env: Readonly<Record<string, string>>;
  readonly #home: Home;
  readonly #log: Log;
  readonly #restartMs: readonly number[];
  #child: ChildProcess | undefined;
  #stopping = false;
  #deaths = 0;

  constructor(
    name: string,
    args: readonly string[],
    env: Readonly<Record<string, string>>,
    home: Home,
    log: Log,
    restartMs: readonly number[],
  ) {
    this.#name = name;
    this.#args = args;
    this.#env = env;
    this.#home = home;
    this.#log = log.child({ child: name });
    this.#restartMs = restartMs;
  }

  async start(signal?: AbortSignal): Promise<{ readonly port?: number }> {
    signal?.throwIfAborted();
    const child = fork(join(import.meta.dirname, '..', 'main.ts'), [...this.#args], {
      execPath: process.execPath,
      execArgv: ['--disable-warning=ExperimentalWarning'],
      env: { ...process.env, ...this.#env },
      // A session of its own: Ctrl-C in the terminal reaches the supervisor alone, which ends things in order.
      detached: true,
      stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
    });
    this.#child = child;
    const begun = Date.now();
    child.once('exit', (code, killedBy) => this.#died(child, begun, killedBy ?? code));
    const message = await this.#firstMessage(child, signal);
    if (message.type === 'failed') {
      throw new CoppiceError('host_unfit', `${this.#name} could not start: ${message.message}`);
    }
    return message;
  }

  async #firstMessage(child: ChildProcess, signal?: AbortSignal): Promise<ChildMessage> {
    const abort = new AbortController();
    const bounded = AbortSignal.any([abort.signal, ...(signal ? [signal] : []), AbortSignal.timeout(READY_MS)]);
    try {
      return await Promise.race([
        once(child, 'message', { signal: bounded }).then(([message]) => message as ChildMessage),
        once(child, 'exit', { signal: bounded }).then(([code, killedBy]): ChildMessage => {
          return {
            type: 'failed',
            message: `it ended with ${killedBy ?? code}; see ${join(this.#home.logs, `${this.#name}.log`)}`,
          };
        }),
      ]);
    } finally {
      abort.abort();
    }
  }

  #died(child: ChildProcess, begun: number, cause: unknown): void {
    if (this.#child !== child) return;
    this.#child = undefined;
    if (this.#stopping) return;
    this.#deaths = Date.now() - begun > STEADY_MS ? 0 : this.#deaths + 1;
    const wait = this.#restartMs[Math.min(this.#deaths, this.#restartMs.length) - 1] ?? this.#restartMs[0]!;
    this.#log.error({ cause, restartMs: wait }, 'a process of the service died');
    void sleep(wait).then(async () => {
      if (this.#stopping) return;
      // A start that fails ends its child, whose exit brings us here again.
      await this.start().catch((error: unknown) => this.#log.error({ error }, 'the restart failed'));
    });
  }

  get pid(): number {
    return this.#child?.pid ?? 0;
  }

  async stop(): Promise<void> {
    this.#stopping = true;
    const child = this.#child;
    if (!child || child.exitCode !== null || child.signalCode !== null) return;
    const exited = once(child, 'exit');
    if (child.connected) child.send({ type: 'stop' } satisfies SupervisorMessage);
    else child.kill('SIGTERM');
    const gone = await Promise.race([exited.then(() => true), sleep(STOP_MS, false, { ref: false })]);
    if (!gone) {
      this.#log.error({}, 'a process of the service did not stop in time and is killed');
      child.kill('SIGKILL');
      await exited;
    }
  }

  send(message: SupervisorMessage): void {
    if (this.#child?.connected) this.#child.send(message);
  }

  kill(): void {
    this.#stopping = true;
    this.#child?.kill('SIGKILL');
  }
}

/** For the children: tells the supervisor, and hears when it wants an end or is gone. */
export function superviseMe(
  stop: () => Promise<void>,
  hear: (message: SupervisorMessage) => void = () => {},
): (message: ChildMessage) => void {
  let ending = false;
  const end = (): void => {
    if (ending) return;
    ending = true;
    void stop().finally(() => process.exit(0));
  };
  process.on('message', (message: SupervisorMessage) => {
    if (message.type === 'stop') end();
    else hear(message);
  });
  process.on('disconnect', end);
  process.on('SIGTERM', end);
  process.on('SIGINT', end);
  // The supervisor may have died while this process was still starting.
  if (process.channel === undefined || !process.connected) end();
  return (message) => {
    process.send?.(message);
  };
}
