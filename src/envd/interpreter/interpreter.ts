/**
 * E2B's code interpreter, served on the host for one sandbox: /health, /execute, /contexts. Errors are plain text, as its
 * SDKs expect; only a sandbox that is gone is told as the proxy tells it.
 */
import type { IncomingMessage, ServerResponse } from 'node:http';
import { AgentError } from '../../channel/agent.ts';
import type { Log } from '../../telemetry/log.ts';
import { sameSecret } from '../auth.ts';
import { HttpFailure } from '../failures.ts';
import { drainLeftovers, readBody, replyGone } from '../reply.ts';
import { type Context, KernelStartError, SandboxGone, TooManyRuns } from './context.ts';
import { Contexts } from './contexts.ts';
import { ExecutionReply } from './execution-reply.ts';
import { isRecord } from './guest-event.ts';
import { DEFAULT_KERNELS, type KernelSpecs } from './kernels.ts';
import { normalizeLanguage } from './names.ts';
import { DEFAULT_USER, type InterpreterSandbox } from './sandbox.ts';

/** Bytes of a request. The guest takes requests of 64 MiB, and escaping can make one six times as long. */
const MAX_BODY = 8 << 20;
const MAX_ENV_VARS = 1_024;

export interface InterpreterOptions {
  readonly log: Log;
  readonly kernels?: KernelSpecs;
  /** User of the guest that contexts run as. Default `user`. */
  readonly user?: string;
  /** Directory in which contexts begin. Default /home/user. */
  readonly cwd?: string;
  /** ms without output after which /execute says that it is alive. Default 5000. */
  readonly keepaliveMs?: number;
}

export interface Interpreter {
  /** Serves one request. Never throws; a reply that cannot be finished is cut. */
  handle(req: IncomingMessage, res: ServerResponse): Promise<void>;
  /** Lets go of the programs in the guest, which go on. Open replies are cut. */
  close(): void;
}

export function createInterpreter(sandbox: InterpreterSandbox, options: InterpreterOptions): Interpreter {
  const { log, kernels = DEFAULT_KERNELS, user = DEFAULT_USER, cwd, keepaliveMs } = options;
  const contexts = new Contexts({ sandbox, kernels, user, cwd, log });

  const execute = async (req: IncomingMessage, res: ServerResponse): Promise<void> => {
    const begun = performance.now();
    const body = await readJSON(req);
    const { code, contextID, language, envVars } = executeRequest(body);
    const client = new AbortController();
    res.once('close', () => client.abort());
    const context =
      contextID === undefined ? await contexts.default(language ?? 'python') : await found(contexts, contextID);
    await context.ready();
    if (client.signal.aborted) return;
    if (context.full) throw new TooManyRuns('Too many runs are waiting in this context');
    const reply = new ExecutionReply(res, { keepaliveMs });
    let raised: string | undefined;
    try {
      const request = { code, envVars, env: sandbox.env };
      await context.run(
        request,
        (event) => {
          if (event.type === 'error') raised = event.name;
          return reply.send(event);
        },
        client.signal,
      );
      reply.end();
    } catch (failure) {
      log.info({ error: failure, context: context.id }, 'interpreter: a run was cut');
      reply.cut();
    } finally {
      const ms = Math.round(performance.now() - begun);
      const left = client.signal.aborted && !res.writableFinished;
      log.info({ context: context.id, language: context.language, ms, raised, left }, 'execute');
    }
  };

  const createContext = async (req: IncomingMessage, res: ServerResponse): Promise<void> => {
    const body = await readJSON(req);
    const context = await contexts.create(text(body, 'language') ?? 'python', text(body, 'cwd'));
    replyJSON(res, { id: context.id, language: context.language, cwd: context.cwd });
  };

  const route = async (req: IncomingMessage, res: ServerResponse): Promise<void> => {
    const path = (req.url ?? '/').split(/[?#]/, 1)[0]!;
    const method = req.method ?? 'GET';
    refuseTraffic(sandbox, req);
    if (path === '/health' && (method === 'GET' || method === 'HEAD')) return replyJSON(res, 'OK');
    refuseToken(sandbox, req, path === '/execute');
    if (path === '/execute' && method === 'POST') return await execute(req, res);
    if (path === '/contexts' && method === 'POST') return await createContext(req, res);
    if (path === '/contexts' && method === 'GET') return replyJSON(res, await contexts.list());
    const [, encodedID, restart] = /^\/contexts\/([^/]{1,256})(\/restart)?$/.exec(path) ?? [];
    if (encodedID !== undefined && method === (restart === undefined ? 'DELETE' : 'POST')) {
      // The SDKs send no body and say that it is JSON; whatever there is means nothing.
      await readBody(req, MAX_BODY);
      const context = await found(contexts, decoded(encodedID));
      await (restart === undefined ? contexts.remove(context) : context.restart());
      return replyJSON(res, null);
    }
    const known = ['/health', '/execute', '/contexts'].includes(path) || encodedID !== undefined;
    throw known ? new HttpFailure(405, 'Method Not Allowed') : new HttpFailure(404, 'Not Found');
  };

  return {
    async handle(req, res) {
      res.on('error', () => {});
      try {
        await route(req, res);
      } catch (error) {
        replyFailure(sandbox, log, error, res);
      }
      drainLeftovers(req);
    },
    close() {
      contexts.detach();
    },
  };
}

async function found(contexts: Contexts, id: string): Promise<Context> {
  const context = await contexts.find(id);
  if (context === undefined) throw new HttpFailure(404, `Context ${id} not found`);
  return context;
}

function executeRequest(body: Record<string, unknown>) {
  const contextID = text(body, 'context_id');
  const language = text(body, 'language');
  if (contextID !== undefined && language !== undefined) {
    throw new HttpFailure(400, 'Only one of context_id or language can be provided');
  }
  const code = text(body, 'code');
  if (code === undefined) throw new HttpFailure(400, 'code is required');
  const envVars = body.env_vars ?? undefined;
  if (envVars !== undefined) checkEnvVars(envVars);
  return { code, contextID, language: language && normalizeLanguage(language), envVars };
}

function checkEnvVars(value: unknown): asserts value is Record<string, string> {
  if (!isRecord(value)) throw new HttpFailure(400, 'env_vars must be an object');
  const entries = Object.entries(value);
  if (entries.length > MAX_ENV_VARS) throw new HttpFailure(400, `env_vars has more than ${MAX_ENV_VARS} names`);
  for (const [name, item] of entries) {
    if (typeof item !== 'string') throw new HttpFailure(400, `env_vars.${name} must be a string`);
    if (name === '' || /[=\0]/.test(name) || item.includes('\0')) {
      throw new HttpFailure(400, `env_vars.${name} is not a valid environment variable`);
    }
  }
}

/** A string member; null is as absent, and so is an empty name. */
function text(body: Record<string, unknown>, name: string): string | undefined {
  const value = body[name] ?? undefined;
  if (value !== undefined && typeof value !== 'string') throw new HttpFailure(400, `${name} must be a string`);
  return value === '' && name !== 'code' ? undefined : value;
}

async function readJSON(req: IncomingMessage): Promise<Record<string, unknown>> {
  const body = (await readBody(req, MAX_BODY)).toString('utf8').trim();
  if (body === '') return {};
  let value: unknown;
  try {
    value = JSON.parse(body);
  } catch {
    throw new HttpFailure(400, 'the body is not JSON');
  }
  if (!isRecord(value)) throw new HttpFailure(400, 'the body must be a JSON object');
  return value;
}

function decoded(encoded: string): string {
  try {
    return decodeURIComponent(encoded);
  } catch {
    return encoded;
  }
}

function refuseTraffic(sandbox: InterpreterSandbox, req: IncomingMessage): void {
  if (sandbox.trafficAccessToken === undefined) return;
  const given = req.headers['e2b-traffic-access-token'];
  if (typeof given === 'string' && sameSecret(given, sandbox.trafficAccessToken)) return;
  throw new HttpFailure(403, given === undefined ? 'missing traffic access token' : 'invalid traffic access token');
}

/** Released SDKs send the token with /execute only: elsewhere it may be absent, but never wrong. */
function refuseToken(sandbox: InterpreterSandbox, req: IncomingMessage, required: boolean): void {
  if (sandbox.accessToken === undefined) return;
  const given = req.headers['x-access-token'];
  if (given === undefined && !required) return;
  if (typeof given === 'string' && sameSecret(given, sandbox.accessToken)) return;
  throw new HttpFailure(401, given === undefined ? 'missing access token' : 'invalid access token');
}

function replyJSON(res: ServerResponse, value: unknown): void {
  const body = Buffer.from(JSON.stringify(value));
  res.writeHead(200, { 'Content-Type': 'application/json', 'Content-Length': body.byteLength });
  res.end(body);
}

function replyText(res: ServerResponse, status: number, message: string): void {
  if (res.headersSent || res.destroyed) {
    res.destroy();
    return;
  }
  const body = Buffer.from(message);
  res.writeHead(status, { 'Content-Type': 'text/plain; charset=utf-8', 'Content-Length': body.byteLength });
  res.end(body);
}

function replyFailure(sandbox: InterpreterSandbox, log: Log, error: unknown, res: ServerResponse): void {
  if (error instanceof SandboxGone || (error instanceof AgentError && error.code === 'unavailable')) {
    replyGone(res, sandbox.sandboxID);
  } else if (error instanceof HttpFailure) {
    replyText(res, error.status, error.message);
  } else if (error instanceof TooManyRuns) {
    replyText(res, 429, error.message);
  } else if (error instanceof KernelStartError) {
    log.warn({ error }, 'interpreter: a context did not start');
    replyText(res, 500, error.message);
  } else {
    log.error({ error }, 'interpreter: request failed');
    replyText(res, 500, 'internal error');
  }
}
