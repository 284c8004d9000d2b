/** The control process: API, edge and keys on one port. Begins as root only to bind and open, then becomes nobody. */
import { chownSync, existsSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { createApi } from '../api/create-api.ts';
import { answerClientError } from '../api/errors.ts';
import { connectNodeApi } from '../contract/node-rpc/client.ts';
import { openControlStore } from '../control/control-store.ts';
import { ensureLocalKey } from '../control/local-key.ts';
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
    const apiKey = ensureLocalKey(store, home.folder);
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
    const address = server.address() as AddressInfo;
    tell({ type: 'ready', port: address.port });
    log.info({ host: options.host, port: options.port }, 'control serves');
    // A service that ends meanwhile cuts it short, and nothing depends on it.
    await rehearse(address, apiKey).catch(() => {});
  } catch (error) {
    log.error({ error }, 'control could not start');
    process.send?.({ type: 'failed', message: explain(error, options) }, () => process.exit(1));
  }
}

/** Creates that are asked for while nobody waits. */
const REHEARSALS = 300;

/**
 * The first creates would otherwise pay for code that no one has run: the runtimes of control and node compile what is
 * called often. The template asked for does not exist, so each is refused and nothing is done.
 */
async function rehearse({ address, family, port }: AddressInfo, apiKey: string): Promise<void> {
  const host =
    address === '0.0.0.0' ? '127.0.0.1' : address === '::' ? '[::1]' : family === 'IPv6' ? `[${address}]` : address;
  const body = JSON.stringify({
    templateID: 'rehearsal',
    timeout: 60,
    metadata: { key: 'value' },
    envVars: { KEY: 'value' },
  });
  const headers = { 'X-API-Key': apiKey, 'Content-Type': 'application/json', 'User-Agent': 'coppice-rehearsal' };
  for (let count = 0; count < REHEARSALS; count++) {
    const response = await fetch(`http://${host}:${port}/v2/sandboxes`, { method: 'POST', headers, body });
    await response.arrayBuffer();
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
