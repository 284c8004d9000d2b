/** The one node that this control has, for its operator. */
import { randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { NodeDetail, NodeInfo } from '../contract/e2b/node-responses.ts';
import { nodeQuery } from '../contract/e2b/query.ts';
import { nodeStatusChange } from '../contract/e2b/requests.ts';
import { CoppiceError } from '../contract/errors.ts';
import { createNodeReport, type NodeReport } from '../control/node-report.ts';
import { NODE_ID } from '../control/node-states.ts';
import type { Tally } from '../control/tally.ts';
import { type ApiContext, param, type Route } from './route.ts';
import { validate } from './validation.ts';

/** E2B's own for nodes that are in no cluster of a customer's. */
const CLUSTER_ID = '00000000-0000-0000-0000-000000000000';
const MIB = 1024 * 1024;
const PACKAGE = join(import.meta.dirname, '..', '..', 'package.json');

export function nodeRoutes({ node, store, tally, home }: ApiContext): readonly Route[] {
  const serviceInstanceID = randomUUID();
  const { version } = JSON.parse(readFileSync(PACKAGE, 'utf8')) as { readonly version: string };
  const report = createNodeReport(node, store, home);
  const identity = { id: NODE_ID, serviceInstanceID, clusterID: CLUSTER_ID, version, commit: '' };

  return [
    {
      method: 'GET',
      path: '/nodes',
      audience: 'admin',
      handle: async (_request, reply) => {
        const info = encodeReport(await report(), tally);
        return reply.send([{ ...identity, ...info, sandboxStartingCount: tally.atWork }] satisfies NodeInfo[]);
      },
    },
    {
      method: 'GET',
      path: '/nodes/:nodeID',
      audience: 'admin',
      handle: async (request, reply) => {
        demandNode(param(request, 'nodeID'), validate(nodeQuery, request.query).clusterID);
        const found = await report();
        const info = encodeReport(found, tally);
        return reply.send({ ...identity, ...info, cachedBuilds: [...found.builds] } satisfies NodeDetail);
      },
    },
    {
      method: 'POST',
      path: '/nodes/:nodeID',
      audience: 'admin',
      handle: async (request, reply) => {
        const { status, clusterID } = validate(nodeStatusChange, request.body);
        demandNode(param(request, 'nodeID'), clusterID ?? undefined);
        if (status === 'connecting' || status === 'unhealthy')
          throw new CoppiceError('conflict', `a node is not made ${status}, but found so`);
        store.nodes.set(NODE_ID, status);
        return reply.code(204).send();
      },
    },
  ];
}

function demandNode(nodeID: string, clusterID: string | undefined): void {
  if (nodeID !== NODE_ID || (clusterID !== undefined && clusterID !== CLUSTER_ID))
    throw new CoppiceError('node_not_found', `there is no node ${nodeID.slice(0, 64)}`);
}

type ReportedInfo = Pick<
  NodeInfo,
  'status' | 'sandboxCount' | 'machineInfo' | 'metrics' | 'createSuccesses' | 'createFails'
>;

function encodeReport({ status, running, host }: NodeReport, tally: Tally): ReportedInfo {
  return {
    status,
    sandboxCount: running.length,
    machineInfo: {
      cpuFamily: host.cpu.family,
      cpuModel: host.cpu.model,
      cpuModelName: host.cpu.modelName,
      cpuArchitecture: host.cpu.architecture,
    },
    metrics: {
      allocatedCPU: running.reduce((sum, each) => sum + each.cpuCount, 0),
      allocatedMemoryBytes: running.reduce((sum, each) => sum + each.memoryMB, 0) * MIB,
      cpuPercent: host.cpuPercent,
      cpuCount: host.cpuCount,
      memoryUsedBytes: host.memoryUsedBytes,
      memoryTotalBytes: host.memoryTotalBytes,
      disks: [host.disk],
    },
    createSuccesses: tally.successes,
    createFails: tally.failures,
  };
}
