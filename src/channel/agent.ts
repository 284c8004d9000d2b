/** The host's view of the agent in one sandbox. Implemented by channel/client over any byte stream. */
import type {
  AgentFailure,
  AgentHello,
  AgentMetrics,
  AgentRequest,
  DataKind,
  FileEntry,
  HookEvent,
  HooksResult,
  Identity,
  IdentityResult,
  ProcessInfo,
  SpawnRequest,
  VolumeMounts,
  WatchEvent,
} from './protocol.ts';

/** A failure the agent named; `code` is Connect's. `unavailable`: the channel or the sandbox is gone. */
export class AgentError extends Error {
  override readonly name = 'AgentError';
  readonly code: AgentFailure['code'];
  constructor(code: AgentFailure['code'], message: string, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
  }
}

/** Output of a process, in order of arrival. Exactly one `exit`, last. Iterating gives backpressure to the guest. */
export type ProcessOutput =
  | { readonly type: 'data'; readonly kind: DataKind; readonly bytes: Uint8Array }
  | { readonly type: 'exit'; readonly exitCode: number; readonly signal?: string };

/** A process and the one stream on which it speaks. */
export interface AgentProcess {
  readonly pid: number;
  readonly info?: ProcessInfo;
  /** One consumer. Throws AgentError `unavailable` when the channel dies. */
  readonly output: AsyncIterable<ProcessOutput>;
  /** Resolves when the bytes have been accepted for sending (credit had). They must not be changed after the call. */
  writeStdin(bytes: Uint8Array, signal?: AbortSignal): Promise<void>;
  closeStdin(): Promise<void>;
  /**
   * Lets go of the stream; the process goes on, its output is dropped by the agent. Whoever still iterates `output` gets
   * AgentError `failed_precondition`.
   */
  detach(): void;
}

/** A byte stream to a port of the sandbox. */
export interface AgentSocket {
  readonly input: AsyncIterable<Uint8Array>;
  write(bytes: Uint8Array): Promise<void>;
  /** Half-close. */
  end(): void;
  destroy(): void;
}

/**
 * For operations that the agent answers within a bound. AgentError `unavailable`: it has been silent for seconds longer, so
 * nothing is known of what it did.
 */
export interface Bounded {
  /** 1 to MAX_TIMEOUT_MS. */
  readonly timeoutMs: number;
  readonly signal?: AbortSignal;
}

export interface AgentClient {
  readonly hello: AgentHello;
  /** Resolves (never rejects) with the reason when the channel is gone; every open stream has then failed `unavailable`. */
  readonly closed: Promise<Error>;
  close(reason?: Error): void;
  /** Operations under way: requests, processes attached to, watches, sockets. */
  readonly operations: number;

  ping(signal?: AbortSignal): Promise<void>;
  identity(identity: Identity, signal?: AbortSignal): Promise<IdentityResult>;
  /** Mounts these instead of those before. `invalid_argument`: something is in the way of a path. */
  mountVolumes(volumes: VolumeMounts, signal?: AbortSignal): Promise<void>;
  quiesce(signal?: AbortSignal): Promise<void>;
  metrics(signal?: AbortSignal): Promise<AgentMetrics>;
  /** True: what was written before the call is on disk. False: it was not within `timeoutMs`, and the flush goes on. */
  sync(options: Bounded): Promise<boolean>;
  /** Runs the sandbox's own hooks of an event, `timeoutMs` for all together. What failed is told, not thrown. */
  hooks(event: HookEvent, options: Bounded): Promise<HooksResult>;

  /** An abort ends the wait and not the process, which may have been started. */
  spawn(request: Omit<SpawnRequest, 'op'>, signal?: AbortSignal): Promise<AgentProcess>;
  attach(which: { readonly pid: number } | { readonly tag: string }, signal?: AbortSignal): Promise<AgentProcess>;
  processes(options?: { readonly services?: boolean }): Promise<readonly ProcessInfo[]>;
  signal(pid: number, signal: 'SIGKILL' | 'SIGTERM' | 'SIGINT'): Promise<void>;
  resize(pid: number, cols: number, rows: number): Promise<void>;

  stat(path: string, user?: string): Promise<FileEntry>;
  /** Depth >= 1. Bounded: more than 100 000 entries fail with resource_exhausted. */
  list(path: string, depth: number, user?: string): Promise<readonly FileEntry[]>;
  mkdir(path: string, user?: string): Promise<FileEntry>;
  move(source: string, destination: string, user?: string): Promise<FileEntry>;
  remove(path: string, user?: string): Promise<void>;
  read(
    path: string,
    options?: {
      readonly user?: string;
      readonly start?: number;
      readonly length?: number;
      readonly signal?: AbortSignal;
    },
  ): Promise<{ readonly entry: FileEntry; readonly body: AsyncIterable<Uint8Array>; cancel(): void }>;
  write(
    path: string,
    body: AsyncIterable<Uint8Array>,
    options?: {
      readonly user?: string;
      readonly metadata?: Readonly<Record<string, string>>;
      readonly signal?: AbortSignal;
    },
  ): Promise<FileEntry>;
  compose(sources: readonly string[], destination: string, user?: string): Promise<FileEntry>;
  watch(
    path: string,
    options: { readonly recursive: boolean; readonly includeEntry: boolean; readonly user?: string },
  ): Promise<{ readonly events: AsyncIterable<WatchEvent>; close(): void }>;
  /** `unavailable`: nothing listens there. */
  dial(port: number, signal?: AbortSignal): Promise<AgentSocket>;
}

/** For code that builds its own operation on a stream. */
export type { AgentRequest };
