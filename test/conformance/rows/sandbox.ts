/** The sandbox itself: its life, what is told of it, how it is reached. */
import assert from 'node:assert/strict';
import { eventually, PATIENT, say } from '../../behaviours/support/asks.ts';
import type { Row, RowContext } from '../row.ts';

const left = async ({ sdk, sdkOptions }: RowContext, id: string): Promise<number> =>
  (await sdk.Sandbox.getInfo(id, sdkOptions)).endAt.getTime() - Date.now();

const near = (is: number, ms: number): void => assert.ok(Math.abs(is - ms) < 20_000, `${is} ms left, not ${ms}`);

/** Pauses, sees it paused, and has it back with what it had. */
async function pauses(context: RowContext, pause: (id: string) => Promise<boolean>): Promise<void> {
  const { sdk, sdkOptions } = context;
  const sandbox = await context.create();
  await sandbox.files.write('kept', 'kept');
  assert.equal(await pause(sandbox.sandboxId), true);
  assert.equal(await pause(sandbox.sandboxId), false, 'it is paused already');
  assert.equal((await sandbox.getInfo()).state, 'paused');
  const again = await sdk.Sandbox.connect(sandbox.sandboxId, { ...sdkOptions, ...PATIENT });
  assert.equal(await again.files.read('kept'), 'kept');
}

async function forked(context: RowContext, fork: (id: string) => Promise<readonly (object | Error)[]>): Promise<void> {
  const { sdk } = context;
  const sandbox = await context.create();
  await sandbox.files.write('kept', 'kept');
  const made = await fork(sandbox.sandboxId);
  assert.equal(made.length, 2);
  for (const one of made) {
    assert.ok(one instanceof sdk.Sandbox, String(one));
    context.atEnd(() => one.kill());
    assert.notEqual(one.sandboxId, sandbox.sandboxId);
    assert.equal(await one.files.read('kept'), 'kept');
  }
}

const noFork = (fork: (context: RowContext) => Promise<readonly (object | Error)[]>): Row['refused'] => ({
  on: ['jail'],
  reason: 'its memory cannot be captured',
  run: async (context) => {
    const outcome = await fork(context).catch((error: unknown) => [error]);
    assert.ok(outcome.length > 0);
    for (const one of outcome) assert.match(String(one), /501|memory/i);
    assert.equal(await context.sandbox.isRunning(), true);
  },
});

const told = async (id: string, metrics: () => Promise<readonly { memUsed: number; cpuCount: number }[]>) => {
  const found = await eventually(`metrics of ${id}`, metrics, (points) => points.length > 0, 30_000);
  assert.equal(found[0]!.cpuCount, 1);
  assert.ok(found[0]!.memUsed > 0);
};

export default [
  {
    method: 'Sandbox.create',
    proves: 'of a template, with environment, metadata and time; it runs, and is itself',
    run: async ({ create, tag }) => {
      const sandbox = await create({ envs: { MINE: 'yes' }, metadata: { tag }, timeoutMs: 60_000 });
      assert.match(sandbox.sandboxId, /^i[a-z0-9]{20}$/);
      assert.equal(await say(sandbox, 'echo $MINE; hostname'), `yes\n${sandbox.sandboxId}`);
      const info = await sandbox.getInfo();
      assert.deepEqual([info.metadata, info.state], [{ tag }, 'running']);
      near(info.endAt.getTime() - Date.now(), 60_000);
    },
  },
  {
    method: 'Sandbox.create',
    proves: 'of a template that there is not: an error that names it',
    run: async ({ sdk, sdkOptions }) => {
      await assert.rejects(sdk.Sandbox.create('no-such-template', sdkOptions), /no-such-template/);
      const stranger = { ...sdkOptions, apiKey: `e2b_${'0'.repeat(40)}` };
      await assert.rejects(sdk.Sandbox.create('base', stranger), sdk.AuthenticationError);
    },
  },
  {
    method: 'Sandbox.connect',
    proves: 'by its id; an id that there is not is a SandboxNotFoundError',
    run: async ({ sdk, sdkOptions, sandbox }) => {
      const again = await sdk.Sandbox.connect(sandbox.sandboxId, sdkOptions);
      assert.equal(await say(again, 'hostname'), sandbox.sandboxId);
      await assert.rejects(sdk.Sandbox.connect(`i${'0'.repeat(20)}`, sdkOptions), sdk.SandboxNotFoundError);
    },
  },
  {
    method: 'sandbox.connect',
    proves: 'resumes what is paused, and moves the deadline',
    run: async (context) => {
      const sandbox = await context.create();
      await sandbox.pause(PATIENT);
      const same = await sandbox.connect({ ...PATIENT, timeoutMs: 900_000 });
      assert.equal(same.sandboxId, sandbox.sandboxId);
      assert.equal(await sandbox.isRunning(), true);
      near(await left(context, sandbox.sandboxId), 900_000);
    },
  },
  {
    method: 'Sandbox.list',
    proves: 'those of some metadata and state',
    run: async ({ sdk, sdkOptions, create, tag }) => {
      const metadata = { listed: tag };
      const sandbox = await create({ metadata });
      const ids = async (state: 'running' | 'paused'): Promise<string[]> =>
        (await sdk.Sandbox.list({ ...sdkOptions, query: { metadata, state: [state] } }).nextItems()).map(
          (one) => one.sandboxId,
        );
      assert.deepEqual(await ids('running'), [sandbox.sandboxId]);
      assert.deepEqual(await ids('paused'), []);
    },
  },
  {
    method: 'sandboxes.nextItems',
    proves: 'page by page, each once, to the end',
    run: async ({ sdk, sdkOptions, create, tag }) => {
      const metadata = { pages: tag };
      const made = [(await create({ metadata })).sandboxId, (await create({ metadata })).sandboxId];
      const pages = sdk.Sandbox.list({ ...sdkOptions, limit: 1, query: { metadata } });
      const found: string[] = [];
      while (pages.hasNext) {
        const page = await pages.nextItems();
        assert.ok(page.length <= 1);
        found.push(...page.map((one) => one.sandboxId));
      }
      assert.deepEqual(found.sort(), made.sort());
    },
  },
  {
    method: 'Sandbox.getInfo',
    proves: 'its template, state, size and times; an id that there is not is refused',
    run: async ({ sdk, sdkOptions, sandbox }) => {
      const info = await sdk.Sandbox.getInfo(sandbox.sandboxId, sdkOptions);
      assert.deepEqual([info.sandboxId, info.state, info.cpuCount], [sandbox.sandboxId, 'running', 1]);
      assert.ok(info.startedAt.getTime() <= Date.now() && info.memoryMB >= 128);
      await assert.rejects(sdk.Sandbox.getInfo(`i${'0'.repeat(20)}`, sdkOptions), sdk.NotFoundError);
    },
  },
  {
    method: 'Sandbox.getFullInfo',
    proves: 'the same as getInfo',
    run: async ({ sdk, sdkOptions, sandbox }) => {
      const info = await sdk.Sandbox.getFullInfo(sandbox.sandboxId, sdkOptions);
      assert.equal(info.sandboxId, sandbox.sandboxId);
      assert.equal(info.envdVersion, (await sandbox.getInfo()).envdVersion);
    },
  },
  {
    method: 'sandbox.getInfo',
    proves: 'of itself',
    run: async ({ sandbox, sdk, sdkOptions }) => {
      const info = await sandbox.getInfo();
      assert.equal(info.sandboxId, sandbox.sandboxId);
      assert.equal(info.templateId, (await sdk.Sandbox.getInfo(sandbox.sandboxId, sdkOptions)).templateId);
    },
  },
  {
    method: 'Sandbox.getMetrics',
    proves: 'its use of processor, memory and disk',
    run: ({ sdk, sdkOptions, sandbox }) =>
      told(sandbox.sandboxId, () => sdk.Sandbox.getMetrics(sandbox.sandboxId, sdkOptions)),
  },
  {
    method: 'sandbox.getMetrics',
    proves: 'of a span of time',
    run: async ({ sandbox }) => {
      await told(sandbox.sandboxId, () => sandbox.getMetrics());
      assert.deepEqual(await sandbox.getMetrics({ end: new Date(Date.now() - 3_600_000) }), []);
    },
  },
  {
    method: 'Sandbox.setTimeout',
    proves: 'moves the deadline by id',
    run: async (context) => {
      const sandbox = await context.create();
      await context.sdk.Sandbox.setTimeout(sandbox.sandboxId, 120_000, context.sdkOptions);
      near(await left(context, sandbox.sandboxId), 120_000);
    },
  },
  {
    method: 'sandbox.setTimeout',
    proves: 'later and sooner; none left is the end',
    run: async (context) => {
      const sandbox = await context.create();
      await sandbox.setTimeout(900_000);
      near(await left(context, sandbox.sandboxId), 900_000);
      await sandbox.setTimeout(60_000);
      near(await left(context, sandbox.sandboxId), 60_000);
      await sandbox.setTimeout(0);
      await eventually(
        'it has ended',
        () => sandbox.isRunning(),
        (running) => !running,
        10_000,
      );
    },
  },
  {
    method: 'Sandbox.updateNetwork',
    proves: 'by id: the internet is cut, and is there again; an id that there is not is refused',
    run: async (context) => {
      const { sandboxId } = await context.create();
      const { sdk, sdkOptions } = context;
      const allows = async () => (await sdk.Sandbox.getInfo(sandboxId, sdkOptions)).allowInternetAccess;
      await sdk.Sandbox.updateNetwork(sandboxId, { denyOut: ['0.0.0.0/0'] }, sdkOptions);
      assert.equal(await allows(), false);
      await sdk.Sandbox.updateNetwork(sandboxId, {}, sdkOptions);
      assert.notEqual(await allows(), false);
      await assert.rejects(sdk.Sandbox.updateNetwork('inothing', {}, sdkOptions), /not found|doesn't exist/i);
    },
  },
  {
    method: 'sandbox.updateNetwork',
    proves: 'the internet is cut; what is not enforced is refused by name',
    run: async (context) => {
      const sandbox = await context.create();
      await sandbox.updateNetwork({ allowInternetAccess: false });
      assert.equal((await sandbox.getInfo()).allowInternetAccess, false);
      await assert.rejects(sandbox.updateNetwork({ allowOut: ['203.0.113.9'] }), /allowOut/);
    },
  },
  {
    method: 'sandbox.isRunning',
    proves: 'true while it runs, false when it was killed',
    run: async ({ create }) => {
      const sandbox = await create();
      assert.equal(await sandbox.isRunning(), true);
      await sandbox.kill();
      assert.equal(await sandbox.isRunning(), false);
    },
  },
  {
    method: 'Sandbox.kill',
    proves: 'ends it by id; false when there is nothing to end',
    run: async ({ create, sdk, sdkOptions }) => {
      const { sandboxId } = await create();
      assert.equal(await sdk.Sandbox.kill(sandboxId, sdkOptions), true);
      assert.equal(await sdk.Sandbox.kill(sandboxId, sdkOptions), false);
    },
  },
  {
    method: 'sandbox.kill',
    proves: 'ends it; commands are refused then',
    run: async ({ create }) => {
      const sandbox = await create();
      assert.equal(await sandbox.kill(), true);
      assert.equal(await sandbox.kill(), false);
      await assert.rejects(sandbox.commands.run('true'));
    },
  },
  {
    method: 'Sandbox.pause',
    proves: 'by id, and it comes back with its files',
    run: (context) => pauses(context, (id) => context.sdk.Sandbox.pause(id, { ...context.sdkOptions, ...PATIENT })),
  },
  {
    method: 'Sandbox.betaPause',
    proves: 'the same as pause',
    run: (context) => pauses(context, (id) => context.sdk.Sandbox.betaPause(id, { ...context.sdkOptions, ...PATIENT })),
  },
  {
    method: 'sandbox.pause',
    proves: 'its processes and what they hold in memory go on when it is resumed',
    run: async ({ create }) => {
      const sandbox = await create();
      const { pid } = await sandbox.commands.run('exec sleep 1000', { background: true, timeoutMs: 0 });
      await say(sandbox, 'echo held > /dev/shm/held');
      assert.equal(await sandbox.pause(PATIENT), true);
      await sandbox.connect(PATIENT);
      assert.equal(await say(sandbox, `cat /dev/shm/held; kill -0 ${pid} && echo lives`), 'held\nlives');
    },
  },
  {
    method: 'sandbox.betaPause',
    proves: 'the same as pause',
    run: async ({ create }) => {
      const sandbox = await create();
      assert.equal(await sandbox.betaPause(PATIENT), true);
      assert.equal((await sandbox.getInfo()).state, 'paused');
    },
  },
  {
    method: 'Sandbox.fork',
    proves: 'two at once, by id, each with its files',
    refused: noFork(({ sdk, sdkOptions, sandbox }) => sdk.Sandbox.fork(sandbox.sandboxId, sdkOptions)),
    run: (context) =>
      forked(context, (id) => context.sdk.Sandbox.fork(id, { ...context.sdkOptions, ...PATIENT, count: 2 })),
  },
  {
    method: 'sandbox.fork',
    proves: 'two at once, each with its files',
    refused: noFork(({ sandbox }) => sandbox.fork()),
    run: (context) =>
      forked(context, async (id) => {
        const source = await context.sdk.Sandbox.connect(id, context.sdkOptions);
        return source.fork({ ...PATIENT, count: 2 });
      }),
  },
  {
    method: 'sandbox.getHost',
    proves: 'the name under which its port is reached',
    run: async ({ sandbox, service }) => {
      const serve = 'exec python3 -m http.server 8077 --directory /etc';
      const handle = await sandbox.commands.run(serve, { background: true, timeoutMs: 0 });
      handle.wait().catch(() => {});
      const host = sandbox.getHost(8077);
      assert.match(host, new RegExp(`^8077-${sandbox.sandboxId}\\.`));
      // Nobody resolves the name here: it goes as headers to where it would lead.
      const headers = { 'E2b-Sandbox-Id': sandbox.sandboxId, 'E2b-Sandbox-Port': '8077' };
      const page = await eventually(
        'it serves',
        async () => (await fetch(`${service.url}/hostname`, { headers })).text(),
        (text) => text.trim() === sandbox.sandboxId,
      );
      assert.ok(page);
      await handle.kill();
    },
  },
] satisfies Row[];
