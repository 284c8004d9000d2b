/**
 * Rig: create. Clock C2 (docs/performance.md): POST sent to 201 received, and the 201 is sent only after the guest has
 * answered. Rows: hot hit and pool miss at c=1 through the whole service, memory and idle CPU of a clone, and beside them
 * the floor measured in the same run: SIGCONT of a parked clone to its agent's answer on the raw channel.
 */
import { readFileSync } from 'node:fs';
import { mkdir, rm } from 'node:fs/promises';
import { Agent, request } from 'node:http';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { AgentClient } from '../../src/channel/agent.ts';
import { connectAgent } from '../../src/channel/client.ts';
import { type Host, openHost } from '../../src/cli/host.ts';
import { localKey } from '../../src/cli/local-service.ts';
import { Service } from '../../src/cli/service.ts';
import { CoppiceError } from '../../src/contract/errors.ts';
import { connectNodeApi } from '../../src/contract/node-rpc/client.ts';
import type { Machine } from '../../src/isolation/backend.ts';
import type { ReadyTemplate } from '../../src/node/nursery.ts';
import type { Home } from '../../src/store/home.ts';
import type { Log } from '../../src/telemetry/log.ts';
import { describeHost } from './machine.ts';
import { type Summary, summarize } from './statistics.ts';

export interface CreateRigOptions {
  readonly home: Home;
  readonly template: string;
  /** Creates per row. */
  readonly n: number;
  /** Idle clones held for the memory and CPU rows. */
  readonly clones: number;
  readonly log: Log;
  readonly signal: AbortSignal;
  readonly onStage: (stage: string) => void;
}

export interface CreateResult {
  readonly rig: 'create';
  readonly clock: string;
  readonly at: string;
  readonly machine: ReturnType<typeof describeHost>;
  readonly backend: string;
  readonly accelerator: string;
  readonly vmm: string;
  readonly template: string;
  readonly floor_sigcont_to_answer_ms: Summary;
  readonly hot_create_ms: Summary;
  /** The server's own stages of the hot creates, median each. */
  readonly hot_stages_ms: Readonly<Record<string, number>>;
  readonly miss_create_ms: Summary;
  readonly miss_stages_ms: Readonly<Record<string, number>>;
  readonly memory_per_clone_mib: {
    readonly clones: number;
    readonly by_mem_available: number;
    readonly by_private_pages: number;
  };
  readonly idle_cpu_per_clone_percent: {
    readonly clones: number;
    readonly seconds: number;
    readonly of_one_core: number;
  };
}

/** Warm-up creates that are not counted. */
const WARM_UP = 3;
const IDLE_SECONDS = 10;
/** Idle clones are given this long to come to rest before they are weighed. */
const SETTLE_MS = 3_000;

export async function runCreateRig(options: CreateRigOptions): Promise<CreateResult> {
  const { home, log, signal, onStage } = options;
  const host = openHost(home, log);
  const probe = await host.probe(signal);
  const template = (await host.builds.ready()).find((one) => one.aliases.includes(options.template));
  if (!template) throw new CoppiceError('template_not_found', `template '${options.template}' is not built`);

  onStage('the floor: waking parked clones');
  const floor = await measureFloor(host, template, options);
  onStage('memory and CPU of idle clones');
  const idle = await weighIdleClones(host, template, options);
  onStage('hot hits through the service');
  const hot = await measureCreates(options, { COPPICE_POOL: '2', COPPICE_POOL_MOST: '2' }, 1);
  onStage('pool misses through the service');
  const miss = await measureCreates(options, { COPPICE_POOL: '0', COPPICE_POOL_MOST: '0' }, 0);

  return {
    rig: 'create',
    clock: 'POST /v2/sandboxes sent to 201 received, c=1, keep-alive, loopback; the guest has answered before the 201',
    at: new Date().toISOString(),
    machine: describeHost(),
    backend: host.backend.name,
    accelerator: probe.accelerator,
    vmm: probe.version,
    template: options.template,
    floor_sigcont_to_answer_ms: floor,
    hot_create_ms: summarize(hot.total),
    hot_stages_ms: hot.stages,
    miss_create_ms: summarize(miss.total),
    miss_stages_ms: miss.stages,
    ...idle,
  };
}

interface Clone {
  readonly machine: Machine;
  readonly agent: AgentClient;
}

/** `first`: number of the first one, so that groups can stand side by side. */
async function withClones<T>(
  host: Host,
  template: ReadyTemplate,
  { first, count }: { readonly first: number; readonly count: number },
  options: CreateRigOptions,
  use: (clones: Clone[]) => Promise<T>,
): Promise<T> {
  const clones: Clone[] = [];
  const folders: string[] = [];
  try {
    for (let index = first; index < first + count; index++) {
      options.signal.throwIfAborted();
      const id = `bench${index}`;
      const folder = join(options.home.machines, id);
      folders.push(folder);
      await mkdir(folder, { mode: 0o700 });
      const machine = await host.backend.clone(
        template.golden,
        template.image,
        {
          id,
          folder,
          shape: template.shape,
          ...(host.firstUid === undefined ? {} : { uid: host.firstUid + 4_000 + index }),
        },
        options.signal,
      );
      const agent = await connectAgent(await machine.openChannel(options.signal), {
        signal: options.signal,
        log: options.log,
        deadlineMs: 30_000,
      });
      await agent.identity({ hostname: id, network: null, clockMs: Date.now(), env: {} }, options.signal);
      clones.push({ machine, agent });
    }
    return await use(clones);
  } finally {
    for (const { agent } of clones) agent.close();
    await Promise.all(clones.map(({ machine }) => machine.destroy()));
    for (const folder of folders) await rm(folder, { recursive: true, force: true });
  }
}

function measureFloor(host: Host, template: ReadyTemplate, options: CreateRigOptions): Promise<Summary> {
  return withClones(host, template, { first: 0, count: 2 }, options, async (clones) => {
    const samples: number[] = [];
    for (let round = -WARM_UP; round < options.n; round++) {
      const { machine, agent } = clones[Math.abs(round) % clones.length]!;
      machine.park();
      await sleep(50);
      const begun = performance.now();
      machine.unpark();
      await agent.ping(options.signal);
      if (round >= 0) samples.push(performance.now() - begun);
    }
    return summarize(samples);
  });
}

async function weighIdleClones(
  host: Host,
  template: ReadyTemplate,
  options: CreateRigOptions,
): Promise<Pick<CreateResult, 'memory_per_clone_mib' | 'idle_cpu_per_clone_percent'>> {
  // One clone first: what all share (page cache of the checkpoint, the VMM's binary) is not counted to any.
  return withClones(host, template, { first: 0, count: 1 }, options, async () => {
    const before = memAvailableMiB();
    return withClones(host, template, { first: 1, count: options.clones }, options, async (clones) => {
      await sleep(SETTLE_MS);
      const after = memAvailableMiB();
      const begun = await Promise.all(clones.map(({ machine }) => machine.usage()));
      await sleep(IDLE_SECONDS * 1000);
      const ended = await Promise.all(clones.map(({ machine }) => machine.usage()));
      const cpu = ended.reduce((sum, usage, index) => sum + usage.cpuSeconds - begun[index]!.cpuSeconds, 0);
      const privateBytes = ended.reduce((sum, usage) => sum + usage.privateBytes, 0);
      return {
        memory_per_clone_mib: {
          clones: clones.length,
          by_mem_available: round((before - after) / clones.length),
          by_private_pages: round(privateBytes / 2 ** 20 / clones.length),
        },
        idle_cpu_per_clone_percent: {
          clones: clones.length,
          seconds: IDLE_SECONDS,
          of_one_core: round((cpu / clones.length / IDLE_SECONDS) * 100),
        },
      };
    });
  });
}

async function measureCreates(
  options: CreateRigOptions,
  env: Record<string, string>,
  hotWanted: number,
): Promise<{ total: number[]; stages: Record<string, number> }> {
  const { home, log, signal, template, n } = options;
  Object.assign(process.env, env);
  const service = new Service({ home, host: '127.0.0.1', port: 0, log });
  const agent = new Agent({ keepAlive: true, maxSockets: 1 });
  const total: number[] = [];
  const stages: Record<string, number>[] = [];
  try {
    const port = await service.start(signal);
    const apiKey = localKey(home);
    const node = connectNodeApi(home.nodeSocket);
    const call = (method: string, path: string, body?: unknown) =>
      callJSON({ agent, port, method, path, apiKey, body });
    for (let round = -WARM_UP; round < n; round++) {
      signal.throwIfAborted();
      if (hotWanted > 0) await untilHot(node, template, 2, signal);
      const begun = performance.now();
      const answer = await call('POST', '/v2/sandboxes', { templateID: template, timeout: 60 });
      const took = performance.now() - begun;
      if (answer.status !== 201) throw new Error(`create answered ${answer.status}: ${answer.text}`);
      if (round >= 0) {
        total.push(took);
        stages.push(answer.timing);
      }
      await call('DELETE', `/sandboxes/${answer.body.sandboxID}`);
    }
    await node.close();
  } finally {
    agent.destroy();
    await service.stop();
  }
  const names = Object.keys(stages[0] ?? {});
  return {
    total,
    stages: Object.fromEntries(names.map((name) => [name, summarize(stages.map((one) => one[name] ?? 0)).p50])),
  };
}

async function untilHot(
  node: ReturnType<typeof connectNodeApi>,
  template: string,
  count: number,
  signal: AbortSignal,
): Promise<void> {
  const deadline = Date.now() + 60_000;
  for (;;) {
    signal.throwIfAborted();
    const all = await node.listTemplates();
    if ((all.find((one) => one.aliases.includes(template))?.hot ?? 0) >= count && all.every((one) => one.hot >= count))
      return;
    if (Date.now() > deadline) throw new CoppiceError('unavailable', 'the hot tier did not fill within a minute');
    await sleep(20);
  }
}

interface Call {
  readonly agent: Agent;
  readonly port: number;
  readonly method: string;
  readonly path: string;
  readonly apiKey: string;
  readonly body?: unknown;
}

function callJSON({
  agent,
  port,
  method,
  path,
  apiKey,
  body,
}: Call): Promise<{ status: number; text: string; body: { sandboxID: string }; timing: Record<string, number> }> {
  return new Promise((resolve, reject) => {
    const payload = body === undefined ? undefined : JSON.stringify(body);
    const headers = {
      'X-API-Key': apiKey,
      ...(payload === undefined
        ? {}
        : { 'Content-Type': 'application/json', 'Content-Length': Buffer.byteLength(payload) }),
    };
    const req = request({ agent, host: '127.0.0.1', port, method, path, headers }, (res) => {
      const chunks: Buffer[] = [];
      res.on('data', (chunk: Buffer) => chunks.push(chunk));
      res.on('end', () => {
        const text = Buffer.concat(chunks).toString();
        const timing = Object.fromEntries(
          String(res.headers['server-timing'] ?? '')
            .split(',')
            .map((part) => /^\s*([\w-]+)\s*;.*dur=([\d.]+)/.exec(part))
            .filter((match) => match !== null)
            .map((match) => [match[1]!, Number(match[2])]),
        );
        resolve({ status: res.statusCode ?? 0, text, body: text ? JSON.parse(text) : {}, timing });
      });
      res.on('error', reject);
    });
    req.on('error', reject);
    req.end(payload);
  });
}

function memAvailableMiB(): number {
  const match = /^MemAvailable:\s+(\d+) kB/m.exec(readFileSync('/proc/meminfo', 'utf8'));
  return Number(match![1]) / 1024;
}

function round(value: number): number {
  return Math.round(value * 1000) / 1000;
}
