/**
 * Attaches and detaches sandboxes of both kinds, several at once, until it is killed; to be run in the namespace of a test.
 *
 * usage: netns-churn.ts <instance> <state folder>
 * Writes a line when it has begun.
 */
import { createNftablesFabric } from '../../src/network/nftables/driver.ts';
import { silentLog } from '../../src/telemetry/log.ts';

const [instance = '', stateFolder = ''] = process.argv.slice(2);
const fabric = createNftablesFabric({ instance, stateFolder, log: silentLog });
await fabric.start();
console.log('begun');

async function churn(lane: number): Promise<void> {
  for (let turn = 0; ; turn++) {
    const id = `p${process.pid}-${lane}-${turn}`;
    const policy = { allowInternet: lane % 2 === 0 };
    await fabric.attach(id, { kind: lane % 3 === 0 ? 'tap' : 'namespace', policy });
    if (turn % 3 !== 0) await fabric.detach(id);
  }
}

await Promise.all([0, 1, 2, 3, 4].map(churn));
