/** Everything that node-api.ts says survives the unix socket: values, absence, errors, cancellation, limits. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import fc from 'fast-check';
import { CoppiceError, ERRORS, type ErrorCode } from '../../src/contract/errors.ts';
import {
  type CreateSandboxRequest,
  type EventsQuery,
  type ForkResult,
  ISOLATIONS,
  type LeakReport,
  type LifecycleEvent,
  type ListSandboxesQuery,
  type LogEntry,
  type LogsQuery,
  type NodeApi,
  type NodeStatus,
  type Receipt,
  type SandboxMetric,
  type SandboxView,
  type SnapshotView,
  type TemplateView,
} from '../../src/contract/node-api.ts';
import { connectNodeApi } from '../../src/contract/node-rpc/client.ts';
import { createNodeRpcServer, MAX_REQUEST_BYTES } from '../../src/contract/node-rpc/server.ts';
import { until } from '../helpers/until.ts';

const view: SandboxView = {
  sandboxID: 'i0123456789abcdefghij',
  teamID: 'team',
  templateID: 'tpl',
  state: 'running',
  startedAtMs: 1_795_296_701_123.25,
  endAtMs: 2 ** 53 - 1,
  onTimeout: 'pause',
  autoResume: true,
  cpuCount: 2,
  memoryMB: 512,
  diskSizeMB: 1024,
  envdVersion: '0.6.13',
  metadata: {},
  isolation: 'jail',
  generation: '5d7a0a0e-8a64-4a8c-9f0e-0d9a7f0d3a11',
};

const captured: Receipt = { verb: 'pause', totalMs: 7.5, stages: [{ name: 'capture', ms: 5 }], pauseMs: 0 };
const restored: Receipt = { verb: 'resume', path: 'shell', totalMs: 3, stages: [] };

const wanted = (): CreateSandboxRequest => ({
  teamID: 'team',
  template: 'base:latest',
  timeoutSeconds: 300,
  secure: true,
  metadata: {},
  envVars: {},
  network: {},
});

const unused = (): never => {
  throw new Error('not expected in this test');
};

async function serve(t: TestContext, api: Partial<NodeApi>, seen: unknown[] = []) {
  const whole: NodeApi = {
    createSandbox: unused,
    getSandbox: unused,
    listSandboxes: unused,
    connectSandbox: unused,
    resumeSandbox: unused,
    pauseSandbox: unused,
    forkSandbox: unused,
    rollbackSandbox: unused,
    refreshSandbox: unused,
    createSnapshot: unused,
    listSnapshots: unused,
    deleteSnapshot: unused,
    setSandboxTimeout: unused,
    killSandbox: unused,
    sandboxMetrics: unused,
    latestMetrics: unused,
    listLogs: unused,
    listEvents: unused,
    listTemplates: unused,
    requestBuild: unused,
    startBuild: unused,
    getBuild: unused,
    buildFile: unused,
    tagTemplate: unused,
    untagTemplate: unused,
    listTags: unused,
    publishTemplate: unused,
    status: unused,
    leaks: unused,
    ...api,
  };
  const folder = await mkdtemp(join(tmpdir(), 'node-rpc-'));
  const path = join(folder, 'node.sock');
  const { server, closeAllConnections } = createNodeRpcServer(whole, {
    onError: (method, error) => seen.push([method, error]),
  });
  server.listen(path);
  await once(server, 'listening');
  const client = connectNodeApi(path);
  t.after(async () => {
    client.close();
    closeAllConnections();
    server.close();
    await rm(folder, { recursive: true, force: true });
  });
  return { client, path, server, closeAllConnections };
}

const text = fc.string({ unit: 'grapheme', maxLength: 40 });
const map = fc.dictionary(fc.oneof(text, fc.constantFrom('__proto__', 'constructor', '')), text, { maxKeys: 6 });
const optional = <T>(key: string, value: fc.Arbitrary<T>) =>
  fc.option(value, { nil: undefined }).map((v) => (v === undefined ? {} : { [key]: v }));
const number = fc.oneof(
  fc.double({ noNaN: true, noDefaultInfinity: true }).map((n) => (Object.is(n, -0) ? 0 : n)),
  fc.integer(),
  fc.constantFrom(Number.MAX_SAFE_INTEGER, 0, 1_795_296_701_123),
);
const views: fc.Arbitrary<SandboxView> = fc
  .tuple(
    fc.record({
      sandboxID: text,
      teamID: text,
      templateID: text,
      state: fc.constantFrom('creating', 'running', 'pausing', 'paused', 'resuming', 'killing', 'killed', 'error'),
      startedAtMs: number,
      endAtMs: number,
      onTimeout: fc.constantFrom('kill', 'pause'),
      autoResume: fc.boolean(),
      cpuCount: number,
      memoryMB: number,
      diskSizeMB: number,
      envdVersion: text,
      metadata: map,
      isolation: fc.constantFrom(...ISOLATIONS),
      generation: text,
    }),
    optional('alias', text),
    optional('envdAccessToken', text),
    optional('allowInternetAccess', fc.boolean()),
  )
  .map(([base, ...rest]) => Object.assign({}, base, ...rest) as SandboxView);

/** Own properties only, in a fixed order: prototypes of generated dictionaries are null, and a field may come in any place. */
const canonical = (value: unknown): unknown =>
  typeof value === 'object' && value !== null
    ? Object.entries(value)
        .map(([key, member]) => [key, canonical(member)])
        .sort(([a], [b]) => ((a as string) < (b as string) ? -1 : 1))
    : value;
const same = (a: unknown, b: unknown): void => assert.deepStrictEqual(canonical(a), canonical(b));

test('any create request and any sandbox survive the trip', async (t) => {
  let got: CreateSandboxRequest | undefined;
  let answer: SandboxView = view;
  const { client } = await serve(t, {
    createSandbox: async (request) => {
      got = request;
      return {
        sandbox: answer,
        receipt: { verb: 'create', path: 'hot', totalMs: 1.25, stages: [{ name: 'claim', ms: 0.1 }] },
      };
    },
  });
  await fc.assert(
    fc.asyncProperty(
      views,
      fc.tuple(
        fc.record({
          teamID: text,
          template: text,
          timeoutSeconds: number,
          secure: fc.boolean(),
          metadata: map,
          envVars: map,
        }),
        optional('isolation', fc.constantFrom(...ISOLATIONS)),
        optional('onTimeout', fc.constantFrom('kill', 'pause')),
        optional('pauseMemory', fc.boolean()),
        optional('autoResume', fc.boolean()),
        optional('allowInternetAccess', fc.boolean()),
      ),
      async (sandbox, [base, isolation, onTimeout, pauseMemory, autoResume, network]) => {
        answer = sandbox;
        const sent = {
          ...base,
          ...isolation,
          ...onTimeout,
          ...pauseMemory,
          ...autoResume,
          network,
        } as CreateSandboxRequest;
        const result = await client.createSandbox(sent);
        same(got, sent);
        same(result.sandbox, sandbox);
        assert.deepEqual(Object.entries(result.sandbox.metadata), Object.entries(sandbox.metadata));
        assert.deepEqual(result.receipt, {
          verb: 'create',
          path: 'hot',
          totalMs: 1.25,
          stages: [{ name: 'claim', ms: 0.1 }],
        });
      },
    ),
    { numRuns: 150 },
  );
});

test('a list query and its page survive the trip, absent fields absent', async (t) => {
  let got: ListSandboxesQuery | undefined;
  const next = { startedAtMs: 17.5, sandboxID: 'ix' };
  const { client } = await serve(t, {
    listSandboxes: async (query) => {
      got = query;
      return query.after ? { sandboxes: [], totalRunning: 7 } : { sandboxes: [view], next, totalRunning: 7 };
    },
  });
  const bare: ListSandboxesQuery = { teamID: 't', states: [], order: 'desc', limit: 100 };
  assert.deepStrictEqual(await client.listSandboxes(bare), { sandboxes: [view], next, totalRunning: 7 });
  assert.deepStrictEqual(got, bare);
  const full: ListSandboxesQuery = {
    teamID: 't',
    states: ['running', 'paused'],
    metadata: {},
    template: 'x',
    startedAfterMs: 0,
    order: 'asc',
    limit: 1,
    after: next,
  };
  assert.deepStrictEqual(await client.listSandboxes(full), { sandboxes: [], totalRunning: 7 });
  assert.deepStrictEqual(got, full);
});

test('snapshots survive the trip, absent fields absent', async (t) => {
  const calls: unknown[] = [];
  const note =
    <T>(answer: T) =>
    async (...args: unknown[]): Promise<T> => {
      calls.push(args);
      return answer;
    };
  const bare: SnapshotView = {
    snapshotID: 'tpl:default',
    names: [],
    templateID: 'tpl',
    buildID: 'b',
    sourceID: 's',
    isolation: 'jail',
    memory: false,
    parentID: '',
    ownBytes: 0,
    sharedBytes: 2 ** 53 - 1,
    createdAtMs: 17.5,
  };
  const named = { ...bare, snapshotID: 'ä:v2', names: ['ä:v2', 'x'], memory: true, parentID: 'b', ownBytes: 2 ** 40 };
  const next = { createdAtMs: 2 ** 52, buildID: 'b' };
  let aborted = false;
  const { client } = await serve(t, {
    deleteSnapshot: note(undefined),
    createSnapshot: async (teamID, sandboxID, { signal, ...options }) => {
      calls.push([teamID, sandboxID, options]);
      if (options.name === 'slow')
        await new Promise<void>((resolve) => signal!.addEventListener('abort', () => resolve(), { once: true }));
      aborted = signal!.aborted;
      return { snapshot: options.name === undefined ? bare : named, receipt: captured };
    },
    listSnapshots: async (query) => {
      calls.push([query]);
      return query.after ? { snapshots: [] } : { snapshots: [bare, named], next };
    },
  });
  assert.deepStrictEqual(await client.createSnapshot('t', 's', {}), { snapshot: bare, receipt: captured });
  assert.deepStrictEqual(await client.createSnapshot('t', 's', { name: 'ä:v2' }), {
    snapshot: named,
    receipt: captured,
  });
  assert.deepStrictEqual(await client.listSnapshots({ teamID: 't', limit: 1 }), { snapshots: [bare, named], next });
  const full = { teamID: 't', limit: 100, sourceID: '', name: '', after: next };
  assert.deepStrictEqual(await client.listSnapshots(full), { snapshots: [] });
  assert.equal(await client.deleteSnapshot('t', 'ä:v2'), undefined);
  assert.deepStrictEqual(calls, [
    ['t', 's', {}],
    ['t', 's', { name: 'ä:v2' }],
    [{ teamID: 't', limit: 1 }],
    [full],
    ['t', 'ä:v2'],
  ]);
  const controller = new AbortController();
  const slow = client.createSnapshot('t', 's', { name: 'slow', signal: controller.signal });
  await until('it is there', () => calls.length === 6);
  controller.abort();
  await assert.rejects(slow, { code: 'aborted' });
  await until('the node was told', () => aborted);
});

test('metrics, logs and events survive the trip, absent fields absent', async (t) => {
  const metric: SandboxMetric = {
    ...{ atMs: 17.5, cpuCount: 2, cpuUsedPct: 0.01, memUsed: 0, memTotal: 2 ** 53 - 1, memCache: 1 },
    ...{ diskUsed: 2 ** 40, diskTotal: 2 ** 41 },
  };
  const entry: LogEntry = { atMs: 1.5, level: 'error', message: 'é\n✓', fields: { logger: 'x', __proto__x: '' } };
  const event: LifecycleEvent = {
    ...{ id: 'e', position: 2 ** 52, kind: 'checkpointed', atMs: 5, teamID: 't', sandboxID: 's', generation: 'g' },
    ...{ templateID: 'tpl', buildID: 'b', data: { deep: { list: [1, null, 'é'] } } },
  };
  const calls: unknown[] = [];
  let aborted = false;
  const { client } = await serve(t, {
    sandboxMetrics: async (...args) => {
      calls.push(args);
      return [metric, metric];
    },
    latestMetrics: async (teamID, ids) => {
      calls.push([teamID, [...ids]]);
      return new Map(ids.map((id) => [id, metric]));
    },
    listLogs: async (query) => {
      calls.push(query);
      return query.limit === 0 ? [] : [entry];
    },
    listEvents: async (query, signal) => {
      calls.push(query);
      if (query.waitMs !== undefined)
        await new Promise<void>((resolve) => signal!.addEventListener('abort', () => resolve(), { once: true }));
      aborted = signal!.aborted;
      return { events: query.order === 'asc' ? [event] : [], head: 7 };
    },
  });
  assert.deepStrictEqual(await client.sandboxMetrics('t', 's', {}), [metric, metric]);
  assert.deepStrictEqual(await client.sandboxMetrics('t', 's', { startMs: 0, endMs: 1.5 }), [metric, metric]);
  assert.deepStrictEqual(
    await client.latestMetrics('t', ['a', 'b']),
    new Map([
      ['a', metric],
      ['b', metric],
    ]),
  );
  assert.deepStrictEqual(await client.latestMetrics('t', []), new Map());
  const bare: LogsQuery = { teamID: 't', sandboxID: 's', direction: 'forward', limit: 0 };
  const full: LogsQuery = { ...bare, direction: 'backward', cursorMs: 0, limit: 1000, level: 'debug', search: '' };
  assert.deepStrictEqual(await client.listLogs(bare), []);
  assert.deepStrictEqual(await client.listLogs(full), [entry]);
  const all: EventsQuery = { order: 'desc', limit: 1 };
  const some: EventsQuery = {
    ...{
      order: 'asc',
      limit: 256,
      teamID: '',
      sandboxID: 's',
      id: 'i',
      kinds: ['killed', 'created'],
      after: 0,
      offset: 0,
    },
  };
  assert.deepStrictEqual(await client.listEvents(all), { events: [], head: 7 });
  assert.deepStrictEqual(await client.listEvents(some), { events: [event], head: 7 });
  assert.deepStrictEqual(calls, [
    ['t', 's', {}],
    ['t', 's', { startMs: 0, endMs: 1.5 }],
    ['t', ['a', 'b']],
    ['t', []],
    bare,
    full,
    all,
    some,
  ]);
  const controller = new AbortController();
  const waiting = client.listEvents({ ...all, waitMs: 60_000 }, controller.signal);
  await until('it waits', () => calls.length === 9);
  controller.abort();
  await assert.rejects(waiting, { code: 'aborted' });
  await until('the node was told', () => aborted);
});

test('builds of templates survive the trip, absent fields absent', async (t) => {
  const calls: unknown[] = [];
  const note =
    <T>(answer: T) =>
    async (...args: unknown[]): Promise<T> => {
      calls.push(args);
      return answer;
    };
  const ticket = { templateID: 'tpl', buildID: 'b', name: 'ä', tags: ['v1', ''], public: true };
  const bare = { templateID: 'tpl', buildID: 'b', status: 'waiting', logs: [] } as const;
  const full = {
    ...bare,
    status: 'error',
    reason: { message: 'why', step: '3' },
    logs: [
      { atMs: 1.5, level: 'warn', message: '' },
      { atMs: 2, level: 'error', message: 'ü', step: 'base' },
    ],
  } as const;
  const tag = { tag: 'v1', buildID: 'b', createdAtMs: 17.5 };
  let view: typeof bare | typeof full = bare;
  const { client } = await serve(t, {
    requestBuild: note(ticket),
    startBuild: note(undefined),
    getBuild: async (query) => {
      calls.push([query]);
      return view;
    },
    buildFile: note({ present: false, ticket: '1-a' }),
    tagTemplate: note({ buildID: 'b', tags: ['x'] }),
    untagTemplate: note(undefined),
    listTags: note([tag]),
    publishTemplate: note(['ä']),
  });
  const name = { teamID: 't', templateID: 'tpl', buildID: 'b' };
  const wish = { teamID: 't', name: 'ä', tags: [] };
  assert.deepStrictEqual(await client.requestBuild(wish), ticket);
  const sized = { ...wish, tags: ['v1'], cpuCount: 0, memoryMB: 512, freeDiskMB: 0 };
  assert.deepStrictEqual(await client.requestBuild(sized), ticket);
  assert.equal(await client.startBuild(name, '{"steps":[]}'), undefined);
  const query = { ...name, offset: 0, limit: 100 };
  assert.deepStrictEqual(await client.getBuild(query), bare);
  view = full;
  const all = { ...query, level: 'info', direction: 'backward', cursorMs: 0 } as const;
  assert.deepStrictEqual(await client.getBuild(all), full);
  assert.deepStrictEqual(await client.buildFile('t', 'tpl', 'h'), { present: false, ticket: '1-a' });
  assert.deepStrictEqual(await client.tagTemplate('t', 'ä:v1', ['x']), { buildID: 'b', tags: ['x'] });
  assert.equal(await client.untagTemplate('t', 'ä', ['x', 'y']), undefined);
  assert.deepStrictEqual(await client.listTags('t', 'ä'), [tag]);
  assert.deepStrictEqual(await client.publishTemplate('t', 'ä', false), ['ä']);
  assert.deepStrictEqual(calls, [
    [wish],
    [sized],
    [name, '{"steps":[]}'],
    [query],
    [all],
    ['t', 'tpl', 'h'],
    ['t', 'ä:v1', ['x']],
    ['t', 'ä', ['x', 'y']],
    ['t', 'ä'],
    ['t', 'ä', false],
  ]);
});

test('pauses, resumes and rollbacks carry their wishes and receipts, absent fields absent', async (t) => {
  const calls: unknown[] = [];
  const running = { sandbox: view, resumed: false };
  const resumed = { sandbox: { ...view, autoResume: false }, resumed: true, receipt: restored };
  const { client } = await serve(t, {
    pauseSandbox: async (...args) => {
      calls.push(args);
      return captured;
    },
    connectSandbox: async (...args) => {
      calls.push(args);
      return args[2].memory === false ? resumed : running;
    },
    resumeSandbox: async (...args) => {
      calls.push(args);
      return resumed;
    },
    rollbackSandbox: async (...args) => {
      calls.push(args);
      return resumed;
    },
  });
  assert.deepStrictEqual(await client.pauseSandbox('t', 's', { memory: true }), captured);
  assert.deepStrictEqual(await client.pauseSandbox('t', 's', { memory: false }), captured);
  assert.deepStrictEqual(await client.connectSandbox('t', 's', { timeoutSeconds: 0 }), running);
  assert.deepStrictEqual(await client.connectSandbox('t', 's', { timeoutSeconds: 5, memory: false }), resumed);
  assert.deepStrictEqual(await client.resumeSandbox('t', 's', { timeoutSeconds: 0.5, memory: true }), resumed);
  assert.deepStrictEqual(await client.rollbackSandbox('t', 's', 'ä:v2'), resumed);
  assert.deepStrictEqual(calls, [
    ['t', 's', { memory: true }],
    ['t', 's', { memory: false }],
    ['t', 's', { timeoutSeconds: 0 }],
    ['t', 's', { timeoutSeconds: 5, memory: false }],
    ['t', 's', { timeoutSeconds: 0.5, memory: true }],
    ['t', 's', 'ä:v2'],
  ]);
});

test('each fork arrives with its own outcome, in order; a cancelled fork aborts the signal of the node', async (t) => {
  const codes = Object.keys(ERRORS) as ErrorCode[];
  const forks: ForkResult['forks'] = [
    { sandbox: view },
    ...codes.map((code) => ({ error: { code, message: `é ✓ ${code}` } })),
    { sandbox: { ...view, sandboxID: 'i2' } },
  ];
  let answer: ForkResult = { forks, receipt: captured };
  const begun = Promise.withResolvers<AbortSignal>();
  const { client } = await serve(t, {
    forkSandbox: async (teamID, sandboxID, wish, signal) => {
      assert.deepStrictEqual([teamID, sandboxID, wish.timeoutSeconds], ['t', 's', 15]);
      if (wish.count === 7) begun.resolve(signal!);
      return wish.count === 7 ? new Promise(() => {}) : answer;
    },
  });
  assert.deepStrictEqual(await client.forkSandbox('t', 's', { count: 100, timeoutSeconds: 15 }), answer);
  answer = { forks: [{ error: { code: 'internal', message: `\ud800${'x'.repeat(20_000)}` } }], receipt: captured };
  const [cut] = (await client.forkSandbox('t', 's', { count: 1, timeoutSeconds: 15 })).forks;
  assert.ok(cut && 'error' in cut && cut.error.message.length === 8_192 && cut.error.message.isWellFormed());
  answer = { forks: [{ error: { code: 'no such code' as ErrorCode, message: 'x' } }], receipt: captured };
  await assert.rejects(client.forkSandbox('t', 's', { count: 1, timeoutSeconds: 15 }), { code: 'internal' });
  const controller = new AbortController();
  const call = client.forkSandbox('t', 's', { count: 7, timeoutSeconds: 15 }, controller.signal);
  const signal = await begun.promise;
  controller.abort();
  await assert.rejects(call, { code: 'aborted' });
  await until('the node was told', () => signal.aborted);
});

test('the other methods carry their arguments and answers', async (t) => {
  const calls: unknown[] = [];
  const template: TemplateView = {
    templateID: 't',
    buildID: 'b',
    aliases: ['base', 'x'],
    cpuCount: 1,
    memoryMB: 2,
    diskSizeMB: 3,
    envdVersion: '0.6.13',
    isolation: 'microvm',
    createdAtMs: 4,
    updatedAtMs: 5,
    spawnCount: 6,
    hot: 7,
  };
  const status: NodeStatus = {
    backends: [{ isolation: 'microvm', backend: 'qemu', accelerator: 'tcg' }],
    rootless: false,
    ready: true,
    notices: ['no kvm'],
    sandboxes: 1,
    hot: 2,
    hotTarget: 3,
  };
  const leaks: LeakReport = {
    processes: 1,
    taps: 2,
    addresses: 3,
    rules: 4,
    mounts: 5,
    files: 6,
    cgroups: 7,
    details: ['one'],
  };
  const { client } = await serve(t, {
    getSandbox: async (...args) => {
      calls.push(args);
      return view;
    },
    refreshSandbox: async (...args) => {
      calls.push(args);
    },
    setSandboxTimeout: async (...args) => {
      calls.push(args);
    },
    killSandbox: async (...args) => {
      calls.push(args);
    },
    listTemplates: async () => [template, { ...template, lastSpawnedAtMs: 0 }],
    status: async () => status,
    leaks: async () => leaks,
  });
  assert.deepStrictEqual(await client.getSandbox('t', 's'), view);
  assert.equal(await client.refreshSandbox('t', 's', 16), undefined);
  assert.equal(await client.setSandboxTimeout('t', 's', 0), undefined);
  assert.equal(await client.killSandbox('t', 's'), undefined);
  assert.deepStrictEqual(await client.listTemplates(), [template, { ...template, lastSpawnedAtMs: 0 }]);
  assert.deepStrictEqual(await client.status(), status);
  assert.deepStrictEqual(await client.leaks(), leaks);
  assert.deepEqual(calls, [
    ['t', 's'],
    ['t', 's', 16],
    ['t', 's', 0],
    ['t', 's'],
  ]);
});

test('every error code arrives as itself, with message and details', async (t) => {
  let thrown: unknown;
  const seen: unknown[] = [];
  const { client } = await serve(
    t,
    {
      getSandbox: async () => {
        throw thrown;
      },
    },
    seen,
  );
  for (const code of Object.keys(ERRORS) as ErrorCode[]) {
    thrown = new CoppiceError(code, `Sandbox "é ✓" of ${code}\r\nX: y`, { details: { field: 'a', n: 1.5 } });
    await assert.rejects(client.getSandbox('t', 's'), (error: unknown) => {
      assert.ok(error instanceof CoppiceError);
      assert.equal(error.code, code);
      assert.equal(error.message, (thrown as CoppiceError).message);
      assert.deepEqual({ ...error.details }, { field: 'a', n: 1.5 });
      return true;
    });
  }
  thrown = new Error('password=hunter2');
  await assert.rejects(client.getSandbox('t', 's'), (error: unknown) => {
    assert.ok(error instanceof CoppiceError);
    assert.equal(error.code, 'internal');
    assert.ok(!error.message.includes('hunter2'));
    return true;
  });
  assert.deepEqual(seen.at(-1), ['getSandbox', thrown]);
  const circular: Record<string, unknown> = {};
  circular.self = circular;
  thrown = new CoppiceError('capacity', 'x'.repeat(1_000_000), { details: circular });
  await assert.rejects(client.getSandbox('t', 's'), { code: 'capacity' });
});

test('a cancelled call aborts the signal of the node, and says aborted', async (t) => {
  const aborted = Promise.withResolvers<void>();
  const begun = Promise.withResolvers<void>();
  const { client } = await serve(t, {
    createSandbox: (_request, signal) =>
      new Promise((_, reject) => {
        signal?.addEventListener('abort', () => {
          aborted.resolve();
          reject(new CoppiceError('aborted', 'stopped'));
        });
        begun.resolve();
      }),
  });
  const controller = new AbortController();
  const call = client.createSandbox(wanted(), controller.signal);
  await begun.promise;
  controller.abort();
  await assert.rejects(call, { name: 'CoppiceError', code: 'aborted' });
  await aborted.promise;
  await assert.rejects(client.createSandbox(wanted(), AbortSignal.abort()), { code: 'aborted' });
});

test('a time limit ends a call that the node never answers', async (t) => {
  const over = Promise.withResolvers<never>();
  t.after(() => over.reject(new Error('over')));
  const { path } = await serve(t, { status: () => over.promise });
  const hasty = connectNodeApi(path, { timeoutMs: 50 });
  t.after(() => hasty.close());
  await assert.rejects(hasty.status(), { code: 'aborted' });
});

test('a node that is away is unavailable, and is found again when it is back', async (t) => {
  const api: Partial<NodeApi> = { killSandbox: async () => {} };
  const { client, path, server, closeAllConnections } = await serve(t, api);
  await client.killSandbox('t', 's');
  closeAllConnections();
  await new Promise((done) => server.close(done));
  await assert.rejects(client.killSandbox('t', 's'), { name: 'CoppiceError', code: 'unavailable' });
  const again = createNodeRpcServer({ ...({} as NodeApi), killSandbox: async () => {} });
  again.server.listen(path);
  await once(again.server, 'listening');
  t.after(() => {
    again.closeAllConnections();
    again.server.close();
  });
  await client.killSandbox('t', 's');
});

test('a node that dies in the middle of a call is unavailable', async (t) => {
  const begun = Promise.withResolvers<void>();
  const over = Promise.withResolvers<void>();
  t.after(() => over.resolve());
  const { client, closeAllConnections } = await serve(t, {
    killSandbox: () => {
      begun.resolve();
      return over.promise;
    },
  });
  const call = client.killSandbox('t', 's');
  await begun.promise;
  closeAllConnections();
  await assert.rejects(call, { name: 'CoppiceError', code: 'unavailable' });
});

test('text that UTF-8 cannot carry is refused, not altered', async (t) => {
  const { client } = await serve(t, {});
  await assert.rejects(client.createSandbox({ ...wanted(), envVars: { a: '\ud800' } }), { code: 'bad_request' });
  await assert.rejects(client.createSandbox({ ...wanted(), metadata: { '\udc00': 'x' } }), { code: 'bad_request' });
});

test('messages beyond the limit are refused on both sides', async (t) => {
  const { client, path } = await serve(t, {});
  const big = 'x'.repeat(MAX_REQUEST_BYTES);
  await assert.rejects(client.createSandbox({ ...wanted(), envVars: { big } }), { code: 'payload_too_large' });
  const socket = connect(path);
  await once(socket, 'connect');
  const length = Buffer.alloc(4);
  length.writeUInt32LE(MAX_REQUEST_BYTES + 100);
  socket.write(length);
  await once(socket, 'close');
});

test('many calls at once each get their own answer', async (t) => {
  const { client } = await serve(t, { getSandbox: async (_team, sandboxID) => ({ ...view, sandboxID }) });
  const ids = Array.from({ length: 200 }, (_, i) => `i${i}`);
  const got = await Promise.all(ids.map((id) => client.getSandbox('t', id)));
  assert.deepEqual(
    got.map(({ sandboxID }) => sandboxID),
    ids,
  );
});

test('bytes that are no frames end their connection and no other', async (t) => {
  const { client, path } = await serve(t, { killSandbox: async () => {} });
  await fc.assert(
    fc.asyncProperty(fc.uint8Array({ minLength: 1, maxLength: 64 }), async (bytes) => {
      const socket = connect(path);
      socket.on('error', () => {});
      socket.resume();
      await once(socket, 'connect');
      socket.end(bytes);
      await once(socket, 'close');
      await client.killSandbox('t', 's');
    }),
    { numRuns: 100 },
  );
});

test('after close a call is refused', async (t) => {
  const { client } = await serve(t, {});
  client.close();
  await assert.rejects(client.status(), { code: 'unavailable' });
});
