/** The control process: API, edge and keys on one port. Begins as root only to bind and open, then becomes nobody. */
import { chownSync, existsSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { createApi } from '../api/create-api.ts';
import { answerClientError } from '../api/errors.ts';
import type { CreateSandboxRequest, NodeApi } from '../contract/node-api.ts';
import { connectNodeApi } from '../contract/node-rpc/client.ts';
import { openControlStore } from '../control/control-store.ts';
import { createEdge } from '../edge/proxy.ts';
import { type Home, openHome } from '../store/home.ts';
import { createLog } from '../telemetry/log.ts';
import { accounts, preferMe } from './accounts.ts';
import { superviseMe } from './service.ts';
import { readSettings } from './settings.ts';

export async function runControl(options: {
  readonly home: string;
  readonly host: string;
  readonly port: number;
}): Promise<void> {
  preferMe();
  const home = openHome(options.home);
  const log = createLog({ name: 'control', file: join(home.logs, 'control.log') });
  const settings = readSettings(options);
  const server = createServer();
  try {
    const store = openControlStore(home.controlDatabase);
    const node = connectNodeApi(home.nodeSocket);
    const api = createApi({
      node,
      keys: store.keys,
      idempotency: store.idempotency,
      log,
      ...(settings.domains[0] ? { domain: settings.domains[0] } : {}),
    });
    const edge = createEdge({ api, trafficSocket: home.trafficSocket, domains: settings.domains, log });
    edge.attach(server);
    server.on('clientError', answerClientError);
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject);
      server.listen(options.port, options.host, resolve);
    });
    const tell = superviseMe(async () => {
      server.close();
      await edge.close();
      await api.close();
      server.closeAllConnections();
      await node.close();
      store.close();
    });
    becomeNobody(home);
    tell({ type: 'ready', port: (server.address() as AddressInfo).port });
    log.info({ host: options.host, port: options.port }, 'control serves');
    await rehearse(node);
  } catch (error) {
    log.error({ error }, 'control could not start');
    process.send?.({ type: 'failed', message: explain(error, options) }, () => process.exit(1));
  }
}

/** Calls of the node that are made while nobody waits. */
const REHEARSALS = 300;

/**
 * The first creates would otherwise pay for code that no one has run: the runtimes of control and node compile what is
 * called often. The template asked for cannot exist, so the node refuses each call and does nothing.
 */
async function rehearse(node: Pick<NodeApi, 'createSandbox' | 'status'>): Promise<void> {
  const request: CreateSandboxRequest = {
    teamID: 'rehearsal',
    template: '',
    timeoutSeconds: 1,
    secure: true,
    metadata: { key: 'value' },
    envVars: { KEY: 'value' },
    network: {},
  };
  for (let count = 0; count < REHEARSALS; count++) {
    await node.createSandbox(request).catch(() => {});
    await node.status().catch(() => {});
  }
}

function explain(error: unknown, options: { readonly host: string; readonly port: number }): string {
  const { code, message } = error as NodeJS.ErrnoException;
  if (code === 'EADDRINUSE') return `port ${options.port} on ${options.host} is taken; set COPPICE_PORT or pass --port`;
  return message;
}

/** What faces clients holds no root: everything it opens later is reachable for this user or not at all. */
function becomeNobody(home: Home): void {
  const who = accounts();
  if (!who) return;
  const folder = join(home.controlDatabase, '..');
  for (const path of [folder, home.controlDatabase, `${home.controlDatabase}-wal`, `${home.controlDatabase}-shm`]) {
    if (existsSync(path)) chownSync(path, who.control, who.control);
  }
  process.setgroups!([]);
  process.setgid!(who.control);
  process.setuid!(who.control);
}
