/** The interpreter over the real agent, for the real SDK; the control plane is two canned replies. */
import { once } from 'node:events';
import http from 'node:http';
import type { AddressInfo } from 'node:net';
import { createInterpreter, type KernelSpecs } from '../../src/envd/interpreter/index.ts';
import { silentLog } from '../../src/telemetry/log.ts';
import { type HostAgent, startHostAgent } from './host-agent.ts';

const SANDBOX = {
  templateID: 'code-interpreter-v1',
  sandboxID: 'isdktest000000000000',
  clientID: '6532622b',
  envdVersion: '0.6.13',
  envdAccessToken: 'the-token',
};

export interface SdkInterpreter {
  readonly agent: HostAgent;
  /** What `Sandbox.create` is to be called with. */
  readonly connection: {
    readonly apiUrl: string;
    readonly sandboxUrl: string;
    readonly apiKey: string;
    readonly requestTimeoutMs: number;
  };
  stop(): Promise<void>;
}

export async function serveSdkInterpreter(languages: readonly string[], kernels: KernelSpecs): Promise<SdkInterpreter> {
  const agent = await startHostAgent();
  const interpreter = createInterpreter(
    {
      sandboxID: SANDBOX.sandboxID,
      accessToken: SANDBOX.envdAccessToken,
      agent: () => agent.client,
      env: { AT_CREATE: 'env' },
      languages,
    },
    { log: silentLog, kernels, cwd: `${agent.root}/home/user` },
  );
  const server = http.createServer((req, res) => {
    if (req.headers['e2b-sandbox-port'] === '49999') return void interpreter.handle(req, res);
    const created = req.method === 'POST' && req.url === '/v2/sandboxes';
    res.writeHead(created ? 201 : 404, { 'content-type': 'application/json' });
    res.end(JSON.stringify(created ? SANDBOX : { code: 404, message: 'not here' }));
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  return {
    agent,
    connection: { apiUrl: url, sandboxUrl: url, apiKey: `e2b_${'0'.repeat(40)}`, requestTimeoutMs: 10_000 },
    async stop() {
      interpreter.close();
      server.closeAllConnections();
      server.close();
      await agent.stop();
    },
  };
}
