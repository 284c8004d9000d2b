/**
 * What control asks of a node: typed actions, no HTTP. The node implements it in process; `contract/node-rpc` carries it
 * over a unix socket. The truth about a sandbox (owner included) stays on its node.
 */

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
}

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
  readonly metadata: Readonly<Record<string, string>>;
  readonly envVars: Readonly<Record<string, string>>;
  readonly network: NetworkWish;
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
  readonly cpuCount: number;
  readonly memoryMB: number;
  readonly diskSizeMB: number;
  readonly envdVersion: string;
  readonly envdAccessToken?: string;
  readonly metadata: Readonly<Record<string, string>>;
  readonly allowInternetAccess?: boolean;
  readonly isolation: Isolation;
  /** UUID of the present generation (a new one at each restore, rollback or fork). */
  readonly generation: string;
}

/** Stage timings of one verb. Milliseconds, in the order in which the stages ended. */
export interface Receipt {
  readonly verb: string;
  /** `hot`: a restored, probed, parked machine was claimed. `cold`: restored from the checkpoint on this request. */
  readonly path?: 'hot' | 'cold';
  readonly totalMs: number;
  readonly stages: readonly { readonly name: string; readonly ms: number }[];
}

export interface CreateSandboxResult {
  readonly sandbox: SandboxView;
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

/** What a sandbox had on disk at one instant, as something to make sandboxes from. Its team's alone. */
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
  readonly createdAtMs: number;
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
export interface NodeApi {
  createSandbox(request: CreateSandboxRequest, signal?: AbortSignal): Promise<CreateSandboxResult>;
  getSandbox(teamID: string, sandboxID: string): Promise<SandboxView>;
  listSandboxes(query: ListSandboxesQuery): Promise<ListSandboxesResult>;
  /**
   * Of a running sandbox, lengthens the deadline to now + timeout if that is later. A paused one is resumed until now +
   * timeout; of callers who ask at once, one is told `resumed`.
   */
  connectSandbox(
    teamID: string,
    sandboxID: string,
    timeoutSeconds: number,
  ): Promise<{ sandbox: SandboxView; resumed: boolean }>;
  /** As connectSandbox for a paused sandbox; `conflict` when it runs. */
  resumeSandbox(teamID: string, sandboxID: string, timeoutSeconds: number): Promise<SandboxView>;
  /**
   * Resolves when nothing of it runs any more and its row says so: memory, processes and disk stay as they are, its
   * connections are cut, its deadline is off. `conflict` when it is paused already; `not_implemented` where its isolation
   * cannot.
   */
  pauseSandbox(teamID: string, sandboxID: string): Promise<void>;
  /** Lengthens the deadline of a running sandbox to now + timeout if that is later. A paused one is `sandbox_not_found`. */
  refreshSandbox(teamID: string, sandboxID: string, timeoutSeconds: number): Promise<void>;
  /** Sets the deadline of a running sandbox to now + timeout; 0 is now. A paused one is `sandbox_not_found`. */
  setSandboxTimeout(teamID: string, sandboxID: string, timeoutSeconds: number): Promise<void>;
  killSandbox(teamID: string, sandboxID: string): Promise<void>;
  /**
   * Captures what a running or paused sandbox has on disk; it goes on. `name`: alias, or `alias:tag`; the snapshot takes
   * the place of an earlier one of the team that has it. `conflict` when a template has the alias; `not_implemented` where
   * its isolation cannot.
   */
  createSnapshot(
    teamID: string,
    sandboxID: string,
    options: { readonly name?: string; readonly signal?: AbortSignal },
  ): Promise<SnapshotView>;
  listSnapshots(query: ListSnapshotsQuery): Promise<ListSnapshotsResult>;
  /**
   * `snapshot`: id or alias; with a tag that one, without one all of them. Sandboxes made from it go on. Unknown or of
   * another team: `template_not_found`; a template that is no snapshot: `not_implemented`.
   */
  deleteSnapshot(teamID: string, snapshot: string): Promise<void>;
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
