/**
 * Archives for builds: links that E2B's clients upload to without a key, and the uploads, streamed to the node as they come.
 * Whether one is wanted, the node says by the link's ticket, before it reads a byte.
 */
import type { IncomingMessage, ServerResponse } from 'node:http';
import { TRAFFIC_UPLOAD_HEADER } from '../contract/build-api.ts';
import type { NodeLink } from './node-link.ts';

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

/** False: it is no upload. */
export function takeUpload(link: NodeLink, req: IncomingMessage, res: ServerResponse): boolean {
  const [found, templateID, hash, ticket] = (req.method === 'PUT' && PATH.exec(req.url ?? '')) || [];
  if (found === undefined) return false;
  link.pass(req, res, {
    mark: [TRAFFIC_UPLOAD_HEADER, `${templateID}/${hash}/${ticket}`],
    path: '/',
    broken: 'the upload broke off',
  });
  return true;
}
