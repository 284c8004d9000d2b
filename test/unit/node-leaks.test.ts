/** The count of leaks: what is accounted for by nobody, and never what comes or goes while it is counted. */
import assert from 'node:assert/strict';
import test from 'node:test';
import { Backends } from '../../src/isolation/backends.ts';
import type { Attachment, NetworkFabric } from '../../src/network/fabric.ts';
import { takeCensus } from '../../src/node/leaks.ts';
import { FakeHost } from '../helpers/fake-backend.ts';

const lease = (id: string): Attachment => ({
  id,
  kind: 'namespace',
  port: `cp-${id}`,
  namespace: `/ns/${id}`,
  address: `10.0.0.${id}`,
  prefix: 30,
  gateway: '10.0.0.254',
  service: '/run/netns/fake',
});

/** A fabric that shows these leases one answer after the other, and the host's parts of `there` in between. */
function fabricOf(there: readonly string[], ...leases: (readonly string[])[]): NetworkFabric {
  const answers = leases.map((ids) => ids.map(lease));
  return {
    ...new FakeHost().fabric,
    leased: async () => answers.shift()!,
    census: async () => ({
      ports: there.flatMap((id) => [lease(id).port, lease(id).namespace]),
      addresses: there.map((id) => lease(id).address),
      rules: there.map((id) => `inet sources ${lease(id).port} ${lease(id).address}`),
    }),
  };
}

const count = async (fabric: NetworkFabric, ...known: (readonly string[])[]) =>
  (await takeCensus(new Backends([]), fabric, '/nowhere', () => known.shift()!)).details;

test('what is attached to nobody is a leak, by each of its parts', async () => {
  const expected = ['port cp-1', 'port /ns/1', 'address 10.0.0.1', 'rule inet sources cp-1 10.0.0.1'];
  assert.deepEqual(await count(fabricOf(['1'], [], []), [], []), expected);
  assert.deepEqual(await count(fabricOf(['1'], ['1'], ['1']), [], []), expected, 'a lease of no row');
  assert.deepEqual(await count(fabricOf(['1', '2'], ['2'], ['2']), ['2'], ['2']), expected);
});

test('what comes or goes while the host is counted is none', async () => {
  assert.deepEqual(await count(fabricOf(['1'], ['1'], ['1']), ['1'], ['1']), []);
  assert.deepEqual(await count(fabricOf(['1'], [], ['1']), [], ['1']), [], 'made meanwhile');
  assert.deepEqual(await count(fabricOf(['1'], ['1'], []), ['1'], []), [], 'undone meanwhile');
  assert.deepEqual(await count(fabricOf([], ['1'], ['1']), ['1'], ['1']), [], 'not there yet');
});
