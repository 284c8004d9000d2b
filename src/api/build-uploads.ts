/**
 * Archives for builds: links that E2B's clients upload to without a key, and the uploads, streamed to the node as they come.
 * Whether one is wanted, the node says by the link's ticket, before it reads a byte.
 */
import { Agent, type IncomingMessage, type ServerResponse } from 'node:http';
import { connect } from 'node:net';
import { TRAFFIC_UPLOAD_HEADER } from '../contract/build-api.ts';
import { CoppiceError } from '../contract/errors.ts';
import { forward } from '../contract/traffic/forward.ts';
import { codingSupported, OWN_PREFIX, requestHeaders } from '../contract/traffic/headers.ts';
import { answerRaw } from './errors.ts';

/** Idle connections to the node that are kept, and for how long (ms). The node itself never closes an idle one. */
const MAX_IDLE = 8;
const IDLE_MS = 30_000;
const PATH = /^\/templates\/([a-z0-9]{1,64})\/files\/([0-9A-Za-z]{1,128})\/upload\?ticket=([0-9a-f-]{1,128})$/;

/** What the client of `request` can reach it at. */
export function uploadLink(request: IncomingMessage, templateID: string, hash: string, ticket: string): string {
  const peer = (request.socket.remoteAddress ?? '').replace(/^::ffff:/, '');
  // As the edge: a TLS terminator of this machine is believed.
  const trusted = peer.startsWith('127.') || peer === '::1';
  const before = (name: string): string | undefined => {
    const value = trusted ? request.headers[name] : undefined;
    return Array.isArray(value) ? value[0] : value;
  };
  const scheme = before('x-forwarded-proto') ?? ('encrypted' in request.socket ? 'https' : 'http');
  const host = before('x-forwarded-host') ?? request.headers.host ?? 'localhost';
  return `${scheme}://${host}/templates/${templateID}/files/${hash}/upload?ticket=${ticket}`;
}

export interface Uploads {
  /** False: it is no upload. */
  take(req: IncomingMessage, res: ServerResponse): boolean;
  close(): void;
}

/** `trafficSocket`: the node's; undefined: none are taken. */
export function createUploads(trafficSocket: string | undefined): Uploads {
  // Kept open: a connection that the node closed behind its answer could break before the answer is read.
  const agent = new Agent({ keepAlive: true, maxFreeSockets: MAX_IDLE, timeout: IDLE_MS });
  return {
    take(req, res) {
      const [found, templateID, hash, ticket] = (req.method === 'PUT' && PATH.exec(req.url ?? '')) || [];
      if (found === undefined) return false;
      if (trafficSocket === undefined) {
        answerRaw(res, new CoppiceError('not_implemented', 'uploads are not taken here'));
        return true;
      }
      if (!codingSupported(req)) {
        answerRaw(res, new CoppiceError('bad_request', 'the transfer coding is not supported'));
        return true;
      }
      forward(req, res, {
        connection: (fresh) =>
          fresh ? { createConnection: () => connect(trafficSocket) } : { socketPath: trafficSocket, agent },
        path: '/',
        headers: [
          ...requestHeaders(req, (name) => name.startsWith(OWN_PREFIX)),
          TRAFFIC_UPLOAD_HEADER,
          `${templateID}/${hash}/${ticket}`,
        ],
        fail: (cause) => answerRaw(res, new CoppiceError('unavailable', 'the upload broke off', { cause })),
      });
      return true;
    },
    close: () => agent.destroy(),
  };
}
