/**
 * Empties connection tracking of a gone sandbox's flows, when the `conntrack` tool (Debian: package conntrack) is there.
 * Isolation does not rest on it: marks keep old flows from reaching a new holder of an address (see ruleset.ts), and
 * addresses rotate. It frees table entries that would else wait for their timeout.
 */
import { CoppiceError } from '../../contract/errors.ts';
import type { Log } from '../../telemetry/log.ts';
import { parseAddress } from '../ipv4.ts';
import type { FabricConfig } from './config.ts';
import { tryRun } from './run.ts';

export interface FlowFlush {
  /** Never rejects. */
  (addresses: readonly string[]): Promise<void>;
  notices(): Promise<readonly string[]>;
}

export const NO_CONNTRACK_NOTICE =
  'network: the conntrack tool is missing; flows of ended sandboxes are cut all the same, but stay in the kernel table until they time out. Fix: apt-get install conntrack';

export function createFlowFlush(config: FabricConfig, log: Log): FlowFlush {
  let present: Promise<boolean> | undefined;
  const isPresent = () => {
    present ??= hasConntrack();
    return present;
  };
  const flush = async (addresses: readonly string[]) => {
    if (addresses.length === 0 || !(await isPresent())) return;
    for (const address of addresses) {
      if (parseAddress(address) === undefined) continue;
      const command = ['nsenter', `--net=${config.namespacePath}`, 'conntrack', '-D', '-f', 'ipv4', '-s', address];
      // Exit code 1 with "0 flow entries" is how it says that there were none.
      await tryRun(command).catch((error) => log.warn({ error, address }, 'flows could not be flushed'));
    }
  };
  return Object.assign(flush, { notices: async () => ((await isPresent()) ? [] : [NO_CONNTRACK_NOTICE]) });
}

export async function hasConntrack(): Promise<boolean> {
  try {
    return (await tryRun(['conntrack', '--version'])).code === 0;
  } catch (error) {
    if (error instanceof CoppiceError && error.code === 'host_unfit') return false;
    throw error;
  }
}
