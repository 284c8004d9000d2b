/** The node process: owns this host's machines; reached by two unix sockets and nothing else. */
import { chmodSync, chownSync, rmSync } from 'node:fs';
import type { Server } from 'node:net';
import { join } from 'node:path';
import { isCoppiceError } from '../contract/errors.ts';
import { createNodeRpcServer } from '../contract/node-rpc/server.ts';
import { openSeed } from '../node/identifiers.ts';
import { Journal } from '../node/journal.ts';
import { Node } from '../node/node.ts';
import { Rows } from '../node/rows.ts';
import { createTraffic } from '../node/traffic-for-node.ts';
import { openHome } from '../store/home.ts';
import { createLog } from '../telemetry/log.ts';
import { makeVolumeImage } from '../volumes/image.ts';
import { createNfsProcess } from '../volumes/nfs/process.ts';
import { accounts, preferMe } from './accounts.ts';
import { openHost } from './host.ts';
import { superviseMe } from './service.ts';
import { readSettings } from './settings.ts';

export async function runNode(options: { readonly home: string }): Promise<void> {
  preferMe();
  const home = openHome(options.home);
  const log = createLog({ name: 'node', file: join(home.logs, 'node.log') });
  try {
    const settings = readSettings();
    const who = accounts();
    const host = openHost(home, log);
    const fabric = await host.openFabric();
    const { backends, status: backendStatus, notices } = await host.measure();
    await fabric.start();
    const templates = await host.builds.ready(backends);
    const rows = new Rows(home.nodeDatabase);
    const journal = new Journal(home.journalDatabase, { log });
    const node = new Node({
      backends,
      backendStatus,
      fabric,
      rows,
      journal,
      templates,
      machinesFolder: home.machines,
      olderBuild: (buildID) => host.builds.find(buildID, backends),
      snapshotsFolder: home.snapshots,
      pausedFolder: home.paused,
      volumes: { folder: home.volumes, sizeMB: settings.volumeMB, makeImage: makeVolumeImage, serve: createNfsProcess },
      building: {
        buildsFolder: home.builds,
        stepsFolder: home.steps,
        uploadsFolder: home.uploads,
        imagesFolder: home.images,
        insecureRegistries: settings.insecureRegistries,
        sweepImages: () => host.builds.sweep(),
      },
      uids: who?.machines,
      seed: openSeed(home.seedFile),
      pool: settings.pool,
      ahead: true,
      ...(settings.memoryBudgetMB === undefined ? {} : { memoryBudgetMB: settings.memoryBudgetMB }),
      notices: [...notices, ...fabric.notices],
      log,
    });
    await node.start();
    const traffic = createTraffic(node, log);
    const rpc = createNodeRpcServer(node, {
      onError: (method, error) => {
        if (!isCoppiceError(error)) log.error({ method, error }, 'a call of the node failed');
      },
    });
    await listen(rpc.server, home.nodeSocket, who?.control);
    await listen(traffic.server, home.trafficSocket, who?.control);
    const tell = superviseMe(async () => {
      rpc.server.close();
      await node.stop();
      rpc.closeAllConnections();
      await traffic.close();
      await fabric.stop();
      journal.close();
      rows.close();
      log.info({}, 'the node stopped');
    });
    tell({ type: 'ready' });
    log.info({ backends: backendStatus, templates: templates.length }, 'the node serves');
  } catch (error) {
    log.error({ error }, 'the node could not start');
    const message = error instanceof Error ? error.message : String(error);
    const suggestion = isCoppiceError(error) ? { suggestion: error.suggestion } : {};
    process.send?.({ type: 'failed', message, ...suggestion }, () => process.exit(1));
  }
}

/** A socket that control may use and nobody else. */
async function listen(server: Server, path: string, owner: number | undefined): Promise<void> {
  rmSync(path, { force: true });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(path, resolve);
  });
  chmodSync(path, 0o600);
  if (owner !== undefined) chownSync(path, owner, owner);
}
