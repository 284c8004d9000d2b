/** The whole service for one row of a rig: started with its own settings, stopped with all it made. */
import { setTimeout as sleep } from 'node:timers/promises';
import { localKey } from '../../src/cli/local-service.ts';
import { Service } from '../../src/cli/service.ts';
import { CoppiceError } from '../../src/contract/errors.ts';
import { connectNodeApi } from '../../src/contract/node-rpc/client.ts';
import type { Home } from '../../src/store/home.ts';
import type { Log } from '../../src/telemetry/log.ts';
import { type Client, createClient } from './client.ts';

export interface RigService {
  readonly client: Client;
  readonly node: ReturnType<typeof connectNodeApi>;
  readonly nodePid: number;
  readonly controlPid: number;
  /** From the start of its processes until they served. */
  readonly startMs: number;
  readonly port: number;
  readonly apiKey: string;
  /** For `Sandbox.create(template, sdk)`. */
  readonly sdk: { readonly apiUrl: string; readonly sandboxUrl: string; readonly apiKey: string };
  /** Resolves when every template has that many hot entries. */
  untilHot(count: number): Promise<void>;
  /** Resolves when the hot tier is as full as what was lately asked for wants it, snapshots' entries included. */
  untilFull(): Promise<void>;
}

export interface RigServiceOptions {
  readonly home: Home;
  readonly log: Log;
  readonly signal: AbortSignal;
  /** Hot entries per template: as many and never more. */
  readonly pool: number;
  /** More than that under demand, and so many of a snapshot. */
  readonly most?: number;
  /** MiB that its sandboxes may claim together; default a share of the host's memory. */
  readonly memoryMB?: number;
  /** Connections of `client`; default 1. */
  readonly connections?: number;
}

const HOT_DEADLINE_MS = 120_000;

export async function withService<T>(options: RigServiceOptions, use: (service: RigService) => Promise<T>): Promise<T> {
  const { home, log, signal, pool, most = pool, memoryMB, connections } = options;
  Object.assign(process.env, { COPPICE_POOL: String(pool), COPPICE_POOL_MOST: String(most) });
  if (memoryMB !== undefined) process.env.COPPICE_MEMORY_MB = String(memoryMB);
  const service = new Service({ home, host: '127.0.0.1', port: 0, log });
  let client: Client | undefined;
  let node: ReturnType<typeof connectNodeApi> | undefined;
  try {
    const begun = performance.now();
    const port = await service.start(signal);
    const startMs = performance.now() - begun;
    const apiKey = localKey(home);
    const url = `http://127.0.0.1:${port}`;
    client = createClient({ port, apiKey, ...(connections === undefined ? {} : { connections }) });
    node = connectNodeApi(home.nodeSocket);
    const { listTemplates, status } = node;
    const full = async (): Promise<boolean> => {
      const { hot, hotTarget } = await status();
      return hot >= hotTarget;
    };
    return await use({
      client,
      node,
      nodePid: service.nodePid,
      controlPid: service.controlPid,
      startMs,
      port,
      apiKey,
      sdk: { apiUrl: url, sandboxUrl: url, apiKey },
      untilHot: (count) => until(async () => (await listTemplates()).every(({ hot }) => hot >= count), signal),
      untilFull: () => until(full, signal),
    });
  } finally {
    client?.close();
    await node?.close();
    await service.stop();
  }
}

async function until(full: () => Promise<boolean>, signal: AbortSignal): Promise<void> {
  const deadline = Date.now() + HOT_DEADLINE_MS;
  for (;;) {
    signal.throwIfAborted();
    if (await full()) return;
    if (Date.now() > deadline)
      throw new CoppiceError('unavailable', `the hot tier did not fill within ${HOT_DEADLINE_MS / 1000} s`);
    await sleep(20);
  }
}
