/** A Node on a FakeHost, restartable. */
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { CreateSandboxRequest } from '../../src/contract/node-api.ts';
import type { Backends } from '../../src/isolation/backends.ts';
import type { NetworkFabric } from '../../src/network/fabric.ts';
import { Journal } from '../../src/node/journal.ts';
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
  readonly machinesFolder: string;
  readonly snapshotsFolder: string;
  readonly pausedFolder: string;
  readonly volumesFolder: string;
  /** The next image of a volume cannot be made. */
  failImage(error: Error): void;
  /** The newest, whether its start is over or not. */
  node: Node;
  rows: Rows;
  /** As kill -9: the Node is forgotten as it stands, another begins on its rows. */
  crash(): Promise<void>;
  /** Ends in good order, and another begins on its rows. */
  restart(): Promise<void>;
  end(): Promise<void>;
}

/** What a node reaches of what outlives it. */
export interface Outside {
  readonly backends: Backends;
  readonly fabric: NetworkFabric;
  readonly rows: Rows;
}

export interface RigWays {
  /** Rows without a file: every node of the rig has the same ones. */
  readonly inMemory?: boolean;
  /** What stands between a new node and what outlives it; the node is made and started in `run`. */
  readonly enter?: (outside: Outside) => { readonly outside: Outside; readonly run: <T>(act: () => T) => T };
}

export async function startNodeRig(options: Partial<NodeOptions> = {}, ways: RigWays = {}): Promise<NodeRig> {
  const folder = await mkdtemp(join(tmpdir(), 'coppice-node-'));
  const host = new FakeHost();
  const lasting = ways.inMemory ? new Rows(':memory:') : undefined;
  const { enter = (outside) => ({ outside, run: (act) => act() }) } = ways;
  const [machinesFolder, snapshotsFolder, pausedFolder, volumesFolder] = [
    'machines',
    'snapshots',
    'paused',
    'volumes',
  ].map((name) => join(folder, name)) as [string, string, string, string];
  for (const one of [machinesFolder, snapshotsFolder, pausedFolder, volumesFolder]) await mkdir(one);
  const journal = new Journal(':memory:');
  let failure: Error | undefined;
  const makeImage = async (path: string): Promise<void> => {
    await writeFile(path, '');
    const thrown = failure;
    failure = undefined;
    if (thrown) throw thrown;
  };
  const open = async (): Promise<void> => {
    const rows = lasting ?? new Rows(join(folder, 'node.db'));
    const { outside, run } = enter({ ...host.drive(), rows });
    await run(() => {
      const node = new Node({
        ...outside,
        journal,
        backendStatus: [{ isolation: 'microvm', backend: 'fake', accelerator: 'fake' }],
        templates: [fakeTemplate('base'), fakeTemplate('other')],
        machinesFolder,
        snapshotsFolder,
        pausedFolder,
        volumes: { folder: volumesFolder, sizeMB: 16, makeImage, serve: host.serve },
        uids: { microvm: { first: 60_200, slots: 4_096 }, jail: { first: 1_000_000, slots: 64 } },
        seed: Buffer.alloc(32, 7),
        pool: { least: 2, most: 6 },
        memoryBudgetMB: 16_384,
        notices: [],
        log: silentLog,
        ...options,
      });
      Object.assign(rig, { node, rows });
      return node.start();
    });
  };
  const close = (): void => {
    if (!lasting) rig.rows.close();
  };
  const rig = {
    host,
    machinesFolder,
    snapshotsFolder,
    pausedFolder,
    volumesFolder,
    failImage: (error: Error) => {
      failure = error;
    },
    crash: async () => {
      rig.node.abandon();
      close();
      await open();
    },
    restart: async () => {
      await rig.node.stop();
      close();
      await open();
    },
    end: async () => {
      await rig.node.stop();
      rig.rows.close();
      await rm(folder, { recursive: true, force: true });
    },
  } as NodeRig;
  await open();
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
