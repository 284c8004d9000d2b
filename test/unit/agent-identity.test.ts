import assert from 'node:assert/strict';
import fs from 'node:fs';
import path from 'node:path';
import test, { after, before } from 'node:test';
import { realPowers } from '../../guest/agent/powers.ts';
import type { AgentError } from '../../src/channel/agent.ts';
import { type HostAgent, startHostAgent } from '../helpers/host-agent.ts';

let agent: HostAgent;
before(async () => {
  agent = await startHostAgent();
});
after(() => agent.stop());
const file = (name: string): string => fs.readFileSync(path.join(agent.root, name), 'utf8');

test('a whole identity sets clock, entropy, network, names and files', async () => {
  fs.writeFileSync(path.join(agent.root, 'etc/hosts'), '127.0.0.1\tlocalhost\n127.0.1.1\told-name\n10.0.0.1\tmine\n');
  fs.writeFileSync(path.join(agent.root, 'dbus/machine-id'), 'old');
  const network = { address: '10.9.0.7', prefix: 32, gateway: '169.254.9.1' };
  const clockMs = Date.now() - 60_000;
  const result = await agent.client.identity({
    hostname: 'sandbox-1',
    machineID: '0123456789abcdef0123456789abcdef',
    generation: '4b7ae6ee-0000-4000-8000-000000000001',
    clockMs,
    entropy: Buffer.alloc(48, 7).toString('base64'),
    network,
    sandboxID: 'isandbox',
    templateID: 'template1',
    env: { A: '1' },
  });
  assert.equal(result.hostname, 'sandbox-1');
  assert.ok(result.clockSkewMs! > 59_000 && result.clockSkewMs! < 90_000);
  const used = agent.powersUsed();
  assert.deepEqual(used.slice(0, -1), [
    { power: 'entropy', value: 48 },
    { power: 'network', value: network },
    { power: 'hostname', value: 'sandbox-1' },
  ]);
  // The clock is last, and set to what was sent and the time that the rest has taken.
  assert.equal(used.at(-1)?.power, 'clock');
  const late = (used.at(-1)?.value as number) - clockMs;
  assert.ok(late >= 0 && late < 10_000, `the clock was set ${late} ms late`);
  assert.equal(file('etc/hostname'), 'sandbox-1\n');
  assert.equal(file('etc/hosts'), '127.0.0.1\tlocalhost\n10.0.0.1\tmine\n127.0.1.1\tsandbox-1\n');
  assert.equal(file('etc/machine-id'), '0123456789abcdef0123456789abcdef\n');
  assert.equal(file('dbus/machine-id'), '0123456789abcdef0123456789abcdef\n');
  assert.equal(file('run/coppice/generation'), '4b7ae6ee-0000-4000-8000-000000000001');
  assert.equal(file('run/coppice/sandbox-id'), 'isandbox');
  assert.equal(file('run/coppice/template-id'), 'template1');
  assert.equal(file('run/e2b/.E2B_SANDBOX'), 'true');
  assert.equal(file('run/e2b/.E2B_SANDBOX_ID'), 'isandbox');
  assert.equal(file('run/e2b/.E2B_TEMPLATE_ID'), 'template1');
  assert.equal(fs.statSync(path.join(agent.root, 'run/coppice/generation')).mode & 0o777, 0o444);
});

test('a second identity replaces what it names and leaves the rest', async () => {
  const used = agent.powersUsed().length;
  const result = await agent.client.identity({ generation: 'second', env: { B: '2' } });
  assert.equal(result.hostname, 'sandbox-1');
  assert.equal(result.clockSkewMs, undefined);
  assert.equal(agent.powersUsed().length, used);
  assert.equal(file('run/coppice/generation'), 'second');
  assert.equal(file('run/coppice/sandbox-id'), 'isandbox');
  const process = await agent.client.spawn({
    cmd: 'sh',
    args: ['-c', 'echo "$A|$B|$COPPICE_GENERATION"'],
    stdin: false,
  });
  let out = '';
  for await (const item of process.output) if (item.type === 'data') out += Buffer.from(item.bytes);
  assert.equal(out, '|2|second\n');
});

test('a name of another length leaves nothing of the one before, and what others wrote to hosts stays', async () => {
  await agent.client.identity({ hostname: 'a-much-longer-name-than-before' });
  assert.equal(file('etc/hosts').split('\n').at(-2), '127.0.1.1\ta-much-longer-name-than-before');
  fs.appendFileSync(path.join(agent.root, 'etc/hosts'), '10.0.0.2\tlater\n');
  const result = await agent.client.identity({ hostname: 'short' });
  assert.equal(result.hostname, 'short');
  assert.equal(file('etc/hostname'), 'short\n');
  assert.equal(file('etc/hosts'), '127.0.0.1\tlocalhost\n10.0.0.1\tmine\n10.0.0.2\tlater\n127.0.1.1\tshort\n');
});

test('who watches the generation is told of a new one, and never reads half of it', async () => {
  const generations = ['a', 'b'].map((digit) => `${digit.repeat(8)}-0000-4000-8000-${digit.repeat(12)}`);
  await agent.client.identity({ generation: generations[0]! });
  const { ino } = fs.statSync(path.join(agent.root, 'run/coppice/generation'));
  const watch = await agent.client.watch(path.join(agent.root, 'run/coppice'), {
    recursive: false,
    includeEntry: false,
  });
  await agent.client.identity({ generation: generations[1]! });
  for await (const { event, name } of watch.events) {
    assert.deepEqual([event, name], ['write', 'generation']);
    break;
  }
  watch.close();
  assert.equal(file('run/coppice/generation'), generations[1]);
  assert.equal(fs.statSync(path.join(agent.root, 'run/coppice/generation')).ino, ino);

  const seen = new Set<string>();
  let over = false;
  const reader = (async () => {
    while (!over) {
      seen.add(await fs.promises.readFile(path.join(agent.root, 'run/coppice/generation'), 'utf8'));
    }
  })();
  for (let round = 0; round < 200; round++) await agent.client.identity({ generation: generations[round % 2]! });
  over = true;
  await reader;
  for (const text of seen) assert.ok(generations.includes(text), text);
});

test('a restored machine cuts its connections after it has its network, and finds files that were replaced', async () => {
  const generation = path.join(agent.root, 'run/coppice/generation');
  fs.rmSync(generation);
  fs.writeFileSync(generation, 'written by somebody, and longer than what comes now');
  fs.writeFileSync(path.join(agent.root, 'etc/machine-id'), `${'f'.repeat(40)}\n`);
  const before = agent.powersUsed().length;
  const { connections } = await agent.client.identity({
    generation: 'restored',
    machineID: 'fedcba9876543210fedcba9876543210',
    network: null,
    cutConnections: true,
  });
  assert.deepEqual(connections, { cut: 2, left: 0 });
  assert.deepEqual(
    agent.powersUsed().slice(before),
    ['network', 'connections'].map((power) => ({ power, value: null })),
  );
  assert.equal(file('run/coppice/generation'), 'restored');
  assert.equal(file('etc/machine-id'), 'fedcba9876543210fedcba9876543210\n');
  assert.equal((await agent.client.identity({ generation: 'once more' })).connections, undefined);
});

test('after a restore the generation is closed once it is complete, for who waits for that', async () => {
  await agent.client.identity({ generation: 'before' });
  const generation = path.join(agent.root, 'run/coppice/generation');
  const [modify, closeWrite] = [0x2, 0x8];
  const powers = realPowers();
  const inotify = powers.inotifyOpen();
  const watch = powers.inotifyAdd(inotify, generation, modify | closeWrite);
  await agent.client.identity({ generation: 'after', cutConnections: true });
  const events = Buffer.alloc(4_096);
  const count = fs.readSync(inotify, events);
  const masks: number[] = [];
  for (let at = 0; at < count; at += 16) masks.push(events.readUInt32LE(at + 4));
  powers.inotifyRemove(inotify, watch);
  fs.closeSync(inotify);
  assert.equal(masks[0], modify);
  assert.equal(masks.indexOf(closeWrite), masks.length - 1);
  assert.equal(file('run/coppice/generation'), 'after');
});

test('a clock within 5 ms is left alone', async () => {
  const used = agent.powersUsed().length;
  // The wish is repeated until the wire was fast enough for the clock to count as right.
  const deadline = performance.now() + 5_000;
  for (;;) {
    const before = agent.powersUsed().length;
    const { clockSkewMs } = await agent.client.identity({ clockMs: Date.now() });
    if (Math.abs(clockSkewMs!) <= 5) {
      assert.equal(agent.powersUsed().length, before);
      break;
    }
    assert.ok(performance.now() < deadline);
  }
  assert.ok(agent.powersUsed().length >= used);
});

for (const [what, identity] of [
  ['a host name with a line break', { hostname: 'a\nb' }],
  ['a host name that begins with a dash', { hostname: '-a' }],
  ['a host name of 64 letters', { hostname: 'a'.repeat(64) }],
  ['a short machine id', { machineID: 'abc' }],
  ['a machine id in capitals', { machineID: '0123456789ABCDEF0123456789ABCDEF' }],
  ['too little entropy', { entropy: 'AAAA' }],
  ['a clock that is no number', { clockMs: Number.NaN }],
] as const) {
  test(`${what} is refused`, async () => {
    await assert.rejects(agent.client.identity(identity), (error: AgentError) => error.code === 'invalid_argument');
  });
}

test('metrics, quiesce and sync answer', async () => {
  const metrics = await agent.client.metrics();
  assert.ok(metrics.cpuCount >= 1 && metrics.memTotal > metrics.memUsed && metrics.diskTotal >= metrics.diskUsed);
  await agent.client.quiesce();
  assert.equal(agent.powersUsed().at(-1)?.power, 'sync');
  const before = agent.powersUsed().length;
  assert.equal(await agent.client.sync({ timeoutMs: 5_000 }), true);
  assert.deepEqual(
    agent
      .powersUsed()
      .slice(before)
      .map(({ power }) => power),
    ['sync'],
  );
  for (const timeoutMs of [0, 1.5, 600_001])
    await assert.rejects(
      agent.client.sync({ timeoutMs }),
      (error: AgentError) => error.code === 'invalid_argument',
      String(timeoutMs),
    );
});

test('the time of a claim, for the record', async (t) => {
  const started = performance.now();
  for (let n = 0; n < 300; n++) await agent.client.identity({ env: { A: String(n) } });
  t.diagnostic(`${((performance.now() - started) / 300).toFixed(3)} ms a claim over a unix socket`);
});
