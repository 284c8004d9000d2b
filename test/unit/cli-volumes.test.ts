/** The command line's volumes, against the REST edge before a fake node. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { join } from 'node:path';
import test from 'node:test';
import { promisify } from 'node:util';
import { createFakeNode, serveAPI } from '../helpers/fake-node.ts';

const MAIN = join(import.meta.dirname, '..', '..', 'src', 'main.ts');
const exec = promisify(execFile);

test('made, listed, mounted, deleted by name; what is wrong is told', async (t) => {
  const node = createFakeNode();
  const api = await serveAPI(node);
  t.after(api.close);
  const env = { ...process.env, E2B_API_URL: api.url, E2B_SANDBOX_URL: api.url, E2B_API_KEY: api.key };
  const coppice = (...args: string[]) =>
    exec(process.execPath, ['--disable-warning=ExperimentalWarning', MAIN, ...args], { env });
  const refused = (told: RegExp) => (error: { code: number; stderr: string }) =>
    error.code === 1 && told.test(error.stderr);
  const { volumeID } = JSON.parse((await coppice('volume', 'create', 'data', '--json')).stdout);
  assert.deepEqual(await node.listVolumes(api.teamID), [{ volumeID, name: 'data' }]);
  assert.match((await coppice('volume', 'list')).stdout, new RegExp(`${volumeID} +data`));
  await assert.rejects(coppice('volume', 'create', 'data'), refused(/already exists/));
  await coppice('sandbox', 'create', 'base-jail', '--volume', 'data:/mnt/data', '--volume', 'other:/srv/a:b');
  assert.deepEqual(node.requests.at(-1)?.volumeMounts, [
    { name: 'data', path: '/mnt/data' },
    { name: 'other', path: '/srv/a:b' },
  ]);
  await assert.rejects(
    coppice('sandbox', 'create', 'base-jail', '--volume', 'data'),
    refused(/<name>:<absolute path>/),
  );
  await assert.rejects(coppice('volume', 'delete', 'data', 'none'), refused(/no volume none/));
  assert.equal((await coppice('volume', 'delete', 'data')).stdout, 'data: deleted, with all that was in it\n');
  assert.deepEqual(await node.listVolumes(api.teamID), []);
});
