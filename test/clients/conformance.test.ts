/**
 * What E2B's SDKs offer, method by method, each generation against the whole service; every REST verb; every call of envd by
 * binary protobuf. What passed is docs/e2b-matrix.md, which must be as this run would write it (`npm run matrix` writes it).
 * COPPICE_TEST_KINDS names the kinds of isolation to run on, by default all.
 */
import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { after, before, describe, it } from 'node:test';
import { KINDS, type Kind } from '../behaviours/support/kinds.ts';
import { MATRIX, merged, unasked } from '../conformance/matrix.ts';
import { plainRows } from '../conformance/plain.ts';
import { Results } from '../conformance/results.ts';
import { generationRows, interpreterRows } from '../conformance/run.ts';
import { startBuildService } from '../helpers/build-service.ts';
import { GENERATIONS, INTERPRETER_GENERATIONS } from '../helpers/generations.ts';
import { serve, type TestServer } from '../helpers/oci-image.ts';
import type { TestService } from '../helpers/service.ts';

const wanted = process.env.COPPICE_TEST_KINDS?.split(',') ?? KINDS.map(({ name }) => name);

for (const kind of KINDS) if (wanted.includes(kind.name)) conformance(kind);

function conformance(kind: Kind): void {
  describe(kind.name, () => {
    const results = new Results();
    let service: TestService;
    let registry: TestServer;
    before(async () => {
      registry = await serve((path, { headers }, response) => {
        if (!path.includes('/private/') || headers.authorization) response.writeHead(404).end();
        else response.writeHead(401, { 'www-authenticate': 'Basic realm="test"' }).end();
      });
      const env = { COPPICE_POOL: '1', COPPICE_POOL_MOST: '4', COPPICE_INSECURE_REGISTRIES: registry.host };
      service = await startBuildService(env, [kind.base, kind.code]);
    });
    after(async () => {
      const left = await service?.stop();
      await registry?.[Symbol.asyncDispose]();
      assert.deepEqual(left?.details, []);
    });
    const world = { kind, results, service: () => service, registry: () => registry };
    // Emulated guests only get slower beside each other.
    describe('SDKs', { concurrency: kind.ownKernel ? 2 : 5 }, () => {
      for (const generation of GENERATIONS) generationRows(world, generation);
      for (const generation of INTERPRETER_GENERATIONS) interpreterRows(world, generation);
    });
    plainRows(world);
    it('docs/e2b-matrix.md is what was proven', (t) => {
      if (!results.whole) return t.skip(`${results.passed} of ${results.planned} tests ran and passed`);
      if (kind.name === 'jail') assert.deepEqual(unasked(results), [], 'verbs that no test asks for');
      const { was, is } = merged(kind.name, results);
      if (process.env.COPPICE_MATRIX === 'write') writeFileSync(MATRIX, is);
      else assert.equal(was, is, '`npm run matrix` writes it anew');
    });
  });
}
