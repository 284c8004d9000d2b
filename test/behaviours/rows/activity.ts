import assert from 'node:assert/strict';
import { setTimeout as sleep } from 'node:timers/promises';
import { Sandbox } from 'e2b';
import { ask, eventually, say } from '../support/asks.ts';
import type { Behaviour, BehaviourContext } from '../support/behaviour.ts';

interface Entry {
  readonly timestamp: string;
  readonly level: string;
  readonly message: string;
  readonly fields: Readonly<Record<string, string>>;
}

async function get<T>({ service }: BehaviourContext, path: string): Promise<T> {
  const response = await fetch(`${service.url}${path}`, { headers: { 'x-api-key': service.apiKey } });
  assert.equal(response.status, 200, `${path}: ${await response.clone().text()}`);
  return (await response.json()) as T;
}

const logOf = async (context: BehaviourContext, id: string): Promise<readonly Entry[]> =>
  (await get<{ logs: Entry[] }>(context, `/v2/sandboxes/${id}/logs?direction=forward`)).logs;

export default [
  {
    name: 'its use of the host is told, a point every five seconds from its first ten on',
    on: 'every kind',
    run: async ({ sandbox: create }) => {
      const begun = Date.now();
      const sandbox = await create();
      const first = await eventually(
        'the first point',
        () => sandbox.getMetrics(),
        (points) => points.length > 0,
        30_000,
      );
      assert.ok(Date.now() - begun < 20_000, `${Date.now() - begun} ms`);
      const [point] = first;
      assert.equal(point!.cpuCount, 1);
      assert.ok(point!.memUsed > 0 && point!.memUsed < point!.memTotal, JSON.stringify(point));
      assert.ok(point!.memTotal > 400 * 2 ** 20 && point!.memTotal <= 512 * 2 ** 20, JSON.stringify(point));
      assert.ok(point!.diskUsed >= 0 && point!.diskUsed < point!.diskTotal);
      assert.ok(point!.diskTotal > 900 * 2 ** 20 && point!.diskTotal < 64 * 2 ** 30, JSON.stringify(point));
      const points = await eventually(
        'three points',
        () => sandbox.getMetrics(),
        (found) => found.length >= 3,
        30_000,
      );
      const times = points.map(({ timestamp }) => timestamp.getTime());
      for (const [index, time] of times.slice(1).entries())
        assert.ok(Math.abs(time - times[index]! - 5_000) < 2_500, String(times));
      assert.deepEqual(await sandbox.getMetrics({ end: new Date(begun - 2_000) }), []);
    },
  },
  {
    name: 'what it computes, holds and writes shows in its metrics',
    on: 'every kind',
    run: async ({ sandbox: create }) => {
      const sandbox = await create();
      const idle = (
        await eventually(
          'a point',
          () => sandbox.getMetrics(),
          (points) => points.length > 0,
          30_000,
        )
      ).at(-1)!;
      assert.ok(idle.cpuUsedPct < 60, String(idle.cpuUsedPct));
      await say(sandbox, 'head -c 80000000 /dev/urandom > /home/user/filled && sync');
      // Half of it in memory of its own, then at work on it.
      const work = `exec perl -e '$x = "x" x 120000000; my $end = time + 40; while (time < $end) { $y++ }'`;
      const handle = await sandbox.commands.run(work, { background: true, timeoutMs: 0 });
      handle.wait().catch(() => {});
      const busy = await eventually(
        'a point that shows it',
        async () => (await sandbox.getMetrics()).at(-1)!,
        (point) =>
          point.cpuUsedPct > 30 &&
          point.memUsed > idle.memUsed + 80 * 2 ** 20 &&
          point.diskUsed > idle.diskUsed + 60 * 2 ** 20,
        60_000,
      );
      assert.ok(busy.cpuUsedPct <= 100);
    },
  },
  {
    name: 'the latest point of several; none of what is unknown',
    on: 'every kind',
    run: async (context) => {
      const sandbox = await context.sandbox();
      const path = `/sandboxes/metrics?sandbox_ids=${sandbox.sandboxId},inothing`;
      const { sandboxes } = await eventually(
        'a point',
        () => get<{ sandboxes: Record<string, { memUsed: number }> }>(context, path),
        ({ sandboxes }) => Object.keys(sandboxes).length > 0,
        30_000,
      );
      assert.deepEqual(Object.keys(sandboxes), [sandbox.sandboxId]);
      assert.ok(sandboxes[sandbox.sandboxId]!.memUsed > 0);
    },
  },
  {
    name: 'its log: what became of it and what its processes said, without secrets, after its end too',
    on: 'every kind',
    run: async (context) => {
      const sandbox = await context.sandbox({ envs: { OF_MINE: 'a-secret-of-mine' } });
      await ask(sandbox, 'echo out; echo err >&2; echo $OF_MINE $OWN; exit 3', { envs: { OWN: 'another-secret' } });
      await sandbox.setTimeout(500_000);
      await sandbox.kill();
      await sleep(50);
      const log = await logOf(context, sandbox.sandboxId);
      const found = log.map(({ level, message, fields }) => [level, message, fields.stream ?? fields.exitCode ?? '']);
      // Its two streams are read as they come.
      found.splice(2, 3, ...found.slice(2, 5).sort());
      assert.deepEqual(found, [
        ['info', 'created', ''],
        ['info', 'process started', ''],
        ['info', '[redacted] [redacted]', 'stdout'],
        ['info', 'out', 'stdout'],
        ['warn', 'err', 'stderr'],
        ['warn', 'process ended', '3'],
        ['debug', 'timeout set', ''],
        ['info', 'killed: killed by its owner', ''],
      ]);
      assert.doesNotMatch(JSON.stringify(log), /secret/);
      // As E2B's command line reads it.
      const { logs } = await get<{ logs: { timestamp: string; line: string }[] }>(
        context,
        `/sandboxes/${sandbox.sandboxId}/logs`,
      );
      assert.deepEqual(
        logs.map(({ line }) => (JSON.parse(line) as { level: string }).level),
        log.map(({ level }) => level.toUpperCase()),
      );
    },
  },
  {
    name: 'its life as events: created, paused, resumed, killed, each with its run',
    on: 'every kind',
    run: async (context) => {
      const { sandboxId } = await context.sandbox({ metadata: { of: 'this row' } });
      await Sandbox.pause(sandboxId, context.service.sdk);
      await Sandbox.connect(sandboxId, context.service.sdk);
      await Sandbox.kill(sandboxId, context.service.sdk);
      const events = await get<{ type: string; sandbox_execution_id: string; event_data: object }[]>(
        context,
        `/events/sandboxes/${sandboxId}?orderAsc=true`,
      );
      assert.deepEqual(
        events.map(({ type }) => type.replace('sandbox.lifecycle.', '')),
        ['created', 'paused', 'resumed', 'killed'],
      );
      const [created, paused, resumed, killed] = events.map((event) => event.sandbox_execution_id);
      assert.equal(paused, created);
      assert.equal(killed, resumed);
    },
  },
] satisfies Behaviour[];
