/** The control process: API, edge and keys on one port. Begins as root only to bind and open, then becomes nobody. */
import { chownSync, existsSync } from 'node:fs';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { createApi } from '../api/create-api.ts';
import { answerClientError } from '../api/errors.ts';
import { CoppiceError } from '../contract/errors.ts';
import { connectNodeApi } from '../contract/node-rpc/client.ts';
import { ensureAdminToken } from '../control/admin-token.ts';
import { openControlStore } from '../control/control-store.ts';
import { ensureLocalKey } from '../control/local-key.ts';
import { startPostman } from '../control/postman.ts';
import { createTeamMeter } from '../control/team-meter.ts';
import { secretKeyPath } from '../control/team-secrets.ts';
import { createWebhookAddresses } from '../control/webhook-addresses.ts';
import { readCertificate } from '../edge/certificate.ts';
import { createListener } from '../edge/listener.ts';
import { createEdge } from '../edge/proxy.ts';
import { type Home, openHome } from '../store/home.ts';
import { createLog } from '../telemetry/log.ts';
import { accounts, preferMe } from './accounts.ts';
import { publicDomain } from './client-environment.ts';
import { rehearse } from './rehearse.ts';
import { superviseMe } from './service.ts';
import { reachable, readSettings, withoutPort } from './settings.ts';

export interface RunControlOptions {
  readonly home: string;
  readonly host: string;
  readonly port: number;
  /** Both or none: files that the supervisor has found fit. */
  readonly tlsCert?: string;
  readonly tlsKey?: string;
}

export async function runControl(options: RunControlOptions): Promise<void> {
  preferMe();
  const home = openHome(options.home);
  const log = createLog({ name: 'control', file: join(home.logs, 'control.log') });
  try {
    const settings = readSettings(options);
    const domain = settings.domains[0];
    const { tls } = settings;
    if (tls === 'own') throw new CoppiceError('internal', 'whoever starts control with TLS gives it the files');
    const certificate = tls && readCertificate(tls, settings.domains.map(withoutPort));
    const { server, renew } = createListener({ log, ...(certificate ? { certificate } : {}) });
    const store = openControlStore(home.controlDatabase);
    const apiKey = ensureLocalKey(store, home.folder);
    ensureAdminToken(store.admin, home.folder);
    const node = connectNodeApi(home.nodeSocket);
    const webhookAddresses = createWebhookAddresses(settings.webhookAllow);
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject);
      server.listen(options.port, options.host, resolve);
    });
    const { address, port } = server.address() as AddressInfo;
    // From here to the handlers nothing is waited for: no connection can come before them.
    const api = createApi({
      node,
      store,
      home: home.folder,
      trafficSocket: home.trafficSocket,
      webhookAddresses,
      log,
      ...(domain ? { domain: certificate ? publicDomain(domain, port) : domain } : {}),
    });
    const meter = createTeamMeter(node, store);
    const postman = startPostman({ node, store, addresses: webhookAddresses, log });
    const edge = createEdge({ api, trafficSocket: home.trafficSocket, domains: settings.domains, log });
    edge.attach(server);
    server.on('clientError', answerClientError);
    const tell = superviseMe(
      async () => {
        server.close();
        meter.close();
        await postman.close();
        await edge.close();
        await api.close();
        server.closeAllConnections();
        await node.close();
        store.close();
      },
      (message) => {
        if (message.type === 'certificate') renew(message);
      },
    );
    becomeNobody(home);
    tell({ type: 'ready', port });
    log.info({ host: options.host, port, tls: certificate !== undefined }, 'control serves');
    // A service that ends meanwhile cuts it short, and nothing depends on it.
    await rehearse({
      address: reachable(address),
      port,
      apiKey,
      ...(certificate && domain ? { tls: { certificate, name: `api.${withoutPort(domain)}` } } : {}),
    }).catch(() => {});
  } catch (error) {
    log.error({ error }, 'control could not start');
    process.send?.({ type: 'failed', message: explain(error, options) }, () => process.exit(1));
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
  const { controlDatabase } = home;
  const beside = [`${controlDatabase}-wal`, `${controlDatabase}-shm`, secretKeyPath(controlDatabase)];
  for (const path of [join(controlDatabase, '..'), controlDatabase, ...beside]) {
    if (existsSync(path)) chownSync(path, who.control, who.control);
  }
  process.setgroups!([]);
  process.setgid!(who.control);
  process.setuid!(who.control);
}
