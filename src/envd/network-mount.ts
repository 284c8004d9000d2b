/**
 * Whether a path lies on a network or FUSE mount of the sandbox, where changes made elsewhere raise no event: a watch
 * there is refused unless the caller allows it.
 */
import { type AgentClient, AgentError } from '../channel/agent.ts';

const NETWORK_TYPES = /^(?:nfs\d?|cifs|smb\d?|smbfs|9p|ceph|glusterfs|lustre|afs|ncpfs|fuse(?:blk|\..*)?)$/;
/** Bytes of the mount table that are read; a sandbox that has more has made them itself. */
const MAX_TABLE = 256 * 1024;

/** Rejects invalid_argument for a path on such a mount; a path that does not exist is left to the watch. */
export async function refuseNetworkMount(agent: AgentClient, path: string, user: string): Promise<void> {
  const [entry, table] = await Promise.all([agent.stat(path, user), mountTable(agent)]);
  const resolved = entry.symlinkTarget ?? entry.path;
  const type = mountType(table, resolved);
  if (type !== undefined && NETWORK_TYPES.test(type)) {
    throw new AgentError('invalid_argument', `path '${resolved}' is on a network mount (${type})`);
  }
}

/** The file system type of the mount that holds `path`, by the table's last longest match. Table: /proc/mounts, proc(5). */
export function mountType(table: string, path: string): string | undefined {
  let best: { readonly length: number; readonly type: string } | undefined;
  for (const line of table.split('\n')) {
    const [, point, type] = line.split(' ');
    if (point === undefined || type === undefined) continue;
    const folder = point.replace(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(Number.parseInt(octal, 8)));
    const holds = folder === '/' || path === folder || path.startsWith(`${folder}/`);
    if (holds && folder.length >= (best?.length ?? 0)) best = { length: folder.length, type };
  }
  return best?.type;
}

async function mountTable(agent: AgentClient): Promise<string> {
  const { body, cancel } = await agent.read('/proc/mounts', { user: 'root' });
  const chunks: Uint8Array[] = [];
  let bytes = 0;
  try {
    for await (const chunk of body) {
      chunks.push(chunk);
      bytes += chunk.byteLength;
      if (bytes >= MAX_TABLE) break;
    }
  } finally {
    cancel();
  }
  return Buffer.concat(chunks).toString('utf8');
}
