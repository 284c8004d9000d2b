/**
 * Rig: load. Many programs at once that create, use and kill sandboxes by the official SDK for minutes: how many flows a second,
 * what failed, and whether the service's two processes hold more afterwards than before. Clocks are in the result.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { openHost } from '../../src/cli/host.ts';
import { leaksOfHome } from '../../src/cli/leaks.ts';
import { CoppiceError } from '../../src/contract/errors.ts';
import type { Home } from '../../src/store/home.ts';
import type { Log } from '../../src/telemetry/log.ts';
import { findTemplate } from './clones.ts';
import { type Failure, type FlowsResult, runFlows, STAGES, type Stage } from './load-flows.ts';
import { describeHost } from './machine.ts';
import { type ProcessReading, readProcess } from './processes.ts';
import { type RigService, withService } from './service.ts';
import { round, type Summary, summarize } from './statistics.ts';

export interface LoadRigOptions {
  readonly home: Home;
  readonly template: string;
  /** At once. */
  readonly flows: number;
  readonly seconds: number;
  readonly log: Log;
  readonly signal: AbortSignal;
  readonly onStage: (stage: string, fraction?: number) => void;
}

type ProcessName = 'control' | 'node';

export interface LoadReading {
  /** Seconds since the flows began; the first and the last are of a service at rest. */
  readonly at_s: number;
  readonly control: ProcessReading;
  readonly node: ProcessReading;
  readonly sandboxes: number;
  readonly hot: number;
}

export interface Growth {
  readonly process: ProcessName;
  readonly of: keyof typeof SLACK;
  readonly from: number;
  readonly to: number;
  readonly slack: number;
  readonly exceeded: boolean;
}

export interface LoadResult {
  readonly rig: 'load';
  readonly at: string;
  readonly machine: ReturnType<typeof describeHost>;
  readonly backend: string;
  readonly accelerator: string;
  readonly version: string;
  readonly template: string;
  readonly isolation: string;
  readonly clock: string;
  readonly flows_at_once: number;
  readonly warm_up_seconds: number;
  readonly seconds: number;
  readonly hot_entries: number;
  readonly flows: number;
  readonly flows_per_second: number;
  readonly succeeded: number;
  readonly failed: number;
  /** Every one, those of the warm-up with negative times. */
  readonly failures: readonly Failure[];
  /** null: none got so far. */
  readonly stages_ms: Readonly<Record<Stage | 'flow', Summary | null>>;
  readonly readings: readonly LoadReading[];
  readonly growth: readonly Growth[];
  /** What the leak check found at rest after the load, and when the service had stopped. */
  readonly leaks: { readonly after_load: readonly string[]; readonly after_stop: readonly string[] };
  /** Nothing failed, leaked or grew beyond its slack. */
  readonly held: boolean;
}

/** How much more the service may hold at rest after the load than before, each process. */
const SLACK = { rss_mib: 48, pss_mib: 48, threads: 4, handles: 16, files: 8 } as const;
const HOT = 8;
const READ_EVERY_MS = 10_000;
/** Compilers, caches and connections are there by then: what comes after is growth. */
const WARM_UP_SHARE = 0.2;
const WARM_UP_MOST_S = 60;
/** At rest: connections that nobody uses are closed, and garbage is collected at its own pace. */
const SETTLE_MS = 15_000;
const SETTLE_MOST_MS = 60_000;
/** MiB that admission counts a sandbox as beyond its memory, rounded up. */
const OVERHEAD_MIB = 128;

export async function runLoadRig(options: LoadRigOptions): Promise<LoadResult> {
  const { home, log, signal, flows, seconds, onStage } = options;
  const host = openHost(home, log);
  const template = await findTemplate(host, options.template);
  const backend = host.backends.of(template.isolation);
  const probe = await backend.probe(signal);
  if (!probe.usable) throw new CoppiceError('host_unfit', probe.notices.join('; '));
  const warmUp = Math.min(WARM_UP_MOST_S, Math.ceil(seconds * WARM_UP_SHARE));
  const memoryMB = (flows + 2 * HOT) * (template.shape.memoryMB + OVERHEAD_MIB);
  const load = { template: options.template, flows, signal };

  const served = await withService({ home, log, signal, pool: HOT, memoryMB }, async (service) => {
    onStage('filling the hot tier');
    await service.untilFull();
    onStage(`warming up: ${flows} flows at once`);
    const before = await runFlows(service, { ...load, seconds: warmUp });
    onStage('at rest');
    await settle(service, signal);
    const readings: LoadReading[] = [await read(service, 0)];
    const begun = performance.now();
    const since = (): number => Math.round((performance.now() - begun) / 1000);
    const stop = new AbortController();
    const reading = (async () => {
      while (await pause(READ_EVERY_MS, stop.signal)) {
        readings.push(await read(service, since()));
        onStage(`${flows} flows at once`, Math.min(1, since() / seconds));
      }
    })();
    const result = await runFlows(service, { ...load, seconds }).finally(() => stop.abort());
    await reading;
    onStage('at rest again');
    await settle(service, signal);
    readings.push(await read(service, since()));
    return { before, result, readings, afterLoad: (await service.node.leaks()).details };
  });
  const afterStop = (await leaksOfHome(home, log)).details;

  const { result, before, readings, afterLoad } = served;
  const failures = [
    ...before.failures.map((failure) => ({ ...failure, at_s: failure.at_s - Math.ceil(before.seconds) })),
    ...result.failures,
  ];
  const growth = growthOf(readings);
  return {
    rig: 'load',
    at: new Date().toISOString(),
    machine: describeHost(),
    backend: backend.name,
    accelerator: probe.accelerator,
    version: probe.version,
    template: options.template,
    isolation: template.isolation,
    clock:
      "each stage: the SDK's method called to its result in hand, e2b's package in this process, which takes its share of the processors; flows: create, run echo, write 4 KiB, read them, kill, each checked, one after the other, so many at once; readings: /proc of the two processes, the first and the last at rest",
    flows_at_once: flows,
    warm_up_seconds: warmUp,
    seconds: round(result.seconds),
    hot_entries: HOT,
    flows: result.succeeded + result.failures.length,
    flows_per_second: round(result.succeeded / result.seconds),
    succeeded: result.succeeded,
    failed: failures.length,
    failures,
    stages_ms: summaries(result.times),
    readings,
    growth,
    leaks: { after_load: afterLoad, after_stop: afterStop },
    held:
      result.succeeded > 0 &&
      failures.length + afterLoad.length + afterStop.length === 0 &&
      growth.every(({ exceeded }) => !exceeded),
  };
}

function summaries(times: FlowsResult['times']): LoadResult['stages_ms'] {
  const of = (samples: readonly number[]): Summary | null => (samples.length === 0 ? null : summarize(samples));
  return Object.fromEntries(
    [...STAGES, 'flow' as const].map((name) => [name, of(times[name])]),
  ) as LoadResult['stages_ms'];
}

async function read({ node, nodePid, controlPid }: RigService, at: number): Promise<LoadReading> {
  const { sandboxes, hot } = await node.status();
  return { at_s: at, control: readProcess(controlPid), node: readProcess(nodePid), sandboxes, hot };
}

/** Waits until nothing runs, the hot tier is full, and idle connections have had their time. */
async function settle({ node, untilFull }: RigService, signal: AbortSignal): Promise<void> {
  const end = Date.now() + SETTLE_MOST_MS;
  while ((await node.status()).sandboxes > 0 && Date.now() < end) await sleep(200, undefined, { signal });
  await untilFull();
  await sleep(SETTLE_MS, undefined, { signal });
}

function growthOf(readings: readonly LoadReading[]): Growth[] {
  const [first, last] = [readings[0]!, readings.at(-1)!];
  return (['control', 'node'] as const).flatMap((process) =>
    (Object.keys(SLACK) as (keyof typeof SLACK)[]).map((of) => {
      const [from, to, slack] = [first[process][of], last[process][of], SLACK[of]];
      return { process, of, from, to, slack, exceeded: to - from > slack };
    }),
  );
}

/** False: stopped before its time. */
const pause = (ms: number, signal: AbortSignal): Promise<boolean> => sleep(ms, true, { signal }).catch(() => false);
