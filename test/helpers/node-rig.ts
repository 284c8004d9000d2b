/** A Node on a FakeHost, restartable. */
import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { CreateSandboxRequest } from '../../src/contract/node-api.ts';
import { Node, type NodeOptions } from '../../src/node/node.ts';
import { Rows } from '../../src/node/rows.ts';
import { silentLog } from '../../src/telemetry/log.ts';
import { FakeHost, fakeTemplate } from './fake-backend.ts';

export const TEAM = 'aaaaaaaa-0000-4000-8000-000000000001';
export const OTHER_TEAM = 'aaaaaaaa-0000-4000-8000-000000000002';

/** One root filesystem, as a microVM and as a jail. */
export const BOTH_KINDS = [fakeTemplate('base'), fakeTemplate('base-jail', { isolation: 'jail', family: 'base' })];

export interface NodeRig {
  readonly host: FakeHost;
  readonly snapshotsFolder: string;
  node: Node;
  rows: Rows;
  /** As kill -9: the Node is forgotten as it stands, another begins on its rows. */
  crash(): Promise<void>;
  end(): Promise<void>;
}

export async function startNodeRig(options: Partial<NodeOptions> = {}): Promise<NodeRig> {
  const folder = await mkdtemp(join(tmpdir(), 'coppice-node-'));
  const host = new FakeHost();
  const file = join(folder, 'node.db');
  const open = async (): Promise<{ node: Node; rows: Rows }> => {
    const rows = new Rows(file);
    const node = new Node({
      ...host.drive(),
      backendStatus: [{ isolation: 'microvm', backend: 'fake', accelerator: 'fake' }],
      rows,
      templates: [fakeTemplate('base'), fakeTemplate('other')],
      machinesFolder: join(folder, 'machines'),
      snapshotsFolder: join(folder, 'snapshots'),
      uids: { microvm: { first: 60_200, slots: 4_096 }, jail: { first: 1_000_000, slots: 64 } },
      seed: Buffer.alloc(32, 7),
      pool: { least: 2, most: 6 },
      memoryBudgetMB: 16_384,
      notices: [],
      log: silentLog,
      ...options,
    });
    await node.start();
    return { node, rows };
  };
  await mkdir(join(folder, 'machines'));
  await mkdir(join(folder, 'snapshots'));
  const rig: NodeRig = {
    host,
    snapshotsFolder: join(folder, 'snapshots'),
    ...(await open()),
    crash: async () => {
      rig.node.abandon();
      rig.rows.close();
      Object.assign(rig, await open());
    },
    end: async () => {
      await rig.node.stop();
      rig.rows.close();
      await rm(folder, { recursive: true, force: true });
    },
  };
  return rig;
}

export function createRequest(wish: Partial<CreateSandboxRequest> = {}): CreateSandboxRequest {
  return {
    teamID: TEAM,
    template: 'base',
    timeoutSeconds: 60,
    secure: true,
    metadata: {},
    envVars: {},
    network: {},
    ...wish,
  };
}
