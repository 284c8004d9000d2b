import assert from 'node:assert/strict';
import { Sandbox } from 'e2b';
import { PATIENT, say } from '../support/asks.ts';
import type { Behaviour } from '../support/behaviour.ts';
import { notYet } from '../support/not-yet.ts';

const refused = {
  ...notYet((sandbox) =>
    sandbox.fork().then((made) => {
      for (const one of made) if (one instanceof Error) throw one;
    }),
  ),
  reason: 'its memory cannot be captured',
};

export default [
  {
    name: 'forked with its processes and its memory, while it goes on',
    on: { jail: refused },
    run: async ({ sandbox: create, atEnd }) => {
      const sandbox = await create();
      const handle = await sandbox.commands.run('exec sleep 1000', { background: true, timeoutMs: 0 });
      await sandbox.files.write('kept', 'kept');
      const [twin] = await sandbox.fork(PATIENT);
      assert.ok(twin instanceof Sandbox);
      atEnd(() => twin.kill());
      assert.equal(await twin.files.read('kept'), 'kept');
      assert.ok((await twin.commands.list()).some((one) => one.pid === handle.pid));
      assert.ok((await sandbox.commands.list()).some((one) => one.pid === handle.pid));
      assert.equal(await say(twin, 'hostname'), twin.sandboxId);
      const generation = 'cat /run/coppice/generation; echo; echo $COPPICE_GENERATION';
      const [mine, its] = [await say(sandbox, generation), await say(twin, generation)];
      assert.notEqual(mine, its);
      assert.equal(new Set(its.split('\n')).size, 1, 'file and environment agree');
    },
  },
  {
    name: 'a file and a variable, written out, in twenty forks: each has both, and none sees another’s own',
    on: { jail: refused },
    alone: true,
    run: async ({ codeSandbox: create, service, atEnd }) => {
      const sandbox = await create({ timeoutMs: 900_000 });
      await sandbox.runCode('import random, os\nshared = "in memory"', PATIENT);
      await say(
        sandbox,
        'echo on disk > /home/user/shared; sync; echo 3 | sudo tee /proc/sys/vm/drop_caches >/dev/null',
      );
      const forks = await sandbox.fork({ ...PATIENT, count: 20, timeoutMs: 600_000, requestTimeoutMs: 180_000 });
      const made = forks.map((one) => {
        assert.ok(!(one instanceof Error), String(one));
        return one;
      });
      atEnd(() => Promise.all(made.map((one) => one.kill())));
      assert.equal(new Set(made.map((one) => one.sandboxId)).size, 20);
      const draws = new Set<string>();
      for (const [index, one] of made.entries()) {
        const code = `open("/home/user/own", "w").write("${index}")\nown = ${index}\nprint(shared, open("/home/user/shared").read().strip(), random.random(), os.urandom(8).hex())`;
        const { logs, error } = await one.runCode(code, PATIENT);
        assert.equal(error, undefined);
        const line = logs.stdout.join('').trim();
        assert.match(line, /^in memory on disk /);
        draws.add(line);
      }
      assert.equal(draws.size, 20, 'none draws what another drew');
      for (const [index, one] of made.entries()) {
        const { logs } = await one.runCode('print(own, open("/home/user/own").read())', PATIENT);
        assert.equal(logs.stdout.join('').trim(), `${index} ${index}`);
      }
      assert.equal((await sandbox.runCode('shared', PATIENT)).text, 'in memory');
      assert.equal(await sandbox.files.exists('/home/user/own'), false);
      assert.deepEqual((await service.leaks()).details, []);
    },
  },
] satisfies Behaviour[];
