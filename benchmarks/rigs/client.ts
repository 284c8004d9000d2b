/** The rigs' own client of the API: one keep-alive connection a client, as plain as HTTP can be. */
import { Agent, request } from 'node:http';

export interface Answer {
  readonly status: number;
  readonly text: string;
  readonly body: { readonly sandboxID: string; readonly envdAccessToken?: string };
  /** The server's own stages, ms, from Server-Timing. */
  readonly timing: Readonly<Record<string, number>>;
}

export interface Client {
  call(method: string, path: string, body?: unknown): Promise<Answer>;
  /** The sandbox's id and the server's stages; throws what the service said when it is not a 201. */
  create(template: string, timeoutSeconds: number): Promise<Answer>;
  /** What is needed to speak to one that stands already. */
  connect(sandboxID: string, timeoutSeconds: number): Promise<{ sandboxID: string; accessToken?: string }>;
  kill(sandboxID: string): Promise<void>;
  close(): void;
}

export interface ClientOptions {
  readonly port: number;
  readonly apiKey: string;
  /** Connections kept; default 1. */
  readonly connections?: number;
}

export function createClient({ port, apiKey, connections = 1 }: ClientOptions): Client {
  const agent = new Agent({ keepAlive: true, maxSockets: connections });
  const call = (method: string, path: string, body?: unknown): Promise<Answer> =>
    new Promise((resolve, reject) => {
      const payload = body === undefined ? undefined : JSON.stringify(body);
      const headers = {
        'X-API-Key': apiKey,
        ...(payload === undefined
          ? {}
          : { 'Content-Type': 'application/json', 'Content-Length': Buffer.byteLength(payload) }),
      };
      const req = request({ agent, host: '127.0.0.1', port, method, path, headers }, (res) => {
        const chunks: Buffer[] = [];
        res.on('data', (chunk: Buffer) => chunks.push(chunk));
        res.on('end', () => {
          const text = Buffer.concat(chunks).toString();
          const timing = Object.fromEntries(
            String(res.headers['server-timing'] ?? '')
              .split(',')
              .map((part) => /^\s*([\w-]+)\s*;.*dur=([\d.]+)/.exec(part))
              .filter((match) => match !== null)
              .map((match) => [match[1]!, Number(match[2])]),
          );
          resolve({ status: res.statusCode ?? 0, text, body: text ? JSON.parse(text) : {}, timing });
        });
        res.on('error', reject);
      });
      req.on('error', reject);
      req.end(payload);
    });
  return {
    call,
    async create(templateID, timeout) {
      const answer = await call('POST', '/v2/sandboxes', { templateID, timeout });
      if (answer.status !== 201) throw new Error(`create answered ${answer.status}: ${answer.text}`);
      return answer;
    },
    async connect(sandboxID, timeout) {
      const { status, text, body } = await call('POST', `/v2/sandboxes/${sandboxID}/connect`, { timeout });
      if (status !== 200) throw new Error(`connect answered ${status}: ${text}`);
      const { envdAccessToken } = body;
      return { sandboxID, ...(envdAccessToken === undefined ? {} : { accessToken: envdAccessToken }) };
    },
    async kill(sandboxID) {
      const { status, text } = await call('DELETE', `/sandboxes/${sandboxID}`);
      if (status !== 204) throw new Error(`kill answered ${status}: ${text}`);
    },
    close: () => agent.destroy(),
  };
}
