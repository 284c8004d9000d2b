/** What there is to say of the one node that this control has. */
import type { NodeApi, SandboxView } from '../contract/node-api.ts';
import { countRunning, listRunning } from './census.ts';
import type { ControlStore } from './control-store.ts';
import { createHostFacts, type HostFacts } from './host-facts.ts';
import { NODE_ID, type NodeState } from './node-states.ts';

export interface NodeReport {
  /** `connecting`: it starts or stops; `unhealthy`: it does not answer. */
  readonly status: NodeState | 'connecting' | 'unhealthy';
  /** Of every team. */
  readonly running: readonly SandboxView[];
  readonly builds: readonly string[];
  readonly host: HostFacts;
}

/** @param home folder on the disk that counts */
export function createNodeReport(
  node: NodeApi,
  store: Pick<ControlStore, 'teams' | 'nodes'>,
  home: string,
): () => Promise<NodeReport> {
  const hostFacts = createHostFacts(home);
  const listAll = async (): Promise<readonly SandboxView[]> => {
    const counts = await countRunning(node, store.teams);
    const busy = [...counts].filter(([, count]) => count > 0);
    return (await Promise.all(busy.map(([teamID]) => listRunning(node, teamID)))).flat();
  };
  return async () => {
    const host = await hostFacts();
    const found = await node.status().catch(() => undefined);
    if (found === undefined) return { status: 'unhealthy', running: [], builds: [], host };
    return {
      status: found.ready ? store.nodes.get(NODE_ID) : 'connecting',
      running: await listAll(),
      builds: (await node.listTemplates()).map((each) => each.buildID),
      host,
    };
  };
}
