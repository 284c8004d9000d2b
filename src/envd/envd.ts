/**
 * E2B's in-sandbox API, served on the host over the channel: one envd per sandbox. It routes, checks who calls, and hands
 * on; it holds no truth about the sandbox, so it may be made anew at any time.
 */
import type { IncomingMessage, ServerResponse } from 'node:http';
import { AgentError } from '../channel/agent.ts';
import type { Log } from '../telemetry/log.ts';
import { queryOf, refuseFileAccess, refuseToken } from './auth.ts';
import { serveCompose } from './compose.ts';
import { serveDownload } from './download.ts';
import { isAbort, toHttpFailure } from './failures.ts';
import { createProcessHub, type ProcessHub } from './process-hub.ts';
import { overhear } from './process-notes.ts';
import { allowAnyOrigin, drainLeftovers, replyError, replyGone, replyJSON, replyPreflight } from './reply.ts';
import { rpcHandler, serveRPC } from './rpc.ts';
import type { EnvdSandbox } from './sandbox.ts';
import { serveUpload } from './upload.ts';
import { createWatchers, type Watchers } from './watchers.ts';

export { matchesSignature, type SignatureVerdict, signFileURL } from './auth.ts';
export type { EnvdSandbox } from './sandbox.ts';

export interface Envd {
  /** Serves one HTTP/1.1 request: a listener for node:http. Never throws. After `close`: 502, as for an unknown sandbox. */
  handle(req: IncomingMessage, res: ServerResponse): void;
  /** Ends every stream and watcher and cuts the connections that wait for an answer. Idempotent. */
  close(reason: Error): void;
}

/** Paths that E2B's orchestrator calls from within; from outside they do not exist. */
const RESERVED: ReadonlySet<string> = new Set(['/init', '/freeze', '/unfreeze', '/collapse', '/fsfreeze', '/fsthaw']);

interface Call {
  readonly req: IncomingMessage;
  readonly res: ServerResponse;
  readonly target: string;
}

/** The methods that each REST path has. */
type Route = Readonly<Record<string, (envd: SandboxEnvd, call: Call) => Promise<void> | void>>;

const ROUTES: ReadonlyMap<string, Route> = new Map<string, Route>([
  ['/health', { GET: (envd, call) => envd.health(call) }],
  ['/metrics', { GET: (envd, call) => envd.metrics(call) }],
  ['/envs', { GET: (envd, call) => envd.envs(call) }],
  ['/files', { GET: (envd, call) => envd.download(call), POST: (envd, call) => envd.upload(call) }],
  ['/files/compose', { POST: (envd, call) => envd.compose(call) }],
]);

export function createEnvd(sandbox: EnvdSandbox, options: { readonly log: Log }): Envd {
  return new SandboxEnvd(sandbox, options.log);
}

class SandboxEnvd implements Envd {
  readonly #sandbox: EnvdSandbox;
  readonly #log: Log;
  readonly #open = new Set<ServerResponse>();
  #processes: ProcessHub | undefined;
  #watchers: Watchers | undefined;
  #closed: Error | undefined;

  constructor(sandbox: EnvdSandbox, log: Log) {
    this.#sandbox = sandbox;
    this.#log = log;
  }

  handle(req: IncomingMessage, res: ServerResponse): void {
    req.on('error', () => {});
    res.on('error', () => {});
    this.#open.add(res);
    res.once('close', () => this.#open.delete(res));
    res.once('finish', () => drainLeftovers(req));
    try {
      allowAnyOrigin(res);
      const served = this.#route({ req, res, target: req.url ?? '/' });
      if (served) served.catch((error: unknown) => this.#fail(req, res, error));
    } catch (error) {
      this.#fail(req, res, error);
    }
  }

  close(reason: Error): void {
    if (this.#closed) return;
    this.#closed = reason;
    const gone = new AgentError('unavailable', 'the sandbox is gone', { cause: reason });
    for (const res of this.#open) (res.req.socket ?? res).destroy();
    this.#open.clear();
    this.#processes?.close(gone);
    this.#watchers?.close(gone);
  }

  #route(call: Call): Promise<void> | void {
    const { req, res, target } = call;
    if (this.#closed) return replyGone(res, this.#sandbox.sandboxID);
    const question = target.indexOf('?');
    const path = question === -1 ? target : target.slice(0, question);
    const method = req.method ?? 'GET';
    if (method === 'OPTIONS') return replyPreflight(req, res);
    const rpc = rpcHandler(path);
    if (rpc) {
      if (!this.#admit(call)) return;
      return serveRPC(rpc, req, res, this.#parts(), this.#log);
    }
    if (RESERVED.has(path)) return replyError(res, 404, `${path} is reserved for the E2B control plane`);
    const route = ROUTES.get(path);
    if (!route) return replyError(res, 404, 'no such route in the sandbox API');
    const serve = Object.hasOwn(route, method) ? route[method] : undefined;
    if (!serve) {
      res.setHeader('Allow', Object.keys(route).join(', '));
      return replyError(res, 405, `${path} does not take ${method}`);
    }
    return serve(this, call);
  }

  /** True when the token is right; otherwise the 401 has been sent. */
  #admit({ req, res }: Call): boolean {
    const refusal = refuseToken(this.#sandbox, req);
    if (refusal !== undefined) replyError(res, 401, refusal);
    return refusal === undefined;
  }

  #parts() {
    this.#processes ??= createProcessHub({
      agent: () => this.#sandbox.agent(),
      overhear: (pid, request) => overhear(this.#sandbox, pid, request),
      log: this.#log,
    });
    this.#watchers ??= createWatchers();
    return { sandbox: this.#sandbox, processes: this.#processes, watchers: this.#watchers };
  }

  health({ res }: Call): void {
    res.writeHead(204, { 'Cache-Control': 'no-store' });
    res.end();
  }

  async metrics(call: Call): Promise<void> {
    if (!this.#admit(call)) return;
    const agent = await this.#sandbox.agent();
    const metrics = await agent.metrics(leaving(call.res));
    const mib = (bytes: number): number => Math.floor(bytes / 1024 ** 2);
    replyJSON(call.res, 200, {
      ts: Math.floor(Date.now() / 1_000),
      cpu_count: metrics.cpuCount,
      cpu_used_pct: metrics.cpuUsedPct,
      mem_total: metrics.memTotal,
      mem_used: metrics.memUsed,
      mem_cache: metrics.memCache,
      mem_total_mib: mib(metrics.memTotal),
      mem_used_mib: mib(metrics.memUsed),
      disk_used: metrics.diskUsed,
      disk_total: metrics.diskTotal,
    });
  }

  envs(call: Call): void {
    if (this.#admit(call)) replyJSON(call.res, 200, this.#sandbox.env);
  }

  async download({ req, res, target }: Call): Promise<void> {
    const query = queryOf(target);
    const refusal = refuseFileAccess(this.#sandbox, req, query, 'read');
    if (refusal !== undefined) return replyError(res, 401, refusal);
    await serveDownload(this.#sandbox, req, res, query, leaving(res));
  }

  async upload({ req, res, target }: Call): Promise<void> {
    const query = queryOf(target);
    const refusal = refuseFileAccess(this.#sandbox, req, query, 'write');
    if (refusal !== undefined) return replyError(res, 401, refusal);
    await serveUpload(this.#sandbox, req, res, query, leaving(res));
  }

  async compose(call: Call): Promise<void> {
    if (this.#admit(call)) await serveCompose(this.#sandbox, call.req, call.res);
  }

  #fail(req: IncomingMessage, res: ServerResponse, error: unknown): void {
    if (res.destroyed || res.writableEnded) return;
    if (this.#closed) {
      replyGone(res, this.#sandbox.sandboxID);
      return;
    }
    const writes = req.method === 'POST';
    const { status, message, known } = toHttpFailure(error, { writes });
    if (!known && !isAbort(error))
      this.#log.warn({ method: req.method, path: req.url?.split('?', 1)[0], error }, 'envd request failed');
    if (status === 502) replyGone(res, this.#sandbox.sandboxID);
    else replyError(res, status, message);
  }
}

/** Aborts when the connection of this reply has gone, or the reply was ended. */
function leaving(res: ServerResponse): AbortSignal {
  const controller = new AbortController();
  res.once('close', () => controller.abort());
  return controller.signal;
}
