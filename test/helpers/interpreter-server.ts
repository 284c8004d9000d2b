/** The interpreter's HTTP side on loopback, and a client that reads its streams line by line. */
import { once } from 'node:events';
import http from 'node:http';
import type { AddressInfo } from 'node:net';
import type { AgentClient } from '../../src/channel/agent.ts';
import { createInterpreter, type Interpreter, type InterpreterOptions } from '../../src/envd/interpreter/index.ts';
import { silentLog } from '../../src/telemetry/log.ts';
import { KERNELS, type Loose } from './interpreter-python.ts';

export type Line = { readonly type: string } & Record<string, Loose>;

export interface InterpreterServer {
  readonly url: string;
  readonly interpreter: Interpreter;
  readonly execute: (body: Record<string, unknown>, headers?: Record<string, string>) => Promise<Line[]>;
  readonly createContext: (body?: Record<string, unknown>) => Promise<{ id: string; language: string; cwd: string }>;
  readonly fetch: (path: string, init?: RequestInit) => Promise<{ status: number; text: string }>;
  stop(): Promise<void>;
}

export async function serveInterpreter(
  agent: () => AgentClient | Promise<AgentClient>,
  options: Partial<InterpreterOptions> & {
    readonly cwd: string;
    readonly env?: Record<string, string>;
    readonly accessToken?: string;
    readonly trafficAccessToken?: string;
    readonly languages?: readonly string[];
  },
): Promise<InterpreterServer> {
  const { env = {}, accessToken, trafficAccessToken, languages = ['python'], ...more } = options;
  const interpreter = createInterpreter(
    { sandboxID: 'itest', agent, env, languages, accessToken, trafficAccessToken },
    { log: silentLog, kernels: KERNELS, ...more },
  );
  const server = http.createServer((req, res) => void interpreter.handle(req, res));
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const request = async (path: string, init?: RequestInit): Promise<{ status: number; text: string }> => {
    const response = await fetch(url + path, init);
    return { status: response.status, text: await response.text() };
  };
  const post = async (path: string, body: Record<string, unknown>, headers: Record<string, string> = {}) => {
    const { status, text } = await request(path, {
      method: 'POST',
      headers: { 'content-type': 'application/json', ...headers },
      body: JSON.stringify(body),
    });
    if (status !== 200) throw new Error(`${status} ${text}`);
    return text;
  };
  return {
    url,
    interpreter,
    fetch: request,
    async execute(body, headers = {}) {
      return (await post('/execute', body, headers))
        .trimEnd()
        .split('\n')
        .map((line) => JSON.parse(line) as Line);
    },
    async createContext(body = {}) {
      return JSON.parse(await post('/contexts', body));
    },
    async stop() {
      interpreter.close();
      server.closeAllConnections();
      server.close();
      await once(server, 'close');
    },
  };
}

/** Sends a run and gives its lines one by one; `abort` is what an SDK does when its time is over. */
export async function openExecution(url: string, body: Record<string, unknown>) {
  const controller = new AbortController();
  const response = await fetch(`${url}/execute`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify(body),
    signal: controller.signal,
  });
  const lines = readLines(response.body!);
  return {
    status: response.status,
    /** Kept: fetch cancels an unread body when its response is garbage. */
    response,
    next: async (): Promise<Line> => {
      const { value, done } = await lines.next();
      if (done) throw new Error('the stream ended');
      return value;
    },
    abort: () => controller.abort(),
  };
}

async function* readLines(body: ReadableStream<Uint8Array>): AsyncGenerator<Line> {
  const decoder = new TextDecoder();
  let rest = '';
  for await (const chunk of body) {
    rest += decoder.decode(chunk, { stream: true });
    for (let end = rest.indexOf('\n'); end !== -1; end = rest.indexOf('\n')) {
      yield JSON.parse(rest.slice(0, end)) as Line;
      rest = rest.slice(end + 1);
    }
  }
}

export const stdoutOf = (lines: readonly Line[]): string =>
  lines
    .filter((line) => line.type === 'stdout')
    .map((line) => line.text)
    .join('');
export const mainText = (lines: readonly Line[]): string | undefined =>
  lines.find((line) => line.type === 'result' && line.is_main_result)?.text;
export const errorLine = (lines: readonly Line[]): Line | undefined => lines.find((line) => line.type === 'error');
