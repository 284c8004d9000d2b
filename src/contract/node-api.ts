/**
 * What control asks of a node: typed actions, no HTTP. The node implements it in process; `contract/node-rpc` carries it
 * over a unix socket. The truth about a sandbox (owner included) stays on its node.
 */
import type { BuildApi, BuildStatus } from './build-api.ts';
import type { ErrorCode } from './errors.ts';
import type { VolumeApi, VolumeMount } from './volume-api.ts';

/** `microvm`: a kernel of its own. `jail`: the host's kernel, shared; native speed, for code its owner trusts more. */
export type Isolation = 'microvm' | 'jail';
export const ISOLATIONS: readonly Isolation[] = ['microvm', 'jail'];
/** Key of a create's metadata that asks for a kind of isolation, for SDKs that have no word for it. It stays in the metadata. */
export const ISOLATION_KEY = 'coppice.isolation';

/** What a sandbox's deadline does to it. */
export type OnTimeout = 'kill' | 'pause';

export type SandboxState = 'creating' | 'running' | 'pausing' | 'paused' | 'resuming' | 'killing' | 'killed' | 'error';

/** Network wishes of one create. Fields that are not enforced yet never get this far: the edge refuses them by name. */
export interface NetworkWish {
  /** `false` cuts all egress. `undefined` means not set by the caller (internet allowed, as E2B has it). */
  readonly allowInternetAccess?: boolean;
  /** `false`: every port but envd's demands the traffic access token. Default true. Only of a secure sandbox. */
  readonly publicTraffic?: boolean;
  /** What servers in it see as the Host of a request for them, with MASK_PORT for the port. */
  readonly maskRequestHost?: string;
}

/** E2B's word for the port of a request in `maskRequestHost`. */
export const MASK_PORT = /\$\{PORT\}/g;

/** What may change in a network wish while a sandbox is there. */
export type NetworkUpdate = Pick<NetworkWish, 'allowInternetAccess'>;

export interface CreateSandboxRequest {
  readonly teamID: string;
  /** Template or snapshot: id, alias, `id:tag` or `alias:tag`, as the client wrote it. */
  readonly template: string;
  /** Kind wished for; default the template's own. A template's root filesystem may serve both. */
  readonly isolation?: Isolation;
  /** Seconds from now, > 0. */
  readonly timeoutSeconds: number;
  /** True: envd demands the access token. */
  readonly secure: boolean;
  /** Default `kill`. `pause` is refused where the template's isolation cannot. */
  readonly onTimeout?: OnTimeout;
  /** What a pause at the deadline keeps; default memory and disk. False: disk alone. */
  readonly pauseMemory?: boolean;
  /** True: traffic to it while it is paused resumes it. Only with `onTimeout` `pause` and its memory kept. */
  readonly autoResume?: boolean;
  readonly metadata: Readonly<Record<string, string>>;
  readonly envVars: Readonly<Record<string, string>>;
  readonly network: NetworkWish;
  /** Default none. bad_request names those that the team does not have; refused where the template's isolation cannot. */
  readonly volumeMounts?: readonly VolumeMount[];
}

/** One sandbox as a client may see it. Times are milliseconds since the epoch; sizes are MiB. */
export interface SandboxView {
  readonly sandboxID: string;
  readonly teamID: string;
  readonly templateID: string;
  readonly alias?: string;
  readonly state: SandboxState;
  /** When it was made, or last resumed. */
  readonly startedAtMs: number;
  /** When its time is up; of a paused one, when it was paused. */
  readonly endAtMs: number;
  readonly onTimeout: OnTimeout;
  readonly autoResume: boolean;
  readonly cpuCount: number;
  readonly memoryMB: number;
  readonly diskSizeMB: number;
  readonly envdVersion: string;
  readonly envdAccessToken?: string;
  readonly metadata: Readonly<Record<string, string>>;
  readonly allowInternetAccess?: boolean;
  readonly publicTraffic: boolean;
  /** There when `publicTraffic` is false. */
  readonly trafficAccessToken?: string;
  readonly maskRequestHost?: string;
  readonly volumeMounts: readonly VolumeMount[];
  readonly isolation: Isolation;
  /** UUID of the present generation (a new one at each restore, rollback or fork). */
  readonly generation: string;
}

/** Stage timings of one verb. Milliseconds, in the order in which the stages ended. */
export interface Receipt {
  readonly verb: string;
  /**
   * `hot`: a restored, probed, parked machine was claimed. `shell`: a VMM that waited for its state was given it. `cold`:
   * all of it was made on this request.
   */
  readonly path?: 'hot' | 'shell' | 'cold';
  readonly totalMs: number;
  readonly stages: readonly { readonly name: string; readonly ms: number }[];
  /** Of a verb that captured a machine: how long nothing of that one ran. */
  readonly pauseMs?: number;
}

export interface CreateSandboxResult {
  readonly sandbox: SandboxView;
  readonly receipt: Receipt;
}

/** What a resume did. `receipt` is there when there was something to do. */
export interface ResumeResult {
  readonly sandbox: SandboxView;
  /** False: it was running. */
  readonly resumed: boolean;
  readonly receipt?: Receipt;
}

export interface ResumeWish {
  /** Seconds from now; 0, which E2B's first connect verb may send, ends a resumed one at once. */
  readonly timeoutSeconds: number;
  /** False: what it has on disk alone is resumed, so that it boots, also when its memory was kept. Default true. */
  readonly memory?: boolean;
}

export interface ForkWish {
  /** 1..100 */
  readonly count: number;
  /** Seconds from now, > 0, of each fork. */
  readonly timeoutSeconds: number;
}

/** Of each fork its own. `error` is a CoppiceError's code and message. */
export type ForkOutcome =
  | { readonly sandbox: SandboxView }
  | { readonly error: { readonly code: ErrorCode; readonly message: string } };

export interface ForkResult {
  readonly forks: readonly ForkOutcome[];
  readonly receipt: Receipt;
}

export interface ListSandboxesQuery {
  readonly teamID: string;
  readonly states: readonly ('running' | 'paused')[];
  /** Every pair must match exactly. */
  readonly metadata?: Readonly<Record<string, string>>;
  readonly template?: string;
  readonly startedAfterMs?: number;
  readonly order: 'asc' | 'desc';
  /** 1..100 */
  readonly limit: number;
  /** Position after which the page begins; the edge encodes it as E2B's opaque token. */
  readonly after?: { readonly startedAtMs: number; readonly sandboxID: string };
}

export interface ListSandboxesResult {
  readonly sandboxes: readonly SandboxView[];
  readonly next?: { readonly startedAtMs: number; readonly sandboxID: string };
  readonly totalRunning: number;
}

/** Sizes in MiB. */
export interface SandboxShape {
  readonly cpuCount: number;
  readonly memoryMB: number;
  readonly diskSizeMB: number;
}

/** What a sandbox had in memory and on disk at one instant, as something to make sandboxes from. Its team's alone. */
export interface SnapshotView {
  /** `<templateID>:<tag>`, or `<alias>:<tag>` when it was given a name: what `CreateSandboxRequest.template` takes. */
  readonly snapshotID: string;
  /** Every `<alias>:<tag>`; none when it was given no name. */
  readonly names: readonly string[];
  readonly templateID: string;
  readonly buildID: string;
  /** The sandbox that it was taken of, which may be gone. */
  readonly sourceID: string;
  readonly isolation: Isolation;
  /** False: disk alone; sandboxes of it boot. */
  readonly memory: boolean;
  /** Build of the snapshot or template that its source last was before it was taken: what the tree is drawn from. */
  readonly parentID: string;
  /** Bytes that this one takes on the host's disk, beyond what it shares. */
  readonly ownBytes: number;
  /** Bytes of the golden checkpoint that it lies on, shared with every other that does. */
  readonly sharedBytes: number;
  readonly createdAtMs: number;
  /** Of the sandboxes of it. */
  readonly shape: SandboxShape;
}

export interface ListSnapshotsQuery {
  readonly teamID: string;
  /** Only those of this sandbox. */
  readonly sourceID?: string;
  /** Only those that go by this: id or alias, with or without a tag. */
  readonly name?: string;
  /** 1..100; newest first. */
  readonly limit: number;
  /** Position after which the page begins. */
  readonly after?: SnapshotPosition;
}

export interface SnapshotPosition {
  readonly createdAtMs: number;
  readonly buildID: string;
}

export interface ListSnapshotsResult {
  readonly snapshots: readonly SnapshotView[];
  readonly next?: SnapshotPosition;
}

/** What a sandbox used at one instant, a point about every five seconds. Sizes in bytes. */
export interface SandboxMetric {
  readonly atMs: number;
  readonly cpuCount: number;
  /** Since the point before, percent of all its processors. */
  readonly cpuUsedPct: number;
  /** Without `memCache`. */
  readonly memUsed: number;
  readonly memTotal: number;
  readonly memCache: number;
  readonly diskUsed: number;
  readonly diskTotal: number;
}

/** From the least on. */
export const LOG_LEVELS = ['debug', 'info', 'warn', 'error'] as const;
export type LogLevel = (typeof LOG_LEVELS)[number];

/** One thing that happened to a sandbox or in it. */
export interface LogEntry {
  readonly atMs: number;
  readonly level: LogLevel;
  readonly message: string;
  /** `logger` says what tells of it: `lifecycle` or `process`. */
  readonly fields: Readonly<Record<string, string>>;
}

export interface LogsQuery {
  readonly teamID: string;
  readonly sandboxID: string;
  /** `forward`: oldest first, from the cursor on. `backward`: newest first, of the time before it. */
  readonly direction: 'forward' | 'backward';
  /** Milliseconds since the epoch; default the beginning, or the end. */
  readonly cursorMs?: number;
  /** 0..1000 */
  readonly limit: number;
  /** And what is above it. */
  readonly level?: LogLevel;
  /** Text that the message contains. */
  readonly search?: string;
}

/** E2B's words for what can happen to a sandbox; each is `sandbox.lifecycle.<word>` to clients. */
export const EVENT_KINDS = ['created', 'updated', 'paused', 'resumed', 'checkpointed', 'killed'] as const;
export type EventKind = (typeof EVENT_KINDS)[number];

export interface LifecycleEvent {
  /** UUID */
  readonly id: string;
  /** Later ones have higher ones. */
  readonly position: number;
  readonly kind: EventKind;
  readonly atMs: number;
  readonly teamID: string;
  readonly sandboxID: string;
  /** Its generation when it happened. */
  readonly generation: string;
  readonly templateID: string;
  readonly buildID: string;
  /** JSON that says more; what is in it depends on the kind. */
  readonly data: Readonly<Record<string, unknown>>;
}

export interface EventsQuery {
  /** Default: of every team. */
  readonly teamID?: string;
  readonly sandboxID?: string;
  readonly id?: string;
  readonly kinds?: readonly EventKind[];
  readonly order: 'asc' | 'desc';
  /** Only those of later positions. */
  readonly after?: number;
  /** Default 0. */
  readonly offset?: number;
  /** 1..256 */
  readonly limit: number;
  /** With none to tell, how long one is waited for; default 0. */
  readonly waitMs?: number;
}

export interface EventsResult {
  readonly events: readonly LifecycleEvent[];
  /** Position of the newest there is, whatever was asked for; 0: there is none. */
  readonly head: number;
}

/** One build of a template, as its list shows it. */
export interface TemplateBuildView {
  readonly buildID: string;
  readonly status: BuildStatus;
  readonly createdAtMs: number;
  readonly updatedAtMs: number;
  readonly finishedAtMs?: number;
  readonly cpuCount: number;
  readonly memoryMB: number;
  readonly diskSizeMB: number;
}

export interface TemplateView {
  readonly templateID: string;
  readonly buildID: string;
  readonly aliases: readonly string[];
  readonly cpuCount: number;
  readonly memoryMB: number;
  readonly diskSizeMB: number;
  readonly envdVersion: string;
  readonly isolation: Isolation;
  readonly createdAtMs: number;
  readonly updatedAtMs: number;
  readonly spawnCount: number;
  readonly lastSpawnedAtMs?: number;
  readonly hot: number;
  /** Who built it; absent: it comes with Coppice. */
  readonly teamID?: string;
  /** Every team may make sandboxes of it. Default true. */
  readonly public?: boolean;
  /** Of its newest build; default `ready`. */
  readonly status?: BuildStatus;
  /** Newest first; absent: the one. */
  readonly builds?: readonly TemplateBuildView[];
}

/** Resources of Coppice found on the host that no live sandbox, pool entry or template build accounts for. */
export interface LeakReport {
  readonly processes: number;
  /** Taps, and the far ends of jails' veths with their namespaces. */
  readonly taps: number;
  readonly addresses: number;
  readonly rules: number;
  readonly mounts: number;
  readonly files: number;
  readonly cgroups: number;
  /** What each count is made of, for a person. */
  readonly details: readonly string[];
}

/** One isolation backend that this host offers. */
export interface BackendStatus {
  readonly isolation: Isolation;
  readonly backend: string;
  /** `kvm`, `tcg`; for jails the runtime's name. */
  readonly accelerator: string;
}

export interface NodeStatus {
  readonly backends: readonly BackendStatus[];
  readonly rootless: boolean;
  readonly ready: boolean;
  /** One line each: what is off on this host and why. */
  readonly notices: readonly string[];
  readonly sandboxes: number;
  readonly hot: number;
  readonly hotTarget: number;
}

/** Errors of every method: CoppiceError with a code of contract/errors. An id of another team is `sandbox_not_found`. */
export interface NodeApi extends BuildApi, VolumeApi {
  createSandbox(request: CreateSandboxRequest, signal?: AbortSignal): Promise<CreateSandboxResult>;
  getSandbox(teamID: string, sandboxID: string): Promise<SandboxView>;
  listSandboxes(query: ListSandboxesQuery): Promise<ListSandboxesResult>;
  /**
   * Of a running sandbox, lengthens the deadline to now + timeout if that is later. A paused one is resumed until now +
   * timeout, with its id and tokens and in a new generation; of callers who ask at once, one is told `resumed`.
   */
  connectSandbox(teamID: string, sandboxID: string, wish: ResumeWish): Promise<ResumeResult>;
  /** As connectSandbox for a paused sandbox; `conflict` when it runs. */
  resumeSandbox(teamID: string, sandboxID: string, wish: ResumeWish): Promise<ResumeResult>;
  /**
   * Resolves when nothing of it runs any more and its row says so: disk and, unless `memory` is false, memory and processes
   * stay as they are, its connections are cut, its deadline is off. `conflict` when it is paused already;
   * `not_implemented` where its isolation cannot.
   */
  pauseSandbox(teamID: string, sandboxID: string, wish: { readonly memory: boolean }): Promise<Receipt>;
  /**
   * Captures a running sandbox with its memory and makes `count` new ones of it, each with its own outcome, with the
   * metadata, environment and network wishes of the source, which goes on. `conflict` when it is paused;
   * `not_implemented` where its isolation cannot.
   */
  forkSandbox(teamID: string, sandboxID: string, wish: ForkWish, signal?: AbortSignal): Promise<ForkResult>;
  /**
   * Makes a running or paused sandbox what it was when one of its own snapshots was taken, in a new generation: it runs, its
   * deadline is what it was, or of a paused one now + its timeout at create. Id, tokens, metadata stay. `template_not_found`:
   * there is no such snapshot of this sandbox.
   */
  rollbackSandbox(teamID: string, sandboxID: string, snapshot: string): Promise<ResumeResult>;
  /** Lengthens the deadline of a running sandbox to now + timeout if that is later. A paused one is `sandbox_not_found`. */
  refreshSandbox(teamID: string, sandboxID: string, timeoutSeconds: number): Promise<void>;
  /** Sets the deadline of a running sandbox to now + timeout; 0 is now. A paused one is `sandbox_not_found`. */
  setSandboxTimeout(teamID: string, sandboxID: string, timeoutSeconds: number): Promise<void>;
  /**
   * Takes the place of what it may reach, paused or running: established flows that are denied now are cut when it resolves. It
   * holds from then on, through pauses, snapshots and restarts.
   */
  updateNetwork(teamID: string, sandboxID: string, network: NetworkUpdate): Promise<void>;
  killSandbox(teamID: string, sandboxID: string): Promise<void>;
  /**
   * Captures a running or paused sandbox, which goes on as it was: with its memory where its isolation can, else what it has
   * on disk. `name`: alias, or `alias:tag`; the snapshot takes the place of an earlier one of the team that has it.
   * `conflict` when a template has the alias; `not_implemented` where its isolation cannot.
   */
  createSnapshot(
    teamID: string,
    sandboxID: string,
    options: { readonly name?: string; readonly signal?: AbortSignal },
  ): Promise<{ readonly snapshot: SnapshotView; readonly receipt: Receipt }>;
  listSnapshots(query: ListSnapshotsQuery): Promise<ListSnapshotsResult>;
  /**
   * `snapshot`: id or alias; with a tag that one, without one all of them. Sandboxes made from it go on. Unknown or of
   * another team: `template_not_found`. A template of the team goes with all of its builds, those under way too; another's is
   * `forbidden`.
   */
  deleteSnapshot(teamID: string, snapshot: string): Promise<void>;
  /** Oldest first, both ends included. None of the time before it was made, or while it was paused. */
  sandboxMetrics(
    teamID: string,
    sandboxID: string,
    span: { readonly startMs?: number; readonly endMs?: number },
  ): Promise<readonly SandboxMetric[]>;
  /** The newest point of each; a sandbox that is unknown, or has none yet, is not in it. At most 100. */
  latestMetrics(teamID: string, sandboxIDs: readonly string[]): Promise<ReadonlyMap<string, SandboxMetric>>;
  /** Of a sandbox that is there, or was there not long ago. Entries of one millisecond are told together where the limit allows. */
  listLogs(query: LogsQuery): Promise<readonly LogEntry[]>;
  listEvents(query: EventsQuery, signal?: AbortSignal): Promise<EventsResult>;
  listTemplates(): Promise<readonly TemplateView[]>;
  status(): Promise<NodeStatus>;
  leaks(): Promise<LeakReport>;
}

/** The edge hands sandbox traffic to the node on a second unix socket as plain HTTP/1.1 with these two headers. */
export const TRAFFIC_SANDBOX_HEADER = 'x-coppice-sandbox';
export const TRAFFIC_PORT_HEADER = 'x-coppice-port';
/** Signed /files URLs carry no id: the edge sends this header instead, and the node finds the sandbox by its signature. */
export const TRAFFIC_SIGNED_HEADER = 'x-coppice-signed';

export const ENVD_PORT = 49983;
export const INTERPRETER_PORT = 49999;
export const ENVD_VERSION = '0.6.13';
/** E2B's constant client id. */
export const CLIENT_ID = '6532622b';
