/**
 * What control asks of a node: typed actions, no HTTP. The node implements it in process; `contract/node-rpc` carries it
 * over a unix socket. The truth about a sandbox (owner included) stays on its node.
 */

export type SandboxState = 'creating' | 'running' | 'pausing' | 'paused' | 'resuming' | 'killing' | 'killed' | 'error';

/** Network wishes of one create. Fields that are not enforced yet never get this far: the edge refuses them by name. */
export interface NetworkWish {
  /** `false` cuts all egress. `undefined` means not set by the caller (internet allowed, as E2B has it). */
  readonly allowInternetAccess?: boolean;
}

export interface CreateSandboxRequest {
  readonly teamID: string;
  /** Template id, alias or `alias:tag`, as the client wrote it. */
  readonly template: string;
  /** Seconds from now, > 0. */
  readonly timeoutSeconds: number;
  /** True: envd demands the access token. */
  readonly secure: boolean;
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
  readonly startedAtMs: number;
  readonly endAtMs: number;
  readonly cpuCount: number;
  readonly memoryMB: number;
  readonly diskSizeMB: number;
  readonly envdVersion: string;
  readonly envdAccessToken?: string;
  readonly metadata: Readonly<Record<string, string>>;
  readonly allowInternetAccess?: boolean;
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

export interface TemplateView {
  readonly templateID: string;
  readonly buildID: string;
  readonly aliases: readonly string[];
  readonly cpuCount: number;
  readonly memoryMB: number;
  readonly diskSizeMB: number;
  readonly envdVersion: string;
  readonly isolation: 'microvm' | 'jail';
  readonly createdAtMs: number;
  readonly updatedAtMs: number;
  readonly spawnCount: number;
  readonly lastSpawnedAtMs?: number;
  readonly hot: number;
}

/** Resources of Coppice found on the host that no live sandbox, pool entry or template build accounts for. */
export interface LeakReport {
  readonly processes: number;
  readonly taps: number;
  readonly addresses: number;
  readonly rules: number;
  readonly mounts: number;
  readonly files: number;
  readonly cgroups: number;
  /** What each count is made of, for a person. */
  readonly details: readonly string[];
}

export interface NodeStatus {
  readonly backend: string;
  readonly accelerator: string;
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
  /** Lengthens the deadline to now + timeout if that is later; never shortens it. */
  connectSandbox(
    teamID: string,
    sandboxID: string,
    timeoutSeconds: number,
  ): Promise<{ sandbox: SandboxView; resumed: boolean }>;
  /** Sets the deadline to now + timeout; 0 ends it now. */
  setSandboxTimeout(teamID: string, sandboxID: string, timeoutSeconds: number): Promise<void>;
  killSandbox(teamID: string, sandboxID: string): Promise<void>;
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
