/**
 * A node in memory with the semantics of the real one as a client sees them: deadlines, owners, states, pages, texts of
 * errors. No machine is started. Beside it, `serveAPI` puts the REST edge before a node on a loopback port.
 */

import assert from 'node:assert/strict';
import { randomBytes, randomUUID } from 'node:crypto';
import { createServer, request as httpRequest, type IncomingHttpHeaders, type OutgoingHttpHeaders } from 'node:http';
import type { AddressInfo } from 'node:net';
import { createApi } from '../../src/api/create-api.ts';
import { answerClientError } from '../../src/api/errors.ts';
import { CoppiceError } from '../../src/contract/errors.ts';
import {
  type CreateSandboxRequest,
  type CreateSandboxResult,
  ENVD_VERSION,
  type EventKind,
  type ForkOutcome,
  type Isolation,
  type ListSandboxesQuery,
  type ListSandboxesResult,
  type NodeApi,
  type NodeStatus,
  type Receipt,
  type ResumeResult,
  type ResumeWish,
  type SandboxMetric,
  type SandboxView,
  type TemplateView,
} from '../../src/contract/node-api.ts';
import { type ControlStore, openControlStore } from '../../src/control/control-store.ts';
import type { WebhookAddresses } from '../../src/control/webhook-addresses.ts';
import { Journal } from '../../src/node/journal.ts';
import { type Log, silentLog } from '../../src/telemetry/log.ts';
import { checkAnswer, checkingAnswers } from './answer-check.ts';
import { FakeBuilds } from './fake-builds.ts';
import { FakeSnapshots } from './fake-snapshots.ts';
import { FakeVolumes } from './fake-volumes.ts';

export interface FakeNodeOptions {
  /** Milliseconds since the epoch. */
  readonly now?: () => number;
  readonly templates?: readonly TemplateView[];
  /** Creates beyond this fail with `capacity`. Default 10000. */
  readonly capacity?: number;
}

export interface FakeNode extends NodeApi {
  readonly builds: FakeBuilds;
  /** What create was asked, in order. */
  readonly requests: readonly CreateSandboxRequest[];
  /** The signal of each of them. */
  readonly signals: readonly (AbortSignal | undefined)[];
  /** What pauses and resumes were asked, in order. */
  readonly wishes: readonly (ResumeWish | { readonly memory: boolean })[];
  /** Makes the next create wait until the returned function is called (or its signal aborts). */
  holdNextCreate(): () => void;
  /** Makes the next call of any method throw this. */
  failNext(error: unknown): void;
  /** What it tells of its sandboxes; creates and ends are told. */
  readonly journal: Journal;
  /** Points of each sandbox. */
  readonly points: Map<string, readonly SandboxMetric[]>;
  setReady(ready: boolean): void;
}

const CAPTURE_RECEIPT: Receipt = {
  verb: 'capture',
  totalMs: 7.5,
  stages: [{ name: 'capture', ms: 5 }],
  pauseMs: 2.25,
};
const RESUME_RECEIPT: Receipt = { verb: 'resume', path: 'shell', totalMs: 3, stages: [{ name: 'restore', ms: 2 }] };

function fakeTemplate(alias: string, index = 0, isolation: Isolation = 'microvm'): TemplateView {
  const id = Buffer.from(alias).toString('hex').padEnd(20, '0').slice(0, 20);
  return {
    templateID: id,
    buildID: randomUUID(),
    aliases: [alias],
    cpuCount: 2,
    memoryMB: 1024,
    diskSizeMB: 4096,
    envdVersion: ENVD_VERSION,
    isolation,
    createdAtMs: 1_767_225_600_000 + index * 1000,
    updatedAtMs: 1_767_225_600_000 + index * 1000,
    spawnCount: 0,
    hot: 0,
  };
}

export function createFakeNode(options: FakeNodeOptions = {}): FakeNode {
  const now = options.now ?? Date.now;
  const templates = options.templates ?? [
    fakeTemplate('base'),
    fakeTemplate('code-interpreter-v1', 1),
    fakeTemplate('base-jail', 2, 'jail'),
  ];
  const sandboxes = new Map<string, SandboxView>();
  const lives = new Map<string, number>();
  const snapshots = new FakeSnapshots();
  const builds = new FakeBuilds();
  const journal = new Journal(':memory:');
  const points = new Map<string, readonly SandboxMetric[]>();
  const tell = (kind: EventKind, { sandboxID, teamID, generation, templateID, metadata }: SandboxView): void => {
    const subject = { sandboxID, teamID, generation, templateID, buildID: 'fake' };
    const atMs = Date.now();
    journal.settle({ ...subject, state: kind === 'killed' ? 'gone' : 'running', sinceMs: atMs });
    journal.event({ ...subject, kind, atMs, data: { sandbox_metadata: metadata } });
    journal.note(sandboxID, 'info', kind, { logger: 'lifecycle' });
  };
  const wishes: (ResumeWish | { readonly memory: boolean })[] = [];
  const requests: CreateSandboxRequest[] = [];
  const signals: (AbortSignal | undefined)[] = [];
  let failure: { readonly error: unknown } | undefined;
  let held: Promise<void> | undefined;
  let ready = true;

  const enter = () => {
    const failing = failure;
    failure = undefined;
    if (failing !== undefined) throw failing.error;
    for (const [id, each] of sandboxes) {
      if (each.state !== 'running' || each.endAtMs > now()) continue;
      if (each.onTimeout === 'kill') sandboxes.delete(id);
      else sandboxes.set(id, { ...each, state: 'paused' });
    }
  };
  const find = (teamID: string, sandboxID: string): SandboxView => {
    const found = sandboxes.get(sandboxID);
    if (found?.teamID === teamID) return found;
    throw new CoppiceError('sandbox_not_found', `Sandbox "${sandboxID}" doesn't exist or you don't have access to it`);
  };
  const findRunning = (teamID: string, sandboxID: string): SandboxView => {
    const found = find(teamID, sandboxID);
    return found.state === 'running' ? found : find('', sandboxID);
  };
  const resume = (view: SandboxView, wish: ResumeWish): ResumeResult => {
    const endAtMs = now() + wish.timeoutSeconds * 1000;
    return {
      sandbox: update(view, { state: 'running', startedAtMs: now(), endAtMs, generation: randomUUID() }),
      resumed: true,
      receipt: RESUME_RECEIPT,
    };
  };
  const update = (view: SandboxView, change: Partial<SandboxView>): SandboxView => {
    const changed = { ...view, ...change };
    sandboxes.set(view.sandboxID, changed);
    return changed;
  };
  const ofSnapshot = (name: string): TemplateView | undefined => {
    const found = snapshots.find(name);
    if (found === undefined) return undefined;
    const { isolation, templateID, buildID } = found;
    return { ...fakeTemplate(isolation === 'jail' ? 'base-jail' : 'base', 0, isolation), templateID, buildID };
  };
  const findTemplate = (name: string): TemplateView => {
    const plain = name.toLowerCase().replace(/:default$/, '');
    const found =
      templates.find((each) => each.templateID === plain || each.aliases.includes(plain)) ?? ofSnapshot(name);
    if (found === undefined) throw new CoppiceError('template_not_found', `template '${name}' not found`);
    return found;
  };

  const demandRoom = (): void => {
    if (sandboxes.size >= (options.capacity ?? 10_000))
      throw new CoppiceError('capacity', 'no memory left for another sandbox');
  };
  const fork = (source: SandboxView, timeoutSeconds: number): ForkOutcome => {
    try {
      demandRoom();
    } catch (error) {
      const { code, message } = error as CoppiceError;
      return { error: { code, message } };
    }
    const sandbox: SandboxView = {
      ...source,
      sandboxID: newSandboxID(),
      startedAtMs: now(),
      endAtMs: now() + timeoutSeconds * 1000,
      ...(source.envdAccessToken === undefined ? {} : { envdAccessToken: randomBytes(32).toString('hex') }),
      generation: randomUUID(),
    };
    sandboxes.set(sandbox.sandboxID, sandbox);
    lives.set(sandbox.sandboxID, timeoutSeconds);
    snapshots.isFrom(sandbox.sandboxID, snapshots.buildOf(source.sandboxID));
    return { sandbox };
  };

  const createSandbox = async (request: CreateSandboxRequest, signal?: AbortSignal): Promise<CreateSandboxResult> => {
    enter();
    requests.push(request);
    signals.push(signal);
    const template = findTemplate(request.template);
    const isolation = request.isolation ?? template.isolation;
    demandRoom();
    if (held !== undefined) await Promise.race([held, abortOf(signal)]);
    signal?.throwIfAborted();
    const at = now();
    const { allowInternetAccess, publicTraffic = true, maskRequestHost } = request.network;
    const sandbox: SandboxView = {
      sandboxID: newSandboxID(),
      teamID: request.teamID,
      templateID: template.templateID,
      ...(template.aliases[0] === undefined ? {} : { alias: template.aliases[0] }),
      isolation,
      state: 'running',
      startedAtMs: at,
      endAtMs: at + request.timeoutSeconds * 1000,
      onTimeout: request.onTimeout ?? 'kill',
      autoResume: request.autoResume ?? false,
      cpuCount: template.cpuCount,
      memoryMB: template.memoryMB,
      diskSizeMB: template.diskSizeMB,
      envdVersion: template.envdVersion,
      ...(request.secure ? { envdAccessToken: randomBytes(32).toString('hex') } : {}),
      metadata: request.metadata,
      ...(allowInternetAccess === undefined ? {} : { allowInternetAccess }),
      publicTraffic,
      ...(publicTraffic ? {} : { trafficAccessToken: randomBytes(32).toString('hex') }),
      ...(maskRequestHost === undefined ? {} : { maskRequestHost }),
      volumeMounts: request.volumeMounts ?? [],
      generation: randomUUID(),
    };
    sandboxes.set(sandbox.sandboxID, sandbox);
    lives.set(sandbox.sandboxID, request.timeoutSeconds);
    snapshots.isFrom(sandbox.sandboxID, template.buildID);
    tell('created', sandbox);
    return {
      sandbox,
      receipt: {
        verb: 'create',
        path: 'hot',
        totalMs: 0.75,
        stages: [
          { name: 'claim', ms: 0.5 },
          { name: 'identity', ms: 0.25 },
        ],
      },
    };
  };

  const listSandboxes = async (query: ListSandboxesQuery): Promise<ListSandboxesResult> => {
    enter();
    const own = [...sandboxes.values()].filter((each) => each.teamID === query.teamID);
    const sign = query.order === 'asc' ? 1 : -1;
    const compare = (a: Position, b: Position) =>
      sign * (a.startedAtMs - b.startedAtMs || (a.sandboxID < b.sandboxID ? -1 : a.sandboxID > b.sandboxID ? 1 : 0));
    const template = query.template;
    const matching = own
      .filter((each) => (query.states as readonly string[]).includes(each.state))
      .filter((each) => Object.entries(query.metadata ?? {}).every(([key, value]) => each.metadata[key] === value))
      .filter((each) => template === undefined || each.templateID === template || each.alias === template)
      .filter((each) => query.startedAfterMs === undefined || each.startedAtMs >= query.startedAfterMs)
      .filter((each) => query.after === undefined || compare(each, query.after) > 0)
      .sort(compare);
    const page = matching.slice(0, query.limit);
    const last = page.at(-1);
    return {
      sandboxes: page,
      ...(matching.length > page.length && last !== undefined
        ? { next: { startedAtMs: last.startedAtMs, sandboxID: last.sandboxID } }
        : {}),
      totalRunning: own.filter((each) => each.state === 'running').length,
    };
  };

  const { createVolume, listVolumes, getVolume, deleteVolume } = new FakeVolumes();

  return {
    createVolume,
    listVolumes,
    getVolume,
    deleteVolume,
    requests,
    signals,
    wishes,
    builds,
    journal,
    points,
    createSandbox,
    listSandboxes,
    getSandbox: async (teamID, sandboxID) => {
      enter();
      return find(teamID, sandboxID);
    },
    connectSandbox: async (teamID, sandboxID, wish) => {
      enter();
      wishes.push(wish);
      const view = find(teamID, sandboxID);
      if (view.state !== 'running') return resume(view, wish);
      const endAtMs = Math.max(view.endAtMs, now() + wish.timeoutSeconds * 1000);
      return { sandbox: update(view, { endAtMs }), resumed: false };
    },
    resumeSandbox: async (teamID, sandboxID, wish) => {
      enter();
      wishes.push(wish);
      const view = find(teamID, sandboxID);
      if (view.state === 'running') throw new CoppiceError('conflict', `Sandbox "${sandboxID}" is already running`);
      return resume(view, wish);
    },
    pauseSandbox: async (teamID, sandboxID, wish) => {
      enter();
      wishes.push(wish);
      const view = find(teamID, sandboxID);
      if (view.state === 'paused') throw new CoppiceError('conflict', `Sandbox "${sandboxID}" is already paused`);
      update(view, { state: 'paused', endAtMs: now() });
      return CAPTURE_RECEIPT;
    },
    forkSandbox: async (teamID, sandboxID, { count, timeoutSeconds }) => {
      enter();
      const view = find(teamID, sandboxID);
      if (view.state === 'paused') throw new CoppiceError('conflict', `Sandbox "${sandboxID}" is paused`);
      if (view.isolation === 'jail')
        throw new CoppiceError('not_implemented', 'fork is not implemented for jail sandboxes yet');
      return { forks: Array.from({ length: count }, () => fork(view, timeoutSeconds)), receipt: CAPTURE_RECEIPT };
    },
    rollbackSandbox: async (teamID, sandboxID, snapshot) => {
      enter();
      const view = find(teamID, sandboxID);
      const found = snapshots.findOwn(teamID, sandboxID, snapshot);
      snapshots.isFrom(sandboxID, found.buildID);
      const { endAtMs } = view;
      const running = view.state === 'running';
      const result = resume(view, { timeoutSeconds: lives.get(sandboxID) ?? 0 });
      return running ? { ...result, sandbox: update(result.sandbox, { endAtMs }) } : result;
    },
    refreshSandbox: async (teamID, sandboxID, timeoutSeconds) => {
      enter();
      const view = findRunning(teamID, sandboxID);
      update(view, { endAtMs: Math.max(view.endAtMs, now() + timeoutSeconds * 1000) });
    },
    createSnapshot: async (teamID, sandboxID, { name }) => {
      enter();
      return { snapshot: snapshots.take(find(teamID, sandboxID), name, now()), receipt: CAPTURE_RECEIPT };
    },
    listSnapshots: async (query) => {
      enter();
      return snapshots.list(query);
    },
    deleteSnapshot: async (teamID, snapshot) => {
      enter();
      if (snapshots.delete(teamID, snapshot)) return;
      if (templates.some((each) => each.aliases.includes(snapshot)))
        throw new CoppiceError('forbidden', `template '${snapshot}' comes with Coppice and cannot be deleted`);
      throw new CoppiceError('template_not_found', `template '${snapshot}' not found`);
    },
    setSandboxTimeout: async (teamID, sandboxID, timeoutSeconds) => {
      enter();
      const view = findRunning(teamID, sandboxID);
      update(view, { endAtMs: now() + timeoutSeconds * 1000 });
    },
    updateNetwork: async (teamID, sandboxID, network) => {
      enter();
      const { allowInternetAccess: _before, ...view } = find(teamID, sandboxID);
      sandboxes.set(sandboxID, { ...view, ...network });
    },
    killSandbox: async (teamID, sandboxID) => {
      enter();
      tell('killed', find(teamID, sandboxID));
      sandboxes.delete(sandboxID);
    },
    sandboxMetrics: async (teamID, sandboxID, { startMs = 0, endMs = Number.MAX_SAFE_INTEGER }) => {
      enter();
      find(teamID, sandboxID);
      return (points.get(sandboxID) ?? []).filter(({ atMs }) => atMs >= startMs && atMs <= endMs);
    },
    latestMetrics: async (teamID, sandboxIDs) => {
      enter();
      const own = sandboxIDs.filter((id) => sandboxes.get(id)?.teamID === teamID);
      return new Map(
        own.flatMap(
          (id) =>
            points
              .get(id)
              ?.slice(-1)
              .map((point) => [id, point] as const) ?? [],
        ),
      );
    },
    listLogs: async (query) => {
      enter();
      return journal.logs(query);
    },
    listEvents: async (query, signal) => {
      enter();
      return journal.events(query, signal);
    },
    requestBuild: builds.requestBuild,
    startBuild: builds.startBuild,
    getBuild: builds.getBuild,
    buildFile: builds.buildFile,
    tagTemplate: builds.tagTemplate,
    untagTemplate: builds.untagTemplate,
    listTags: builds.listTags,
    publishTemplate: builds.publishTemplate,
    cancelBuilds: builds.cancelBuilds,
    listTemplates: async () => {
      enter();
      return templates;
    },
    status: async (): Promise<NodeStatus> => ({
      backends: [{ isolation: 'microvm', backend: 'fake', accelerator: 'none' }],
      rootless: true,
      ready,
      notices: [],
      sandboxes: sandboxes.size,
      hot: 0,
      hotTarget: 0,
    }),
    leaks: async () => ({
      processes: 0,
      taps: 0,
      addresses: 0,
      rules: 0,
      mounts: 0,
      files: 0,
      cgroups: 0,
      details: [],
    }),
    holdNextCreate: () => {
      const { promise, resolve } = Promise.withResolvers<void>();
      held = promise;
      return () => {
        held = undefined;
        resolve();
      };
    },
    failNext: (error) => {
      failure = { error };
    },
    setReady: (value) => {
      ready = value;
    },
  };
}

interface Position {
  readonly startedAtMs: number;
  readonly sandboxID: string;
}

/** E2B's form: `i` and 20 of a-z and 0-9. */
function newSandboxID(): string {
  return `i${Array.from(randomBytes(20), (byte) => (byte % 36).toString(36)).join('')}`;
}

function abortOf(signal: AbortSignal | undefined): Promise<never> {
  return new Promise((_resolve, reject) => {
    signal?.addEventListener('abort', () => reject(signal.reason as Error), { once: true });
  });
}

export interface ServedAPI {
  /** `http://127.0.0.1:<port>` */
  readonly url: string;
  readonly port: number;
  /** A valid key of the default team. */
  readonly key: string;
  readonly adminToken: string;
  readonly teamID: string;
  readonly store: ControlStore;
  call(method: string, path: string, options?: CallOptions): Promise<Answer>;
  close(): Promise<void>;
}

export interface CallOptions {
  /** Sent as JSON; a string or Buffer goes out as it is. */
  readonly body?: unknown;
  readonly headers?: OutgoingHttpHeaders;
  /** `null` sends no key. Default: the valid one. */
  readonly key?: string | null;
}

export interface Answer {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  readonly text: string;
  /** The parsed body; undefined if there is none. */
  // biome-ignore lint/suspicious/noExplicitAny: its shape was checked against the contract's schema before a test sees it
  readonly json: any;
}

/** One request on its own connection. Every answer is checked against the schema that the contract has for it. */
async function callAPI(port: number, key: string, method: string, path: string, options: CallOptions): Promise<Answer> {
  const { body } = options;
  const raw = body === undefined || typeof body === 'string' || Buffer.isBuffer(body);
  const headers: OutgoingHttpHeaders = {
    ...(options.key === null ? {} : { 'x-api-key': options.key ?? key }),
    ...(raw ? {} : { 'content-type': 'application/json' }),
    ...options.headers,
  };
  const payload = raw ? (body as string | Buffer | undefined) : JSON.stringify(body);
  // Node's client frames a body by itself only for the methods that usually have one.
  if (payload !== undefined && headers['transfer-encoding'] === undefined)
    headers['content-length'] = Buffer.byteLength(payload);
  const answer = await new Promise<Answer>((resolve, reject) => {
    const req = httpRequest({ host: '127.0.0.1', port, method, path, headers, agent: false }, (res) => {
      const chunks: Buffer[] = [];
      res.on('data', (chunk: Buffer) => chunks.push(chunk));
      res.on('error', reject);
      res.on('end', () => {
        const text = Buffer.concat(chunks).toString('utf8');
        const isJSON = res.headers['content-type']?.startsWith('application/json') === true;
        const json = isJSON && text !== '' ? (JSON.parse(text) as unknown) : undefined;
        resolve({ status: res.statusCode ?? 0, headers: res.headers, text, json });
      });
    });
    req.on('error', reject);
    req.end(payload);
  });
  checkAnswer(method, path, answer);
  return answer;
}

/**
 * The REST edge over a store in memory and `node`, on a free loopback port. Every answer is held against the contract, and
 * `close` throws when one was not of it.
 */
export async function serveAPI(
  node: NodeApi,
  options: { domain?: string; log?: Log; now?: () => number; webhookAddresses?: WebhookAddresses } = {},
): Promise<ServedAPI> {
  const { domain, log = silentLog, now, webhookAddresses } = options;
  const store = openControlStore(':memory:', { flushIntervalMs: 0, ...(now ? { now } : {}) });
  const teamID = store.teams.default.teamID;
  const { key } = store.keys.create({ teamID, name: 'test' });
  const adminToken = store.admin.renew();
  const api = createApi({
    node,
    store,
    log,
    ...(domain === undefined ? {} : { domain }),
    ...(webhookAddresses ? { webhookAddresses } : {}),
  });
  const { handle, faults } = checkingAnswers(api.handle);
  const server = createServer(handle);
  server.on('clientError', answerClientError);
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  const close = async () => {
    await api.close();
    server.closeAllConnections();
    await new Promise<void>((resolve) => server.close(() => resolve()));
    store.close();
    assert.deepEqual(faults, [], 'answers that are not of the contract');
  };
  const call = (method: string, path: string, more: CallOptions = {}) => callAPI(port, key, method, path, more);
  return { url: `http://127.0.0.1:${port}`, port, key, adminToken, teamID, store, call, close };
}
