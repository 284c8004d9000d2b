/** The node's views in E2B's JSON. */
import { ERRORS } from '../errors.ts';
import {
  CLIENT_ID,
  ENVD_VERSION,
  type ForkOutcome,
  type Receipt,
  type SandboxState,
  type SandboxView,
  type SnapshotView,
  type TemplateBuildView,
  type TemplateView,
} from '../node-api.ts';
import type {
  ForkResult,
  ListedSandbox,
  Sandbox,
  SandboxDetail,
  SnapshotInfo,
  Template,
  TemplateWithBuilds,
} from './responses.ts';

/** E2B knows two states: what is on its way into or out of a pause counts as where it goes. Undefined: gone. */
export function wireState(state: SandboxState): 'running' | 'paused' | undefined {
  switch (state) {
    case 'creating':
    case 'running':
    case 'resuming':
      return 'running';
    case 'pausing':
    case 'paused':
      return 'paused';
    case 'killing':
    case 'killed':
    case 'error':
      return undefined;
  }
}

/** Answer of create and connect. `domain` steers the SDK to where this server's sandboxes are; null leaves it alone. */
export function encodeSandbox(view: SandboxView, domain: string | undefined): Sandbox {
  return {
    templateID: view.templateID,
    sandboxID: view.sandboxID,
    clientID: CLIENT_ID,
    envdVersion: view.envdVersion,
    ...optional('alias', view.alias),
    ...optional('envdAccessToken', view.envdAccessToken),
    trafficAccessToken: view.trafficAccessToken ?? null,
    domain: domain ?? null,
  };
}

export function encodeListedSandbox(view: SandboxView, state: 'running' | 'paused'): ListedSandbox {
  return {
    templateID: view.templateID,
    sandboxID: view.sandboxID,
    clientID: CLIENT_ID,
    startedAt: instant(view.startedAtMs),
    endAt: instant(view.endAtMs),
    cpuCount: view.cpuCount,
    memoryMB: view.memoryMB,
    diskSizeMB: view.diskSizeMB,
    state,
    envdVersion: view.envdVersion,
    ...optional('alias', view.alias),
    metadata: { ...view.metadata },
    volumeMounts: view.volumeMounts.map(({ name, path }) => ({ name, path })),
  };
}

export function encodeSandboxDetail(
  view: SandboxView,
  state: 'running' | 'paused',
  domain: string | undefined,
): SandboxDetail {
  return {
    ...encodeListedSandbox(view, state),
    ...optional('envdAccessToken', view.envdAccessToken),
    allowInternetAccess: view.allowInternetAccess ?? null,
    domain: domain ?? null,
    network: {
      allowPublicTraffic: view.publicTraffic,
      ...optional('maskRequestHost', view.maskRequestHost),
    },
    lifecycle: { autoResume: view.autoResume, onTimeout: view.onTimeout },
  };
}

export function encodeFork(outcome: ForkOutcome, domain: string | undefined): ForkResult {
  if ('sandbox' in outcome) return { sandbox: encodeSandbox(outcome.sandbox, domain) };
  const { code, message } = outcome.error;
  return { error: { code: ERRORS[code].status, message } };
}

export function encodeSnapshot(view: SnapshotView): SnapshotInfo {
  return {
    snapshotID: view.snapshotID,
    names: [...view.names],
    buildID: view.buildID,
    parentID: view.parentID,
    sourceID: view.sourceID,
    memory: view.memory,
    ownBytes: view.ownBytes,
    sharedBytes: view.sharedBytes,
    createdAt: instant(view.createdAtMs),
  };
}

/** Built-in templates have no owner: every key may use them, which is what E2B calls public. */
export function encodeTemplate(view: TemplateView): Template {
  return {
    templateID: view.templateID,
    buildID: view.buildID,
    cpuCount: view.cpuCount,
    memoryMB: view.memoryMB,
    diskSizeMB: view.diskSizeMB,
    public: view.public ?? true,
    aliases: [...view.aliases],
    names: [...view.aliases],
    createdAt: instant(view.createdAtMs),
    updatedAt: instant(view.updatedAtMs),
    createdBy: null,
    lastSpawnedAt: view.lastSpawnedAtMs === undefined ? null : instant(view.lastSpawnedAtMs),
    spawnCount: view.spawnCount,
    buildCount: view.builds?.length ?? 1,
    envdVersion: view.envdVersion,
    buildStatus: view.status ?? 'ready',
  };
}

export function encodeTemplateWithBuilds(view: TemplateView): TemplateWithBuilds {
  return {
    templateID: view.templateID,
    public: view.public ?? true,
    aliases: [...view.aliases],
    names: [...view.aliases],
    createdAt: instant(view.createdAtMs),
    updatedAt: instant(view.updatedAtMs),
    lastSpawnedAt: view.lastSpawnedAtMs === undefined ? null : instant(view.lastSpawnedAtMs),
    spawnCount: view.spawnCount,
    builds: (view.builds ?? [onlyBuildOf(view)]).map((build) => encodeBuildOf(build, view.envdVersion)),
  };
}

/** Snapshots that go by one name, newest first, as the builds of a template, which they are to E2B's clients. */
export function encodeSnapshotsAsTemplate(snapshots: readonly [SnapshotView, ...SnapshotView[]]): TemplateWithBuilds {
  const [newest] = snapshots;
  const aliases = [...new Set(snapshots.flatMap(({ names }) => names.map((name) => name.split(':')[0]!)))];
  return {
    templateID: newest.templateID,
    public: false,
    aliases,
    names: aliases,
    createdAt: instant(snapshots.at(-1)!.createdAtMs),
    updatedAt: instant(newest.createdAtMs),
    // Nobody is told how often one is used.
    lastSpawnedAt: null,
    spawnCount: 0,
    builds: snapshots.map(({ buildID, createdAtMs, shape }) =>
      encodeBuildOf(
        {
          buildID,
          status: 'ready',
          createdAtMs,
          updatedAtMs: createdAtMs,
          finishedAtMs: createdAtMs,
          ...shape,
        },
        ENVD_VERSION,
      ),
    ),
  };
}

function onlyBuildOf(view: TemplateView): TemplateBuildView {
  const { buildID, createdAtMs, updatedAtMs, cpuCount, memoryMB, diskSizeMB } = view;
  return {
    buildID,
    status: 'ready',
    createdAtMs,
    updatedAtMs,
    finishedAtMs: updatedAtMs,
    cpuCount,
    memoryMB,
    diskSizeMB,
  };
}

function encodeBuildOf(build: TemplateBuildView, envdVersion: string): TemplateWithBuilds['builds'][number] {
  const { buildID, status, createdAtMs, updatedAtMs, finishedAtMs, cpuCount, memoryMB, diskSizeMB } = build;
  return {
    buildID,
    status,
    createdAt: instant(createdAtMs),
    updatedAt: instant(updatedAtMs),
    ...(finishedAtMs === undefined ? {} : { finishedAt: instant(finishedAtMs) }),
    cpuCount,
    memoryMB,
    diskSizeMB,
    envdVersion,
  };
}

/** `Server-Timing` (W3C): one entry a stage, durations in milliseconds, then how long a captured machine stood, the total. */
export function encodeServerTiming({ stages, path, pauseMs, totalMs }: Receipt): string {
  const total = `total;dur=${round(totalMs)}`;
  return [
    ...stages.slice(0, 32).map(({ name, ms }) => `${token(name)};dur=${round(ms)}`),
    ...(pauseMs === undefined ? [] : [`pause;dur=${round(pauseMs)}`]),
    path === undefined ? total : `${total};desc="${path}"`,
  ].join(', ');
}

function token(name: string): string {
  return name.replace(/[^A-Za-z0-9_-]/g, '_').slice(0, 64) || 'stage';
}

function round(ms: number): number {
  return Number.isFinite(ms) ? Math.round(ms * 1000) / 1000 : 0;
}

function instant(ms: number): string {
  return new Date(ms).toISOString();
}

function optional<K extends string>(name: K, value: string | undefined): { [P in K]?: string } {
  return value === undefined ? {} : ({ [name]: value } as { [P in K]?: string });
}
