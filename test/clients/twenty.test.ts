import assert from 'node:assert/strict';
import test from 'node:test';
import { Sandbox } from '@e2b/code-interpreter';
import { startService } from '../helpers/service.ts';

const COUNT = 20;
const service = await startService();
test.after(async () => assert.deepEqual((await service.stop()).details, []));

/** One answer of every generator that a program of the sandbox could ask, and its names. */
const DRAW = `import os, uuid, random, numpy, json, subprocess
json.dumps(dict(urandom=os.urandom(16).hex(), uuid4=str(uuid.uuid4()), random=random.random(),
  numpy=float(numpy.random.random()), default_rng=float(numpy.random.default_rng().random()),
  machine_id=open('/etc/machine-id').read().strip(), hostname=os.uname().nodename,
  generation=open('/run/coppice/generation').read().strip(), boot=json.dumps(MINE),
  node=subprocess.run(['node','-p','crypto.randomBytes(16).toString("hex")'],capture_output=True,text=True).stdout.strip()))`;

test('twenty at once: each its own state, generators, names and clock', async () => {
  const options = { timeoutMs: 300_000, requestTimeoutMs: 300_000 };
  const sandboxes = await Promise.all(
    Array.from({ length: COUNT }, () =>
      Sandbox.create('code-interpreter-v1', { ...service.sdk, requestTimeoutMs: 300_000, timeoutMs: 900_000 }),
    ),
  );
  try {
    assert.equal(new Set(sandboxes.map((one) => one.sandboxId)).size, COUNT);
    await Promise.all(sandboxes.map((one, index) => one.runCode(`MINE = ${index}`, options)));
    const drawn = await Promise.all(
      sandboxes.map(async (one) => {
        const run = await one.runCode(DRAW, options);
        assert.equal(run.error, undefined, run.error?.traceback);
        return JSON.parse(run.text!) as Record<string, string | number>;
      }),
    );
    for (const [index, values] of drawn.entries()) {
      assert.equal(values.boot, String(index), 'its own variable and nobody else’s');
      assert.equal(values.hostname, sandboxes[index]!.sandboxId);
      assert.match(String(values.node), /^[0-9a-f]{32}$/);
    }
    for (const source of [
      'urandom',
      'uuid4',
      'random',
      'numpy',
      'default_rng',
      'machine_id',
      'hostname',
      'generation',
      'node',
    ]) {
      assert.equal(new Set(drawn.map((values) => values[source])).size, COUNT, `${source} is distinct in all`);
    }
  } finally {
    await Promise.all(sandboxes.map((one) => one.kill()));
  }
});

test('the clock of a sandbox is within 100 ms of its host', async () => {
  const sandbox = await Sandbox.create('code-interpreter-v1', { ...service.sdk, timeoutMs: 300_000 });
  await sandbox.runCode('import time', { timeoutMs: 120_000 });
  // The guest's reading lies between the two of the host; the narrowest of several rounds bounds the difference best.
  let best = { width: Number.POSITIVE_INFINITY, skew: Number.NaN };
  for (let round = 0; round < 10; round++) {
    const before = Date.now();
    const run = await sandbox.runCode('time.time()', { timeoutMs: 120_000 });
    const after = Date.now();
    const width = after - before;
    if (width < best.width) best = { width, skew: Number(run.text) * 1000 - (before + after) / 2 };
  }
  assert.ok(Math.abs(best.skew) <= 100 + best.width / 2, `off by ${best.skew} ms (measured to ± ${best.width / 2} ms)`);
  await sandbox.kill();
});
