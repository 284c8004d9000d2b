/** What node-api.ts says of snapshots, templates, metrics, logs, events and the node itself survives the unix socket. */
import assert from 'node:assert/strict';
import test from 'node:test';
import type {
  EventsQuery,
  LeakReport,
  LifecycleEvent,
  LogEntry,
  LogsQuery,
  NodeStatus,
  SandboxMetric,
  SnapshotView,
  TemplateView,
} from '../../src/contract/node-api.ts';
import { captured, recorder, serve, view } from '../helpers/node-rpc.ts';
import { until } from '../helpers/until.ts';

test('volumes survive the trip, and what is asked of them', async (t) => {
  const { calls, note } = recorder();
  const [made, plain] = [
    { volumeID: 'v', name: 'ä', token: 't' },
    { volumeID: 'v', name: 'ä' },
  ];
  const { client } = await serve(t, {
    createVolume: note(made),
    listVolumes: note([plain, plain]),
    getVolume: note(made),
    deleteVolume: note(undefined),
  });
  assert.deepStrictEqual(await client.createVolume('team', 'ä'), made);
  assert.deepStrictEqual(await client.listVolumes('team'), [plain, plain]);
  assert.deepStrictEqual(await client.getVolume('team', 'v'), made);
  assert.equal(await client.deleteVolume('team', 'v'), undefined);
  assert.deepStrictEqual(calls, [['team', 'ä'], ['team'], ['team', 'v'], ['team', 'v']]);
});

test('snapshots survive the trip, absent fields absent', async (t) => {
  const { calls, note } = recorder();
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
    shape: { cpuCount: 1, memoryMB: 512, diskSizeMB: 2 ** 40 },
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
  const { calls, note } = recorder();
  let aborted = false;
  const { client } = await serve(t, {
    sandboxMetrics: note([metric, metric]),
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
  const { calls, note } = recorder();
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

test('the other methods carry their arguments and answers', async (t) => {
  const { calls, note } = recorder();
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
    getSandbox: note(view),
    refreshSandbox: note(undefined),
    setSandboxTimeout: note(undefined),
    killSandbox: note(undefined),
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
