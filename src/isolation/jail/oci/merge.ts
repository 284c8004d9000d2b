/** What a jail of a captured disk would have as its root, template and layer as one, for a command of the caller's. */
import { fileURLToPath } from 'node:url';

const SCRIPT = fileURLToPath(new URL('merge.sh', import.meta.url));

/** To be put before the command, which ends with the process that starts it, and its mounts with it. */
export function mergedCommand(rootfs: string, layer: string, folder: string): readonly string[] {
  return [
    ...['setpriv', '--pdeathsig', 'KILL', '--'],
    ...['unshare', '--mount', '--propagation', 'private', '--'],
    ...['sh', SCRIPT, rootfs, layer, folder],
  ];
}
