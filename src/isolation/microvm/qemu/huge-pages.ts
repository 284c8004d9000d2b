/**
 * QEMU asks for huge pages for its translation buffer and its firmware tables, of which an idle clone fills a part: about
 * 3 MiB of each clone are there for nothing. A process can refuse them for itself and all that it starts.
 */
import { createRequire } from 'node:module';
import { getSystemErrorName } from 'node:util';
import type { Log } from '../../../telemetry/log.ts';

/** prctl(2), linux/prctl.h. */
const PR_SET_THP_DISABLE = 41;

let refused = false;

/** For this process and every VMM that it starts from now on. A host where it cannot be done only spends more memory. */
export function refuseHugePages(log: Log): void {
  if (refused) return;
  refused = true;
  try {
    const koffi = createRequire(import.meta.url)('koffi') as typeof import('koffi');
    const prctl = koffi
      .load('libc.so.6')
      .func('int prctl(int option, unsigned long a, unsigned long b, unsigned long c, unsigned long d)');
    if (prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0) === 0) return;
    log.debug({ code: getSystemErrorName(-koffi.errno()) }, 'huge pages cannot be refused');
  } catch (error) {
    log.debug({ error }, 'huge pages cannot be refused');
  }
}
