/** The small routes, cross-origin rules, and what an envd does when callers leave or it is closed. */
import assert from 'node:assert/strict';
import { connect } from 'node:net';
import test from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { AgentError } from '../../src/channel/agent.ts';
import { createEnvd } from '../../src/envd/envd.ts';
import { silentLog } from '../../src/telemetry/log.ts';
import { fakeAgent, serve, until } from './envd-harness.ts';

const open = { accessToken: undefined };

test('health, metrics, environment', async () => {
  await using served = await serve(fakeAgent(), open);
  const health = await fetch(`${served.url}/health`);
  assert.equal(health.status, 204);
  assert.deepEqual(await (await fetch(`${served.url}/envs`)).json(), { E2B_SANDBOX: 'true', E2B_SANDBOX_ID: 'sbx1' });
  const { ts, ...metrics } = (await (await fetch(`${served.url}/metrics`)).json()) as Record<string, number>;
  assert.ok(Math.abs(ts! - Date.now() / 1_000) < 5);
  assert.deepEqual(metrics, {
    cpu_count: 2,
    cpu_used_pct: 12.5,
    mem_total: 1024 ** 3,
    mem_used: 512 * 1024 ** 2,
    mem_cache: 1,
    mem_total_mib: 1_024,
    mem_used_mib: 512,
    disk_used: 5,
    disk_total: 10,
  });
});

test('what belongs to the control plane does not exist here', async () => {
  await using served = await serve(fakeAgent());
  for (const path of ['/init', '/freeze', '/unfreeze', '/collapse', '/fsfreeze', '/fsthaw']) {
    for (const method of ['GET', 'POST']) {
      const response = await fetch(served.url + path, { method });
      assert.equal(response.status, 404);
      const body = (await response.json()) as { code: number; message: string };
      assert.equal(body.code, 404);
      assert.match(body.message, /reserved for the E2B control plane/);
    }
  }
  const unknown = await fetch(`${served.url}/nope`);
  assert.equal(unknown.status, 404);
  assert.equal(((await unknown.json()) as { code: number }).code, 404);
  const wrong = await fetch(`${served.url}/health`, { method: 'POST' });
  assert.equal(wrong.status, 405);
  assert.equal(wrong.headers.get('allow'), 'GET');
});

test('any origin may call, with any header', async () => {
  await using served = await serve(fakeAgent());
  const preflight = await fetch(`${served.url}/process.Process/Start`, {
    method: 'OPTIONS',
    headers: {
      Origin: 'https://page.example',
      'Access-Control-Request-Method': 'POST',
      'Access-Control-Request-Headers': 'authorization, x-access-token',
    },
  });
  assert.equal(preflight.status, 204);
  assert.equal(preflight.headers.get('access-control-allow-origin'), '*');
  assert.equal(preflight.headers.get('access-control-allow-headers'), 'authorization, x-access-token');
  assert.match(preflight.headers.get('access-control-allow-methods')!, /POST/);
  const refused = await fetch(`${served.url}/envs`, { headers: { Origin: 'https://page.example' } });
  assert.equal(refused.status, 401);
  assert.equal(refused.headers.get('access-control-allow-origin'), '*');
  assert.match(refused.headers.get('access-control-expose-headers')!, /Content-Disposition/);
});

test('a sandbox whose agent is gone answers 502; to Connect it is unavailable', async () => {
  const lost = () => Promise.reject(new AgentError('unavailable', 'the channel is closed'));
  await using served = await serve(fakeAgent(), { ...open, agent: lost });
  for (const path of ['/files?path=x', '/metrics']) {
    const response = await fetch(served.url + path);
    assert.equal(response.status, 502);
    assert.equal(((await response.json()) as { message: string }).message, 'The sandbox was not found');
  }
  const rpc = await fetch(`${served.url}/process.Process/List`, {
    method: 'POST',
    headers: { 'Content-Type': 'application/json' },
    body: '{}',
  });
  assert.equal(rpc.status, 503);
  assert.deepEqual(await rpc.json(), { code: 'unavailable', message: 'the channel is closed' });
});

test('a fault below is told without its words', async () => {
  const broken = () => {
    throw new TypeError('secret detail');
  };
  await using served = await serve(fakeAgent(), { ...open, agent: broken });
  const response = await fetch(`${served.url}/metrics`);
  assert.equal(response.status, 500);
  assert.deepEqual(await response.json(), { code: 500, message: 'internal error' });
  const rpc = await fetch(`${served.url}/process.Process/List`, {
    method: 'POST',
    headers: { 'Content-Type': 'application/json' },
    body: '{}',
  });
  assert.doesNotMatch(await rpc.text(), /secret/);
});

test('a caller that leaves in mid-upload ends the write; one that leaves in mid-download ends the read', async () => {
  const agent = fakeAgent();
  await using served = await serve(agent, open);
  let ended: unknown;
  agent.write = async (_path, body) => {
    try {
      for await (const _ of body);
    } catch (error) {
      ended = error;
      throw error;
    }
    return agent.stat('/home/user');
  };
  const { port } = new URL(served.url);
  const socket = connect(Number(port), '127.0.0.1');
  socket.write('POST /files?path=x HTTP/1.1\r\nHost: x\r\nContent-Type: application/octet-stream\r\n');
  socket.write('Content-Length: 1000\r\n\r\nhalf');
  await sleep(50);
  socket.destroy();
  await until(() => ended instanceof Error, 'the write has failed');

  let cancelled = false;
  agent.files.set('/home/user/big', { bytes: Buffer.alloc(1), metadata: {}, user: 'user' });
  const entry = { ...(await agent.stat('big')), size: 1e12 };
  agent.read = async () => ({
    entry,
    body: (async function* () {
      for (;;) {
        await sleep(1);
        yield Buffer.alloc(65_536);
      }
    })(),
    cancel: () => {
      cancelled = true;
    },
  });
  const leaver = new AbortController();
  const response = await fetch(`${served.url}/files?path=big`, { signal: leaver.signal });
  assert.equal(response.status, 200);
  leaver.abort();
  await until(() => cancelled, 'the read is cancelled');
});

test('a file that shrinks while it is read breaks the download off', async () => {
  const agent = fakeAgent();
  await using served = await serve(agent, open);
  agent.files.set('/home/user/f', { bytes: Buffer.from('short'), metadata: {}, user: 'user' });
  const read = agent.read.bind(agent);
  agent.read = async (...args) => {
    const file = await read(...args);
    return { ...file, entry: { ...file.entry, size: 100 } };
  };
  const response = await fetch(`${served.url}/files?path=f`, { headers: { 'Accept-Encoding': 'identity' } });
  await assert.rejects(response.arrayBuffer());
});

test('close cuts what is open, at once', async () => {
  const agent = fakeAgent();
  await using served = await serve(agent, open);
  agent.metrics = () => new Promise(() => {});
  const waiting = assert.rejects(fetch(`${served.url}/metrics`));
  const upload = assert.rejects(
    fetch(`${served.url}/files?path=x`, {
      method: 'POST',
      headers: { 'Content-Type': 'application/octet-stream' },
      body: new ReadableStream({ start: (controller) => controller.enqueue(Buffer.from('half')) }),
      duplex: 'half',
    } as RequestInit),
  );
  await sleep(50);
  served.envd.close(new Error('killed'));
  served.envd.close(new Error('twice is fine'));
  await Promise.all([waiting, upload]);
});

test('an envd is cheap to make', () => {
  const agent = fakeAgent();
  const sandbox = {
    sandboxID: 's',
    templateID: 't',
    accessToken: 'x',
    agent: () => agent,
    env: {},
    defaultUser: 'user',
  };
  const count = 2_000;
  const began = performance.now();
  for (let i = 0; i < count; i++) createEnvd(sandbox, { log: silentLog });
  const each = (performance.now() - began) / count;
  assert.ok(each < 0.2, `${each} ms each`);
});
