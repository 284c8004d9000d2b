/** Every generation of the real JavaScript SDK drives the REST edge over loopback. */
import assert from 'node:assert/strict';
import test from 'node:test';
import { AuthenticationError, NotFoundError, SandboxError } from 'e2b';
import { CoppiceError } from '../../src/contract/errors.ts';
import { createFakeNode, serveAPI } from '../helpers/fake-node.ts';
import { GENERATIONS } from '../helpers/generations.ts';

const Newest = GENERATIONS[0]!.sdk.Sandbox;

for (const { name, sdk, v2 } of GENERATIONS) {
  const { Sandbox } = sdk;
  test(`${name}: create, info, list, timeout, connect, kill`, async (t) => {
    const node = createFakeNode();
    const api = await serveAPI(node);
    t.after(api.close);
    const options = { apiUrl: api.url, apiKey: api.key, sandboxUrl: api.url };

    const sandbox = await Sandbox.create('base-jail', {
      ...options,
      timeoutMs: 60_000,
      metadata: { 'k ey': 'v=1&2', plain: 'a+b' },
      envs: { FOO: 'bar' },
    });
    assert.match(sandbox.sandboxId, /^i[a-z0-9]{20}$/);
    const asked = node.requests[0]!;
    assert.equal(asked.timeoutSeconds, 60);
    assert.equal(asked.secure, true);
    assert.deepEqual({ ...asked.envVars }, { FOO: 'bar' });
    assert.equal(asked.network.allowInternetAccess, v2 ? undefined : true);

    const info = await Sandbox.getInfo(sandbox.sandboxId, options);
    assert.equal(info.state, 'running');
    assert.deepEqual(info.metadata, { 'k ey': 'v=1&2', plain: 'a+b' });
    assert.equal(info.endAt.getTime() - info.startedAt.getTime(), 60_000);
    assert.equal(info.envdVersion, '0.6.13');

    await Sandbox.setTimeout(sandbox.sandboxId, 10_000, options);
    const shorter = await Sandbox.getInfo(sandbox.sandboxId, options);
    assert.ok(shorter.endAt.getTime() < info.endAt.getTime());

    const same = await Sandbox.connect(sandbox.sandboxId, { ...options, timeoutMs: 1000 });
    assert.equal(same.sandboxId, sandbox.sandboxId);
    assert.equal((await Sandbox.getInfo(sandbox.sandboxId, options)).endAt.getTime(), shorter.endAt.getTime());

    assert.equal(await Sandbox.pause(sandbox.sandboxId, options), true);
    assert.equal(await Sandbox.pause(sandbox.sandboxId, options), false);
    assert.equal((await Sandbox.getInfo(sandbox.sandboxId, options)).state, 'paused');
    await Sandbox.connect(sandbox.sandboxId, options);
    assert.equal((await Sandbox.getInfo(sandbox.sandboxId, options)).state, 'running');

    for (let more = 0; more < 4; more++) await Sandbox.create({ ...options, metadata: { group: 'x' } });
    const seen: string[] = [];
    const pages = Sandbox.list({ ...options, limit: 3, query: { state: ['running', 'paused'] } });
    while (pages.hasNext) seen.push(...(await pages.nextItems()).map((each) => each.sandboxId));
    assert.equal(seen.length, 5);
    assert.equal(new Set(seen).size, 5);
    const filtered = Sandbox.list({ ...options, query: { metadata: { 'k ey': 'v=1&2', plain: 'a+b' } } });
    assert.deepEqual(
      (await filtered.nextItems()).map((each) => each.sandboxId),
      [sandbox.sandboxId],
    );

    assert.equal(await Sandbox.kill(sandbox.sandboxId, options), true);
    assert.equal(await Sandbox.kill(sandbox.sandboxId, options), false);
    await assert.rejects(Sandbox.getInfo(sandbox.sandboxId, options), { name: /NotFound/ });
  });
}

test('the newest SDK turns errors into its own classes', async (t) => {
  const node = createFakeNode();
  const api = await serveAPI(node);
  t.after(api.close);
  const options = { apiUrl: api.url, apiKey: api.key };
  const stranger = { ...options, apiKey: `e2b_${'0'.repeat(40)}` };
  await assert.rejects(Newest.create('base', stranger), AuthenticationError);
  await assert.rejects(Newest.create('nothing-like-it', options), (error: Error) => {
    assert.ok(error instanceof NotFoundError || error instanceof SandboxError);
    return /template 'nothing-like-it' not found/.test(error.message);
  });
  const { sandboxId } = await Newest.create('base', options);
  node.failNext(new CoppiceError('not_implemented', 'pause is not implemented for such sandboxes yet'));
  await assert.rejects(Newest.pause(sandboxId, options), /pause is not implemented for such sandboxes yet/);
  await assert.rejects(
    Newest.create('base', { ...options, network: { allowOut: ['1.1.1.1'] } }),
    /network\.allowOut is not supported/,
  );
  await Newest.create('base', { ...options, network: { denyOut: ['0.0.0.0/0'] } });
  assert.equal(node.requests.at(-1)!.network.allowInternetAccess, false);
});
