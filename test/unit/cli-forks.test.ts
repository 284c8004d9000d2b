/** The command line's pause, resume, fork, rollback and tree, against the REST edge before a fake node. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { join } from 'node:path';
import test from 'node:test';
import { promisify } from 'node:util';
import { createFakeNode, serveAPI } from '../helpers/fake-node.ts';

const MAIN = join(import.meta.dirname, '..', '..', 'src', 'main.ts');
const exec = promisify(execFile);

async function rig(t: test.TestContext, capacity = 100) {
  const node = createFakeNode({ capacity });
  const api = await serveAPI(node);
  t.after(api.close);
  const env = { ...process.env, E2B_API_URL: api.url, E2B_SANDBOX_URL: api.url, E2B_API_KEY: api.key };
  const coppice = (...args: string[]) =>
    exec(process.execPath, ['--disable-warning=ExperimentalWarning', MAIN, ...args], { env });
  const json = async (...args: string[]): Promise<unknown> => JSON.parse((await coppice(...args, '--json')).stdout);
  const create = async (): Promise<string> =>
    (await api.call('POST', '/v2/sandboxes', { body: { templateID: 'base' } })).json.sandboxID;
  const state = async (id: string): Promise<string> => (await node.getSandbox(api.teamID, id)).state;
  return { node, ...api, coppice, json, create, state };
}

test('pause and resume, with memory and without', async (t) => {
  const { node, coppice, json, create, state } = await rig(t);
  const id = await create();
  assert.deepEqual(await json('sandbox', 'pause', id), [{ sandboxID: id, paused: true }]);
  assert.equal(await state(id), 'paused');
  assert.equal((await coppice('sandbox', 'pause', id)).stdout, `${id}: paused already\n`);
  assert.deepEqual(await json('sandbox', 'resume', id), [{ sandboxID: id, state: 'running' }]);
  await coppice('sandbox', 'pause', id, '--no-memory');
  await coppice('sandbox', 'resume', id, '--no-memory', '--timeout', '60');
  assert.equal(await state(id), 'running');
  const [full, , whole, disk, boot] = node.wishes;
  assert.deepEqual([full, whole], [{ memory: true }, { timeoutSeconds: 300 }]);
  assert.deepEqual([disk, boot], [{ memory: false }, { timeoutSeconds: 60, memory: false }]);
});

test('fork prints one line each, and fails when one was not made', async (t) => {
  const { node, teamID, coppice, json, create } = await rig(t, 4);
  const id = await create();
  const [first] = (await json('sandbox', 'fork', id)) as { sandboxID: string }[];
  const { startedAtMs, endAtMs } = await node.getSandbox(teamID, first!.sandboxID);
  assert.equal(endAtMs - startedAtMs, 300_000);
  const made = (await coppice('sandbox', 'fork', id, '--timeout', '60')).stdout.trim();
  assert.equal((await node.getSandbox(teamID, made)).state, 'running');
  const failed = (await coppice('sandbox', 'fork', id, '--count', '2').catch((error: unknown) => error)) as {
    code: number;
    stdout: string;
  };
  assert.equal(failed.code, 1);
  assert.match(failed.stdout, /^i[a-z0-9]{20}\nnot made: .*no memory left for another sandbox\n$/);
});

test('rollback, and errors in the words of the service', async (t) => {
  const { coppice, json, create, call, state } = await rig(t);
  const id = await create();
  const { snapshotID } = (await call('POST', `/sandboxes/${id}/snapshots`)).json;
  await call('POST', `/sandboxes/${id}/pause`);
  const done = { sandboxID: id, snapshotID, state: 'running' };
  assert.deepEqual(await json('sandbox', 'rollback', id, snapshotID), done);
  assert.equal(await state(id), 'running');
  assert.match((await coppice('sandbox', 'rollback', id, snapshotID)).stdout, /as it was in/);
  await assert.rejects(coppice('sandbox', 'rollback', id, 'nothing'), {
    code: 1,
    stderr: `coppice: 404: Sandbox "${id}" has no snapshot 'nothing'\n`,
  });
});

test('the tree reads every page, and can be of one sandbox', async (t) => {
  const { coppice, json, create, call } = await rig(t);
  assert.equal((await coppice('snapshot', 'tree')).stdout, 'no snapshots\n');
  const id = await create();
  for (let count = 0; count < 101; count++) await call('POST', `/sandboxes/${id}/snapshots`);
  const other = await create();
  const { snapshotID } = (await call('POST', `/sandboxes/${other}/snapshots`, { body: { name: 'work' } })).json;
  const [root] = (await json('snapshot', 'tree')) as {
    kind: string;
    name: string;
    children: { children: object[] }[];
  }[];
  assert.deepEqual([root!.kind, root!.name, root!.children.length], ['template', 'base', 2]);
  const drawn = (await coppice('snapshot', 'tree')).stdout.split('\n');
  assert.equal(drawn.length, 1 + 1 + 102 + 1, 'header, template, snapshots, end of line');
  const own = (await coppice('snapshot', 'tree', '--sandbox', other)).stdout.trimEnd().split('\n');
  assert.equal(own.length, 3);
  assert.ok(own[2]!.startsWith(`└─ ${snapshotID}`));
});

test('no service: said so', async () => {
  const env = { ...process.env, E2B_API_URL: 'http://127.0.0.1:1', E2B_API_KEY: 'e2b_0' };
  await assert.rejects(exec(process.execPath, [MAIN, 'snapshot', 'tree'], { env }), {
    code: 1,
    stderr: /^coppice: no service answers at http:\/\/127\.0\.0\.1:1$/m,
  });
});
