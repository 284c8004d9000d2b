/**
 * Empties connection tracking of a gone sandbox's flows, when the `conntrack` tool (Debian: package conntrack) is there.
 * Isolation does not rest on it: marks keep old flows from reaching a new holder of an address (see ruleset.ts), and
 * addresses rotate. It frees table entries that would else wait for their timeout.
 */
import { CoppiceError } from '../../contract/errors.ts';
import type { Log } from '../../telemetry/log.ts';
import { parseAddress } from '../ipv4.ts';
import { createBatcher } from './batch.ts';
import type { FabricConfig } from './config.ts';
import { tryRun } from './run.ts';

export interface FlowFlush {
  /** Goes on by itself: each address costs a walk through the kernel's whole table, some 10 ms. */
  begin(addresses: readonly string[]): void;
  /** Resolves when nothing begun is under way. Never rejects. */
  settled(): Promise<void>;
  notices(): Promise<readonly string[]>;
}

/** Addresses that one shell sees to. */
const BATCH = 32;

/** This namespace's own count, a file's read against a walk through the host's table. */
const IF_ANY = 'read count </proc/sys/net/netfilter/nf_conntrack_count && [ "$count" != 0 ]';

export const NO_CONNTRACK_NOTICE =
  'network: the conntrack tool is missing; flows of ended sandboxes are cut all the same, but stay in the kernel table until they time out. Fix: apt-get install conntrack';

export function createFlowFlush(config: FabricConfig, log: Log): FlowFlush {
  let present: Promise<boolean> | undefined;
  const isPresent = () => {
    present ??= hasConntrack();
    return present;
  };
  const underWay = new Set<Promise<void>>();
  const flush = createBatcher<string>(async (addresses) => {
    if (!(await isPresent())) return;
    const lines = addresses.map((address) => `${IF_ANY} && conntrack -D -f ipv4 -s ${address} >/dev/null 2>&1\n`);
    // Nobody waits for it. Exit code 1 is also how it says that there were no such flows.
    await tryRun(['nice', '-n', '19', 'nsenter', `--net=${config.namespacePath}`, 'sh'], { input: lines.join('') });
  }, BATCH);
  return {
    begin(addresses) {
      for (const address of addresses) {
        if (parseAddress(address) === undefined) continue;
        const run: Promise<void> = flush(address)
          .catch((error) => log.warn({ error, address }, 'flows could not be flushed'))
          .finally(() => underWay.delete(run));
        underWay.add(run);
      }
    },
    async settled() {
      while (underWay.size > 0) await Promise.all(underWay);
    },
    notices: async () => ((await isPresent()) ? [] : [NO_CONNTRACK_NOTICE]),
  };
}

export async function hasConntrack(): Promise<boolean> {
  try {
    return (await tryRun(['conntrack', '--version'])).code === 0;
  } catch (error) {
    if (error instanceof CoppiceError && error.code === 'host_unfit') return false;
    throw error;
  }
}
