/** Messages of node.proto to and from the types of node-api.ts. A field that is absent stays absent; values are checked. */
import { create, type MessageInitShape } from '@bufbuild/protobuf';
import { BUILD_STATUSES } from '../build-api.ts';
import { CoppiceError } from '../errors.ts';
import {
  type CreateSandboxRequest as CreateMessage,
  CreateSandboxRequestSchema,
  type ListSandboxesRequest as ListMessage,
  ListSandboxesRequestSchema,
  type VolumeMount as MountMessage,
  type NetworkWish as NetworkMessage,
  type NetworkWishSchema,
  type Pair,
  type Position,
  type Receipt as ReceiptMessage,
  type ReceiptSchema,
  type ResumeRequest as ResumeMessage,
  type ResumeRequestSchema,
  type ResumeResponseSchema,
  type ResumeResponse as ResumeResultMessage,
  type Sandbox as SandboxMessage,
  type SandboxSchema,
  type StatusResponse,
  type TemplateBuild as TemplateBuildMessage,
  type TemplateBuildSchema,
  type Template as TemplateMessage,
  type TemplateSchema,
} from '../gen/node_pb.js';
import {
  type CreateSandboxRequest,
  ISOLATIONS,
  type ListSandboxesQuery,
  type ListSandboxesResult,
  type NetworkWish,
  type NodeStatus,
  type OnTimeout,
  type Receipt,
  type ResumeResult,
  type ResumeWish,
  type SandboxState,
  type SandboxView,
  type TemplateBuildView,
  type TemplateView,
} from '../node-api.ts';
import type { VolumeMount } from '../volume-api.ts';

const STATES: ReadonlySet<string> = new Set<SandboxState>([
  'creating',
  'running',
  'pausing',
  'paused',
  'resuming',
  'killing',
  'killed',
  'error',
]);

const ON_TIMEOUT: readonly OnTimeout[] = ['kill', 'pause'];
const PATHS: readonly NonNullable<Receipt['path']>[] = ['hot', 'shell', 'cold'];

export function requestToMessage(request: CreateSandboxRequest): CreateMessage {
  return create(CreateSandboxRequestSchema, {
    teamId: request.teamID,
    template: request.template,
    timeoutSeconds: request.timeoutSeconds,
    secure: request.secure,
    metadata: toPairs(request.metadata),
    envVars: toPairs(request.envVars),
    ...(request.isolation === undefined ? {} : { isolation: request.isolation }),
    ...(request.onTimeout === undefined ? {} : { onTimeout: request.onTimeout }),
    ...(request.pauseMemory === undefined ? {} : { pauseMemory: request.pauseMemory }),
    ...(request.autoResume === undefined ? {} : { autoResume: request.autoResume }),
    network: networkToMessage(request.network),
    volumeMounts: (request.volumeMounts ?? []).map(({ name, path }) => ({ name, path })),
  });
}

export function requestFromMessage(message: CreateMessage): CreateSandboxRequest {
  return {
    teamID: message.teamId,
    template: message.template,
    timeoutSeconds: message.timeoutSeconds,
    secure: message.secure,
    metadata: fromPairs(message.metadata),
    envVars: fromPairs(message.envVars),
    ...(message.isolation === undefined ? {} : { isolation: oneOf(message.isolation, ISOLATIONS, 'isolation') }),
    ...(message.onTimeout === undefined ? {} : { onTimeout: oneOf(message.onTimeout, ON_TIMEOUT, 'on_timeout') }),
    ...(message.pauseMemory === undefined ? {} : { pauseMemory: message.pauseMemory }),
    ...(message.autoResume === undefined ? {} : { autoResume: message.autoResume }),
    network: networkFromMessage(message.network),
    ...(message.volumeMounts.length === 0 ? {} : { volumeMounts: message.volumeMounts.map(mountFromMessage) }),
  };
}

export function networkToMessage(wish: NetworkWish): MessageInitShape<typeof NetworkWishSchema> {
  const { allowInternetAccess, publicTraffic, maskRequestHost } = wish;
  return {
    ...(allowInternetAccess === undefined ? {} : { allowInternetAccess }),
    ...(publicTraffic === undefined ? {} : { publicTraffic }),
    ...(maskRequestHost === undefined ? {} : { maskRequestHost }),
  };
}

export function networkFromMessage(message: NetworkMessage | undefined): NetworkWish {
  const { allowInternetAccess, publicTraffic, maskRequestHost } = message ?? {};
  return {
    ...(allowInternetAccess === undefined ? {} : { allowInternetAccess }),
    ...(publicTraffic === undefined ? {} : { publicTraffic }),
    ...(maskRequestHost === undefined ? {} : { maskRequestHost }),
  };
}

function mountFromMessage({ name, path }: MountMessage): VolumeMount {
  return { name, path };
}

export function queryToMessage(query: ListSandboxesQuery): ListMessage {
  return create(ListSandboxesRequestSchema, {
    teamId: query.teamID,
    states: [...query.states],
    order: query.order,
    limit: query.limit,
    ...(query.metadata === undefined ? {} : { metadata: { pairs: toPairs(query.metadata) } }),
    ...(query.template === undefined ? {} : { template: query.template }),
    ...(query.startedAfterMs === undefined ? {} : { startedAfterMs: query.startedAfterMs }),
    ...(query.after === undefined ? {} : { after: positionToMessage(query.after) }),
  });
}

export function queryFromMessage(message: ListMessage): ListSandboxesQuery {
  return {
    teamID: message.teamId,
    states: message.states.map((state) => oneOf(state, ['running', 'paused'] as const, 'states')),
    order: oneOf(message.order, ['asc', 'desc'] as const, 'order'),
    limit: message.limit,
    ...(message.metadata === undefined ? {} : { metadata: fromPairs(message.metadata.pairs) }),
    ...(message.template === undefined ? {} : { template: message.template }),
    ...(message.startedAfterMs === undefined ? {} : { startedAfterMs: message.startedAfterMs }),
    ...(message.after === undefined ? {} : { after: positionFromMessage(message.after) }),
  };
}

export function sandboxToMessage(view: SandboxView): MessageInitShape<typeof SandboxSchema> {
  return {
    sandboxId: view.sandboxID,
    teamId: view.teamID,
    templateId: view.templateID,
    state: view.state,
    startedAtMs: view.startedAtMs,
    endAtMs: view.endAtMs,
    onTimeout: view.onTimeout,
    autoResume: view.autoResume,
    cpuCount: view.cpuCount,
    memoryMb: view.memoryMB,
    diskSizeMb: view.diskSizeMB,
    envdVersion: view.envdVersion,
    metadata: toPairs(view.metadata),
    isolation: view.isolation,
    generation: view.generation,
    ...(view.alias === undefined ? {} : { alias: view.alias }),
    ...(view.envdAccessToken === undefined ? {} : { envdAccessToken: view.envdAccessToken }),
    ...(view.allowInternetAccess === undefined ? {} : { allowInternetAccess: view.allowInternetAccess }),
    publicTraffic: view.publicTraffic,
    ...(view.trafficAccessToken === undefined ? {} : { trafficAccessToken: view.trafficAccessToken }),
    ...(view.maskRequestHost === undefined ? {} : { maskRequestHost: view.maskRequestHost }),
    volumeMounts: view.volumeMounts.map(({ name, path }) => ({ name, path })),
  };
}

export function sandboxFromMessage(message: SandboxMessage | undefined): SandboxView {
  if (message === undefined || !STATES.has(message.state)) throw malformed('sandbox');
  return {
    sandboxID: message.sandboxId,
    teamID: message.teamId,
    templateID: message.templateId,
    ...(message.alias === undefined ? {} : { alias: message.alias }),
    state: message.state as SandboxState,
    startedAtMs: message.startedAtMs,
    endAtMs: message.endAtMs,
    onTimeout: oneOf(message.onTimeout, ON_TIMEOUT, 'on_timeout'),
    autoResume: message.autoResume,
    cpuCount: message.cpuCount,
    memoryMB: message.memoryMb,
    diskSizeMB: message.diskSizeMb,
    envdVersion: message.envdVersion,
    ...(message.envdAccessToken === undefined ? {} : { envdAccessToken: message.envdAccessToken }),
    metadata: fromPairs(message.metadata),
    ...(message.allowInternetAccess === undefined ? {} : { allowInternetAccess: message.allowInternetAccess }),
    publicTraffic: message.publicTraffic,
    ...(message.trafficAccessToken === undefined ? {} : { trafficAccessToken: message.trafficAccessToken }),
    ...(message.maskRequestHost === undefined ? {} : { maskRequestHost: message.maskRequestHost }),
    volumeMounts: message.volumeMounts.map(mountFromMessage),
    isolation: oneOf(message.isolation, ISOLATIONS, 'isolation'),
    generation: message.generation,
  };
}

export function receiptToMessage(receipt: Receipt): MessageInitShape<typeof ReceiptSchema> {
  return {
    verb: receipt.verb,
    totalMs: receipt.totalMs,
    stages: receipt.stages.map(({ name, ms }) => ({ name, ms })),
    ...(receipt.path === undefined ? {} : { path: receipt.path }),
    ...(receipt.pauseMs === undefined ? {} : { pauseMs: receipt.pauseMs }),
  };
}

export function receiptFromMessage(message: ReceiptMessage | undefined): Receipt {
  if (message === undefined) throw malformed('receipt');
  return {
    verb: message.verb,
    ...(message.path === undefined ? {} : { path: oneOf(message.path, PATHS, 'path') }),
    totalMs: message.totalMs,
    stages: message.stages.map(({ name, ms }) => ({ name, ms })),
    ...(message.pauseMs === undefined ? {} : { pauseMs: message.pauseMs }),
  };
}

export function resumeWishToMessage(
  teamId: string,
  sandboxId: string,
  wish: ResumeWish,
): MessageInitShape<typeof ResumeRequestSchema> {
  const { timeoutSeconds, memory } = wish;
  return { teamId, sandboxId, timeoutSeconds, ...(memory === undefined ? {} : { memory }) };
}

export function resumeWishFromMessage({ timeoutSeconds, memory }: ResumeMessage): ResumeWish {
  return { timeoutSeconds, ...(memory === undefined ? {} : { memory }) };
}

export function resumeResultToMessage(result: ResumeResult): MessageInitShape<typeof ResumeResponseSchema> {
  return {
    sandbox: sandboxToMessage(result.sandbox),
    resumed: result.resumed,
    ...(result.receipt === undefined ? {} : { receipt: receiptToMessage(result.receipt) }),
  };
}

export function resumeResultFromMessage(message: ResumeResultMessage): ResumeResult {
  return {
    sandbox: sandboxFromMessage(message.sandbox),
    resumed: message.resumed,
    ...(message.receipt === undefined ? {} : { receipt: receiptFromMessage(message.receipt) }),
  };
}

export function templateToMessage(view: TemplateView): MessageInitShape<typeof TemplateSchema> {
  return {
    templateId: view.templateID,
    buildId: view.buildID,
    aliases: [...view.aliases],
    cpuCount: view.cpuCount,
    memoryMb: view.memoryMB,
    diskSizeMb: view.diskSizeMB,
    envdVersion: view.envdVersion,
    isolation: view.isolation,
    createdAtMs: view.createdAtMs,
    updatedAtMs: view.updatedAtMs,
    spawnCount: view.spawnCount,
    hot: view.hot,
    ...(view.lastSpawnedAtMs === undefined ? {} : { lastSpawnedAtMs: view.lastSpawnedAtMs }),
    ...(view.teamID === undefined ? {} : { teamId: view.teamID }),
    ...(view.public === undefined ? {} : { public: view.public }),
    ...(view.status === undefined ? {} : { status: view.status }),
    ...(view.builds === undefined ? {} : { builds: { builds: view.builds.map(templateBuildToMessage) } }),
  };
}

export function templateFromMessage(message: TemplateMessage): TemplateView {
  return {
    templateID: message.templateId,
    buildID: message.buildId,
    aliases: message.aliases,
    cpuCount: message.cpuCount,
    memoryMB: message.memoryMb,
    diskSizeMB: message.diskSizeMb,
    envdVersion: message.envdVersion,
    isolation: oneOf(message.isolation, ISOLATIONS, 'isolation'),
    createdAtMs: message.createdAtMs,
    updatedAtMs: message.updatedAtMs,
    spawnCount: message.spawnCount,
    ...(message.lastSpawnedAtMs === undefined ? {} : { lastSpawnedAtMs: message.lastSpawnedAtMs }),
    hot: message.hot,
    ...(message.teamId === undefined ? {} : { teamID: message.teamId }),
    ...(message.public === undefined ? {} : { public: message.public }),
    ...(message.status === undefined ? {} : { status: oneOf(message.status, BUILD_STATUSES, 'status') }),
    ...(message.builds === undefined ? {} : { builds: message.builds.builds.map(templateBuildFromMessage) }),
  };
}

export function statusFromMessage(message: StatusResponse): NodeStatus {
  const { $typeName: _, $unknown: __, backends, ...status } = message;
  return {
    ...status,
    backends: backends.map(({ isolation, backend, accelerator }) => ({
      isolation: oneOf(isolation, ISOLATIONS, 'isolation'),
      backend,
      accelerator,
    })),
  };
}

type PagePosition = NonNullable<ListSandboxesResult['next']>;

export function positionToMessage(position: PagePosition): { startedAtMs: number; sandboxId: string } {
  return { startedAtMs: position.startedAtMs, sandboxId: position.sandboxID };
}

export function positionFromMessage(message: Position): PagePosition {
  return { startedAtMs: message.startedAtMs, sandboxID: message.sandboxId };
}

/** Refuses text that UTF-8 cannot carry (a lone surrogate), anywhere in a request, before it is sent. */
export function demandWellFormed(value: unknown): void {
  if (typeof value === 'string') {
    if (!value.isWellFormed()) throw new CoppiceError('bad_request', 'the request has text that is not valid Unicode');
  } else if (typeof value === 'object' && value !== null) {
    for (const [key, member] of Object.entries(value)) {
      demandWellFormed(key);
      demandWellFormed(member);
    }
  }
}

export function toPairs(map: Readonly<Record<string, string>>): { key: string; value: string }[] {
  return Object.entries(map).map(([key, value]) => ({ key, value }));
}

/** `Object.fromEntries` makes own properties of any key, `__proto__` too. */
export function fromPairs(pairs: readonly Pair[]): Record<string, string> {
  return Object.fromEntries(pairs.map(({ key, value }) => [key, value]));
}

function templateBuildToMessage(view: TemplateBuildView): MessageInitShape<typeof TemplateBuildSchema> {
  return {
    buildId: view.buildID,
    status: view.status,
    createdAtMs: view.createdAtMs,
    updatedAtMs: view.updatedAtMs,
    ...(view.finishedAtMs === undefined ? {} : { finishedAtMs: view.finishedAtMs }),
    cpuCount: view.cpuCount,
    memoryMb: view.memoryMB,
    diskSizeMb: view.diskSizeMB,
  };
}

function templateBuildFromMessage(message: TemplateBuildMessage): TemplateBuildView {
  return {
    buildID: message.buildId,
    status: oneOf(message.status, BUILD_STATUSES, 'status'),
    createdAtMs: message.createdAtMs,
    updatedAtMs: message.updatedAtMs,
    ...(message.finishedAtMs === undefined ? {} : { finishedAtMs: message.finishedAtMs }),
    cpuCount: message.cpuCount,
    memoryMB: message.memoryMb,
    diskSizeMB: message.diskSizeMb,
  };
}

export function oneOf<T extends string>(value: string, allowed: readonly T[], field: string): T {
  if (!(allowed as readonly string[]).includes(value)) throw malformed(field);
  return value as T;
}

export const malformed = (field: string): CoppiceError =>
  new CoppiceError('internal', `malformed node RPC message: ${field}`);
