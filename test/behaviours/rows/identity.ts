import assert from 'node:assert/strict';
import { release } from 'node:os';
import type { Sandbox } from 'e2b';
import { ask, say, start } from '../support/asks.ts';
import type { Behaviour } from '../support/behaviour.ts';

export default [
  {
    name: 'names of its own: host name, hosts, machine id, generation, E2B’s files',
    on: 'every kind',
    run: async ({ sandbox: create }) => {
      const sandboxes = await Promise.all([create(), create()]);
      const seen = await Promise.all(
        sandboxes.map(async (sandbox) => {
          const lines = (
            await say(
              sandbox,
              'hostname; cat /etc/hostname; getent hosts "$(hostname)" | wc -l; cat /etc/machine-id /run/coppice/generation; echo; cat /run/e2b/.E2B_SANDBOX; echo; cat /run/e2b/.E2B_SANDBOX_ID',
            )
          )
            .split('\n')
            .filter(Boolean);
          const [name, inFile, resolved, machineID, generation, isSandbox, id] = lines;
          assert.deepEqual(
            [name, inFile, resolved, isSandbox, id],
            [sandbox.sandboxId, sandbox.sandboxId, '1', 'true', sandbox.sandboxId],
          );
          assert.match(machineID!, /^[0-9a-f]{32}$/);
          assert.match(generation!, /^[0-9a-f-]{36}$/);
          return { machineID, generation };
        }),
      );
      assert.notEqual(seen[0]!.machineID, seen[1]!.machineID);
      assert.notEqual(seen[0]!.generation, seen[1]!.generation);
    },
  },
  {
    name: 'files, processes and shared memory of one sandbox are not there in another',
    on: 'every kind',
    run: async ({ sandbox: create }) => {
      const [one, other] = await Promise.all([create(), create()]);
      const places = ['/home/user/m', '/tmp/m', '/dev/shm/m', '/etc/m', '/run/m', '/var/tmp/m', '/usr/bin/m'];
      const mark = places.map((place) => `sudo sh -c "echo secret > ${place}"`).join(' && ');
      await say(one, `${mark} && ls ${places.join(' ')}`);
      await start(one, 'exec -a a-mark-of-mine sleep 1000');
      assert.equal(await say(other, `ls ${places.join(' ')} 2>/dev/null || true`), '');
      assert.equal(await say(one, 'pgrep -fc "^a-mark-of-mine"'), '1');
      assert.equal((await ask(other, 'sudo pgrep -f "^a-mark-of-mine"')).exitCode, 1);
      assert.equal((await ask(other, "sudo grep -l 'a-mark-of-min[e]' /proc/[0-9]*/cmdline")).stdout, '');
      assert.ok(Number(await say(other, 'ps -e --no-headers | wc -l')) < 100, 'no process of the host');
    },
  },
  {
    name: 'nothing of the host or of the service is in reach: its files, its key, its processes, its sockets',
    on: 'every kind',
    run: async ({ sandbox: create, service }) => {
      const sandbox = await create();
      const { folder } = service.home;
      const all = await say(
        sandbox,
        'env; sudo cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline /proc/[0-9]*/mountinfo /proc/cmdline 2>/dev/null | tr "\\0" "\\n"',
      );
      assert.ok(all.includes('E2B_SANDBOX=true'), 'there was something to see');
      assert.ok(!all.includes(service.apiKey), 'the key of the service');
      for (const path of [folder, `${folder}/node`, `/proc/1/root${folder}`, `/proc/1/cwd${folder}`])
        assert.notEqual((await ask(sandbox, `sudo ls '${path}'`)).exitCode, 0, path);
      const unix = await say(sandbox, 'cat /proc/net/unix');
      assert.ok(!unix.includes('coppice/run') && !unix.includes(folder), 'no socket of the host');
    },
  },
  {
    name: 'the kernel: its own, or the host’s where that is what the kind means',
    on: 'every kind',
    run: async ({ kind, sandbox: create }) => {
      const sandbox = await create();
      assert.equal(await say(sandbox, 'uname -s'), 'Linux');
      if (!kind.ownKernel) assert.equal(await say(sandbox, 'uname -r'), release());
    },
  },
  {
    name: 'the clock is within 100 ms of the host’s',
    on: 'every kind',
    run: async ({ sandbox: create }) => {
      const sandbox = await create();
      // The guest's reading lies between the two of the host; the narrowest of several rounds bounds the difference best.
      const clock = await sandbox.commands.run(
        "python3 -uc 'import sys, time\nfor line in sys.stdin: print(time.time())'",
        { background: true, stdin: true, timeoutMs: 0 },
      );
      let best = { width: Number.POSITIVE_INFINITY, skew: Number.NaN };
      for (let round = 1; round <= 10; round++) {
        const before = Date.now();
        await clock.sendStdin('\n');
        const readings = await reading(clock, round);
        const after = Date.now();
        const width = after - before;
        if (width < best.width) best = { width, skew: readings * 1000 - (before + after) / 2 };
      }
      assert.ok(
        Math.abs(best.skew) <= 100 + best.width / 2,
        `off by ${best.skew} ms (measured to ± ${best.width / 2} ms)`,
      );
      await clock.kill();
    },
  },
] satisfies Behaviour[];

type Clock = Awaited<ReturnType<Sandbox['commands']['connect']>>;

async function reading(clock: Clock, round: number): Promise<number> {
  const end = Date.now() + 30_000;
  for (;;) {
    const lines = clock.stdout.split('\n');
    if (lines.length > round) return Number(lines[round - 1]);
    assert.ok(Date.now() < end, 'the clock answers');
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
}
