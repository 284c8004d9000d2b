/** What node-api.ts says of sandboxes survives the unix socket: values, absence, order. */
import assert from 'node:assert/strict';
import test from 'node:test';
import fc from 'fast-check';
import { ERRORS, type ErrorCode } from '../../src/contract/errors.ts';
import {
  type CreateSandboxRequest,
  type ForkResult,
  ISOLATIONS,
  type ListSandboxesQuery,
  type SandboxView,
} from '../../src/contract/node-api.ts';
import { captured, recorder, restored, serve, view } from '../helpers/node-rpc.ts';
import { until } from '../helpers/until.ts';

const text = fc.string({ unit: 'grapheme', maxLength: 40 });
const map = fc.dictionary(fc.oneof(text, fc.constantFrom('__proto__', 'constructor', '')), text, { maxKeys: 6 });
const optional = <T>(key: string, value: fc.Arbitrary<T>) =>
  fc.option(value, { nil: undefined }).map((v) => (v === undefined ? {} : { [key]: v }));
const number = fc.oneof(
  fc.double({ noNaN: true, noDefaultInfinity: true }).map((n) => (Object.is(n, -0) ? 0 : n)),
  fc.integer(),
  fc.constantFrom(Number.MAX_SAFE_INTEGER, 0, 1_795_296_701_123),
);
const mount = fc.record({ name: text, path: text });
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
      publicTraffic: fc.boolean(),
      volumeMounts: fc.array(mount, { maxLength: 3 }),
      isolation: fc.constantFrom(...ISOLATIONS),
      generation: text,
    }),
    optional('alias', text),
    optional('envdAccessToken', text),
    optional('allowInternetAccess', fc.boolean()),
    optional('trafficAccessToken', text),
    optional('maskRequestHost', text),
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
        optional('volumeMounts', fc.array(mount, { minLength: 1, maxLength: 3 })),
        optional('allowInternetAccess', fc.boolean()),
        optional('publicTraffic', fc.boolean()),
        optional('maskRequestHost', text),
      ),
      async (sandbox, [base, isolation, onTimeout, pauseMemory, autoResume, mounts, ...network]) => {
        answer = sandbox;
        const sent = {
          ...base,
          ...isolation,
          ...onTimeout,
          ...pauseMemory,
          ...autoResume,
          ...mounts,
          network: Object.assign({}, ...network),
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

test('pauses, resumes and rollbacks carry their wishes and receipts, absent fields absent', async (t) => {
  const { calls, note } = recorder();
  const running = { sandbox: view, resumed: false };
  const resumed = { sandbox: { ...view, autoResume: false }, resumed: true, receipt: restored };
  const { client } = await serve(t, {
    pauseSandbox: note(captured),
    connectSandbox: async (...args) => {
      calls.push(args);
      return args[2].memory === false ? resumed : running;
    },
    resumeSandbox: note(resumed),
    rollbackSandbox: note(resumed),
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
