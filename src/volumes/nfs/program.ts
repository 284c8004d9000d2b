/**
 * The process that serves volumes, in the fabric's network namespace, as root. Of its own: what a guest sends is read, and waited
 * for on disk, where nothing else is. It keeps nothing, so it may end at any moment and be started again.
 *
 * Usage: node program.ts PORT, with a channel to the node.
 */
import { createHash } from 'node:crypto';
import { closeSync, constants, openSync, readFileSync } from 'node:fs';
import type { FromServer, ToServer } from './process-messages.ts';
import { createNfsServer, type Held } from './server.ts';
import { loadSyscalls } from './syscalls.ts';

const LINES_A_MINUTE = 20;
const node = process.ppid;
const tell = (message: FromServer): void => void process.send!(message);
// What a guest does to be told of fills nobody's disk.
let lines = LINES_A_MINUTE;
setInterval(() => {
  lines = LINES_A_MINUTE;
}, 60_000);
const log = (message: string): void => {
  if (lines-- > 0) tell({ kind: 'log', message });
};

// A node that is gone serves nobody, and its descriptors are not there to be opened.
process.on('disconnect', () => process.exit(0));
// A client has applied that of its program.
process.umask(0);

const waiting = new Map<number, (exports: ToServer['exports']) => void>();
let asked = 0;
process.on('message', ({ number, exports }: ToServer) => {
  waiting.get(number)?.(exports);
  waiting.delete(number);
});

async function exportsOf(address: string): Promise<Held | undefined> {
  asked += 1;
  const number = asked;
  const answered = Promise.withResolvers<ToServer['exports']>();
  waiting.set(number, answered.resolve);
  tell({ kind: 'ask', number, address });
  const exports = await answered.promise;
  if (!exports) return undefined;
  const open: { volumeID: string; root: number }[] = [];
  const release = (): void => {
    for (const { root } of open) closeSync(root);
    tell({ kind: 'done', number });
  };
  try {
    for (const { volumeID, fd } of exports) {
      const root = openSync(`/proc/${node}/fd/${fd}`, constants.O_RDONLY | constants.O_DIRECTORY);
      open.push({ volumeID, root });
    }
    return { exports: open, release };
  } catch (error) {
    release();
    throw error;
  }
}

const bootID = readFileSync('/proc/sys/kernel/random/boot_id');
const verifier = createHash('sha256').update(bootID).digest().subarray(0, 8);
const server = createNfsServer({ exportsOf, syscalls: loadSyscalls(), verifier, log });
server.on('error', (error) => {
  log(`cannot listen: ${error.message}`);
  process.exit(1);
});
server.listen({ host: '0.0.0.0', port: Number(process.argv[2]) }, () => tell({ kind: 'ready' }));
