/**
 * Everything an owner can do, in any order, with SIGKILLs of every part of the service in between and in the middle:
 * what was answered holds, what was not is one thing or the other, and nothing leaks. COPPICE_TEST_SEED repeats a run as far
 * as the host's timing lets it, COPPICE_TEST_VERBS makes it longer.
 */
import assert from 'node:assert/strict';
import { randomInt } from 'node:crypto';
import test from 'node:test';
import { Chaos } from '../clients/support/chaos.ts';
import { freePort } from '../helpers/free-port.ts';
import { Random } from '../helpers/random.ts';
import { startService } from '../helpers/service.ts';

const VERBS = Number(process.env.COPPICE_TEST_VERBS ?? 300);
const SEED = Number(process.env.COPPICE_TEST_SEED ?? randomInt(2 ** 31));
/** Verbs for one sandbox that is paused without its memory: it costs a boot. */
const VERBS_PER_BOOT = 150;
/** Lines of the log that tell how it came to a failure. */
const LAST = 40;

test(`${VERBS} verbs with SIGKILLs: what was promised holds (COPPICE_TEST_SEED=${SEED})`, async (t) => {
  // One port for all who listen on it in turn, and no wait for who is killed again and again.
  const service = await startService({ COPPICE_POOL: '1', COPPICE_POOL_MOST: '1' }, ['base'], {
    port: await freePort(),
    restartMs: [50],
  });
  const chaos = new Chaos(service, new Random(SEED), { boots: Math.ceil(VERBS / VERBS_PER_BOOT) });
  try {
    await service.hot(1);
    while (chaos.verbs < VERBS) await chaos.round(VERBS - chaos.verbs);
    await chaos.end();
  } catch (error) {
    for (const line of chaos.log.slice(-LAST)) t.diagnostic(line);
    throw error;
  } finally {
    for (const [what, count] of [...chaos.tally].sort()) t.diagnostic(`${count} ${what}`);
    assert.deepEqual((await service.stop()).details, []);
  }
});
