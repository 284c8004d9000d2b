/** A node's API over its socket, for the tests of what survives the trip. */
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import type { CreateSandboxRequest, NodeApi, Receipt, SandboxView } from '../../src/contract/node-api.ts';
import { connectNodeApi } from '../../src/contract/node-rpc/client.ts';
import { createNodeRpcServer } from '../../src/contract/node-rpc/server.ts';

export const view: SandboxView = {
  sandboxID: 'i0123456789abcdefghij',
  teamID: 'team',
  templateID: 'tpl',
  state: 'running',
  startedAtMs: 1_795_296_701_123.25,
  endAtMs: 2 ** 53 - 1,
  onTimeout: 'pause',
  autoResume: true,
  cpuCount: 2,
  memoryMB: 512,
  diskSizeMB: 1024,
  envdVersion: '0.6.13',
  metadata: {},
  publicTraffic: true,
  volumeMounts: [{ name: 'shared', path: '/srv/shared' }],
  isolation: 'jail',
  generation: '5d7a0a0e-8a64-4a8c-9f0e-0d9a7f0d3a11',
};

export const captured: Receipt = { verb: 'pause', totalMs: 7.5, stages: [{ name: 'capture', ms: 5 }], pauseMs: 0 };
export const restored: Receipt = { verb: 'resume', path: 'shell', totalMs: 3, stages: [] };

export const wanted = (): CreateSandboxRequest => ({
  teamID: 'team',
  template: 'base:latest',
  timeoutSeconds: 300,
  secure: true,
  metadata: {},
  envVars: {},
  network: {},
});

const unused = (): never => {
  throw new Error('not expected in this test');
};

/** A node that has these methods, behind its socket, and a client of it. */
export async function serve(t: TestContext, api: Partial<NodeApi>, seen: unknown[] = []) {
  const whole = new Proxy(api, { get: (given, name) => Reflect.get(given, name) ?? unused }) as NodeApi;
  const folder = await mkdtemp(join(tmpdir(), 'node-rpc-'));
  const path = join(folder, 'node.sock');
  const { server, closeAllConnections } = createNodeRpcServer(whole, {
    onError: (method, error) => seen.push([method, error]),
  });
  server.listen(path);
  await once(server, 'listening');
  const client = connectNodeApi(path);
  t.after(async () => {
    client.close();
    closeAllConnections();
    server.close();
    await rm(folder, { recursive: true, force: true });
  });
  return { client, path, server, closeAllConnections };
}

/** Methods that answer always the same, and what they were called with. */
export function recorder() {
  const calls: unknown[] = [];
  const note =
    <T>(answer: T) =>
    async (...args: unknown[]): Promise<T> => {
      calls.push(args);
      return answer;
    };
  return { calls, note };
}
