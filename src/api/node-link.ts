/** Exchanges that the edge neither reads nor decides: streamed to the node's traffic server as they come, and its answer back. */
import { Agent, type IncomingMessage, type ServerResponse } from 'node:http';
import { connect } from 'node:net';
import { CoppiceError } from '../contract/errors.ts';
import { forward } from '../contract/traffic/forward.ts';
import { codingSupported, OWN_PREFIX, requestHeaders } from '../contract/traffic/headers.ts';
import { answerRaw } from './errors.ts';

/** Idle connections to the node that are kept, and for how long (ms). The node itself never closes an idle one. */
const MAX_IDLE = 8;
const IDLE_MS = 30_000;

export interface Passage {
  /** Header that tells the node what it is, and its value. */
  readonly mark: readonly [name: string, value: string];
  /** Request target there: path and query. */
  readonly path: string;
  /** What a client is told when the node breaks off. */
  readonly broken: string;
}

export interface NodeLink {
  pass(req: IncomingMessage, res: ServerResponse, passage: Passage): void;
  close(): void;
}

/** `trafficSocket`: the node's; undefined: 501 to all. */
export function createNodeLink(trafficSocket: string | undefined): NodeLink {
  // Kept open: a connection that the node closed behind its answer could break before the answer is read.
  const agent = new Agent({ keepAlive: true, maxFreeSockets: MAX_IDLE, timeout: IDLE_MS });
  return {
    pass(req, res, { mark, path, broken }) {
      if (trafficSocket === undefined) {
        answerRaw(res, new CoppiceError('not_implemented', 'this server takes no streams'));
        return;
      }
      if (!codingSupported(req)) {
        answerRaw(res, new CoppiceError('bad_request', 'the transfer coding is not supported'));
        return;
      }
      forward(req, res, {
        connection: (fresh) =>
          fresh ? { createConnection: () => connect(trafficSocket) } : { socketPath: trafficSocket, agent },
        path,
        headers: [...requestHeaders(req, (name) => name.startsWith(OWN_PREFIX)), ...mark],
        fail: (cause) => answerRaw(res, new CoppiceError('unavailable', broken, { cause })),
      });
    },
    close: () => agent.destroy(),
  };
}
