/** What the operator has decided about a node. It outlives the processes. */
import type { Database } from '../store/database.ts';

/** Of the one node that control talks to. */
export const NODE_ID = 'local';

/** Of the three, only `ready` takes new sandboxes; what is there goes on in each. */
export type NodeState = 'ready' | 'draining' | 'standby';

export interface NodeStates {
  get(nodeID: string): NodeState;
  set(nodeID: string, state: NodeState): void;
}

/** The one process that serves is the only one that changes them, so they are read once. */
export function createNodeStates(database: Database, now: () => number = Date.now): NodeStates {
  const rows = database.prepare('SELECT node_id, status FROM node_states').all() as unknown as {
    readonly node_id: string;
    readonly status: NodeState;
  }[];
  const states = new Map(rows.map((row) => [row.node_id, row.status]));
  return Object.freeze<NodeStates>({
    get: (nodeID) => states.get(nodeID) ?? 'ready',
    set: (nodeID, state) => {
      database
        .prepare('INSERT OR REPLACE INTO node_states (node_id, status, changed_at_ms) VALUES (?, ?, ?)')
        .run(nodeID, state, now());
      states.set(nodeID, state);
    },
  });
}
