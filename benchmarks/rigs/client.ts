/** The rigs' own client of the API: one keep-alive connection a client, as plain as HTTP can be. */
import { Agent, request } from 'node:http';
import type { Receipt } from '../../src/contract/node-api.ts';

export interface Answer {
  readonly status: number;
  readonly text: string;
  readonly body: { readonly sandboxID: string; readonly envdAccessToken?: string };
  /** The server's own stages, ms, from Server-Timing. */
  readonly timing: Readonly<Record<string, number>>;
  /** How a create came by its machine. */
  readonly path?: NonNullable<Receipt['path']>;
}

export interface Client {
  call(method: string, path: string, body?: unknown): Promise<Answer>;
  /** As `call`; throws what the service said when it answers with another status. */
  ask(status: number, method: string, path: string, body?: unknown): Promise<Answer>;
  /** The sandbox's id and the server's stages. `more`: other members of the request. */
  create(template: string, timeoutSeconds: number, more?: Readonly<Record<string, unknown>>): Promise<Answer>;
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
          const stages = String(res.headers['server-timing'] ?? '');
          const timing = Object.fromEntries(
            stages
              .split(',')
              .map((part) => /^\s*([\w-]+)\s*;.*dur=([\d.]+)/.exec(part))
              .filter((match) => match !== null)
              .map((match) => [match[1]!, Number(match[2])]),
          );
          const path = /;desc="(hot|shell|cold)"/.exec(stages)?.[1] as Answer['path'];
          const answer = { status: res.statusCode ?? 0, text, body: text ? JSON.parse(text) : {}, timing };
          resolve(path === undefined ? answer : { ...answer, path });
        });
        res.on('error', reject);
      });
      req.on('error', reject);
      req.end(payload);
    });
  const ask = async (status: number, method: string, path: string, body?: unknown): Promise<Answer> => {
    const answer = await call(method, path, body);
    if (answer.status !== status) throw new Error(`${method} ${path} answered ${answer.status}: ${answer.text}`);
    return answer;
  };
  return {
    call,
    ask,
    create: (templateID, timeout, more = {}) => ask(201, 'POST', '/v2/sandboxes', { templateID, timeout, ...more }),
    async connect(sandboxID, timeout) {
      const { body } = await ask(200, 'POST', `/v2/sandboxes/${sandboxID}/connect`, { timeout });
      const { envdAccessToken } = body;
      return { sandboxID, ...(envdAccessToken === undefined ? {} : { accessToken: envdAccessToken }) };
    },
    async kill(sandboxID) {
      await ask(204, 'DELETE', `/sandboxes/${sandboxID}`);
    },
    close: () => agent.destroy(),
  };
}
