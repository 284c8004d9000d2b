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
  readonly port: number;
  readonly apiKey: string;
  /** For `Sandbox.create(template, sdk)`. */
  readonly sdk: { readonly apiUrl: string; readonly sandboxUrl: string; readonly apiKey: string };
  /** Resolves when every template has that many hot entries. */
  untilHot(count: number): Promise<void>;
}

export interface RigServiceOptions {
  readonly home: Home;
  readonly log: Log;
  readonly signal: AbortSignal;
  /** Hot entries per template: as many and never more. */
  readonly pool: number;
  /** Connections of `client`; default 1. */
  readonly connections?: number;
}

const HOT_DEADLINE_MS = 120_000;

export async function withService<T>(options: RigServiceOptions, use: (service: RigService) => Promise<T>): Promise<T> {
  const { home, log, signal, pool, connections } = options;
  Object.assign(process.env, { COPPICE_POOL: String(pool), COPPICE_POOL_MOST: String(pool) });
  const service = new Service({ home, host: '127.0.0.1', port: 0, log });
  let client: Client | undefined;
  let node: ReturnType<typeof connectNodeApi> | undefined;
  try {
    const port = await service.start(signal);
    const apiKey = localKey(home);
    const url = `http://127.0.0.1:${port}`;
    client = createClient({ port, apiKey, ...(connections === undefined ? {} : { connections }) });
    node = connectNodeApi(home.nodeSocket);
    const { listTemplates } = node;
    return await use({
      client,
      node,
      nodePid: service.nodePid,
      port,
      apiKey,
      sdk: { apiUrl: url, sandboxUrl: url, apiKey },
      untilHot: (count) => untilHot(listTemplates, count, signal),
    });
  } finally {
    client?.close();
    await node?.close();
    await service.stop();
  }
}

async function untilHot(
  listTemplates: () => Promise<readonly { readonly hot: number }[]>,
  count: number,
  signal: AbortSignal,
): Promise<void> {
  const deadline = Date.now() + HOT_DEADLINE_MS;
  for (;;) {
    signal.throwIfAborted();
    if ((await listTemplates()).every(({ hot }) => hot >= count)) return;
    if (Date.now() > deadline)
      throw new CoppiceError('unavailable', `the hot tier did not fill within ${HOT_DEADLINE_MS / 1000} s`);
    await sleep(20);
  }
}
