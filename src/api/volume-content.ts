/** The content API of volumes: passed to the node, which has the files and knows the tokens. */
import type { IncomingMessage, ServerResponse } from 'node:http';
import { TRAFFIC_VOLUME_HEADER } from '../contract/volume-api.ts';
import type { NodeLink } from './node-link.ts';

const PATH = /^\/volumecontent\/([a-zA-Z0-9_-]{1,64})\/([a-z]{1,16})(\?.*)?$/;

/** False: it is for somebody else. */
export function takeVolumeContent(link: NodeLink, req: IncomingMessage, res: ServerResponse): boolean {
  if (req.method === 'OPTIONS') return false;
  const [found, volumeID, kind, query = ''] = PATH.exec(req.url ?? '') ?? [];
  if (found === undefined) return false;
  link.pass(req, res, {
    mark: [TRAFFIC_VOLUME_HEADER, `${volumeID}/${kind}`],
    path: `/${query}`,
    broken: 'the node broke off',
  });
  return true;
}
