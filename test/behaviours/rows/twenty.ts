import assert from 'node:assert/strict';
import { Sandbox } from '@e2b/code-interpreter';
import type { Behaviour } from '../support/behaviour.ts';

const COUNT = 20;

/** One answer of every generator that a program of the sandbox could ask, and its names. */
const DRAW = `import os, uuid, random, numpy, json, subprocess, time
json.dumps(dict(urandom=os.urandom(16).hex(), uuid4=str(uuid.uuid4()), random=random.random(),
  numpy=float(numpy.random.random()), default_rng=float(numpy.random.default_rng().random()),
  machine_id=open('/etc/machine-id').read().strip(), hostname=os.uname().nodename,
  generation=open('/run/coppice/generation').read().strip(), own=json.dumps(MINE),
  node=subprocess.run(['node','-p','crypto.randomBytes(16).toString("hex")'],capture_output=True,text=True).stdout.strip()))`;

const DISTINCT = ['urandom', 'uuid4', 'random', 'numpy', 'default_rng', 'machine_id', 'hostname', 'generation', 'node'];

export default [
  {
    name: 'twenty at once: each its own state, generators and names',
    on: 'every kind',
    alone: true,
    run: async ({ kind, service, atEnd }) => {
      const options = { timeoutMs: 200_000, requestTimeoutMs: 200_000 };
      const made: Promise<Sandbox>[] = [];
      atEnd(async () => {
        for (const one of await Promise.allSettled(made)) if (one.status === 'fulfilled') await one.value.kill();
      });
      for (let index = 0; index < COUNT; index++)
        made.push(Sandbox.create(kind.code, { ...service.sdk, requestTimeoutMs: 200_000, timeoutMs: 900_000 }));
      const sandboxes = await Promise.all(made);
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
        assert.equal(values.own, String(index), 'its own variable and nobody else’s');
        assert.equal(values.hostname, sandboxes[index]!.sandboxId);
        assert.match(String(values.node), /^[0-9a-f]{32}$/);
      }
      for (const source of DISTINCT)
        assert.equal(new Set(drawn.map((values) => values[source])).size, COUNT, `${source} is distinct in all`);
    },
  },
] satisfies Behaviour[];
