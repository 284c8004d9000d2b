/**
 * The channel: one framed byte stream between the host and the agent in a sandbox, whatever the backend carries it on
 * (virtio-serial, a unix socket, a pipe in tests). This file is the whole wire format; host and guest both import it.
 *
 * Frame = 12-byte header, then payload:
 *
 *     0  u8   magic 0xC7      (a 0x00 byte where a header is expected is padding and is skipped)
 *     1  u8   type            FRAME.*
 *     2  u8   kind            DATA: which byte flow (KIND.*). OPEN and REPLY: MORE when the JSON goes on in the next frame
 *                             of this type and stream. 0 otherwise
 *     3  u8   0
 *     4  u32  stream id, little endian; the host allocates ids, from 1, never reused within a session; 0 = the session
 *     8  u32  payload length, little endian, at most MAX_PAYLOAD
 *
 * A session begins with HELLO (host to guest), whose payload is a 16-byte nonce. The agent forgets every stream of the
 * session before, and answers HELLO_ACK: the same nonce, then JSON (AgentHello). A clone inherits the byte stream of its
 * golden checkpoint, so the host discards every byte until it has seen HELLO_ACK with its own nonce (magic byte, type and
 * nonce matched as one 28-byte run). Where the old session may have been cut in the middle of a frame, the host sends
 * MAX_PAYLOAD + 12 zero bytes before HELLO: they complete the cut frame and are padding after it.
 *
 * A stream begins with OPEN (host to guest): JSON AgentRequest. The agent answers with one REPLY (JSON result) or with
 * RESET (JSON AgentFailure), which ends the stream. After REPLY: DATA both ways, EVENT (JSON, guest to host), END from
 * each side when it has no more to send. A stream is over when both sides have sent END, or either RESET. The agent
 * answers a RESET of a stream that it still knows with a RESET (empty payload), unless it has sent one; until then the
 * host drops what arrives for it, and the window still holds. DATA and EVENT are never empty. JSON of one OPEN or REPLY
 * is at most MAX_JSON bytes over all its frames.
 *
 * Flow control: per stream and direction, each DATA and EVENT frame counts its payload plus FRAME_COST (so that tiny
 * frames have a price) against a window that begins at INITIAL_WINDOW; WINDOW (payload u32, not 0) gives credit back as
 * the receiver consumes, never more than was used. A sender without credit waits. A peer that overruns its window, sends
 * an unknown type, a frame for a stream that is not open, or a length above MAX_PAYLOAD has broken the session.
 */

export const MAGIC = 0xc7;
export const HEADER_BYTES = 12;
/** Bytes. Small enough that one stream cannot hold up the others for long, large enough for 100 MB/s. */
export const MAX_PAYLOAD = 65_536;
export const INITIAL_WINDOW = 262_144;
/** Bytes that a DATA or EVENT frame takes from the window besides its payload: what holding a frame costs the receiver. */
export const FRAME_COST = 32;
/** `kind` of an OPEN or REPLY whose JSON goes on in the next frame. */
export const MORE = 1;
/** Bytes of JSON in one OPEN or REPLY, all frames together. */
export const MAX_JSON = 1_048_576;
/** Streams open at once in one session; the host refuses more before it sends OPEN. */
export const MAX_STREAMS = 1_024;
export const NONCE_BYTES = 16;

export const FRAME = {
  HELLO: 1,
  HELLO_ACK: 2,
  OPEN: 3,
  REPLY: 4,
  DATA: 5,
  EVENT: 6,
  END: 7,
  RESET: 8,
  WINDOW: 9,
} as const;

/** Byte flows within a stream. RAW: a file, a dialled port, stdin. */
export const KIND = { RAW: 0, STDOUT: 1, STDERR: 2, PTY: 3 } as const;
export type DataKind = (typeof KIND)[keyof typeof KIND];

export interface AgentHello {
  readonly version: string;
  readonly pid: number;
  /** Wall clock of the guest, ms since the epoch, when it answered. */
  readonly clockMs: number;
}

/** `code` follows Connect's names, so that envd can pass it on as it is. */
export interface AgentFailure {
  readonly code:
    | 'invalid_argument'
    | 'not_found'
    | 'already_exists'
    | 'failed_precondition'
    | 'unauthenticated'
    | 'resource_exhausted'
    | 'unimplemented'
    | 'unavailable'
    | 'internal';
  readonly message: string;
}

/** Everything that makes a clone itself. Fields left out are left as they are. Sent at pool time and again at claim. */
export interface Identity {
  readonly hostname?: string;
  /** 32 hex digits: /etc/machine-id and /var/lib/dbus/machine-id. */
  readonly machineID?: string;
  /**
   * UUID: /run/coppice/generation, and COPPICE_GENERATION in new processes. The file is written in place after entropy, network
   * and names, and stays the same inode: who watches it by inotify(7) gets IN_MODIFY and, with `cutConnections`,
   * IN_CLOSE_WRITE.
   */
  readonly generation?: string;
  /** Host wall clock in ms since the epoch; the guest steps its clock if it is off by more than 5 ms. */
  readonly clockMs?: number;
  /** base64, 32..64 bytes: credited to the kernel (RNDADDENTROPY), then RNDRESEEDCRNG. Runtimes that were started before are reseeded by the host, over their own stdin. */
  readonly entropy?: string;
  /** IPv4 with prefix length, and gateway; eth0 is (re)addressed and the default route replaced. null: link down, no address. */
  readonly network?: { readonly address: string; readonly prefix: number; readonly gateway: string } | null;
  /**
   * True: every TCP connection whose ends are not on the loopback is ended, and its program gets ECONNABORTED at once; those
   * that listen stay. For a machine that was captured while somebody's programs ran: the other ends know nothing of it. With
   * `machineID`, so of another machine than that was, its volumes are let go.
   */
  readonly cutConnections?: boolean;
  readonly sandboxID?: string;
  readonly templateID?: string;
  /** Global environment of every process started from now on (replaces the set before). */
  readonly env?: Readonly<Record<string, string>>;
}

export interface SpawnRequest {
  readonly op: 'spawn';
  readonly cmd: string;
  readonly args: readonly string[];
  /** Added over PATH, HOME, USER, LOGNAME and the identity's env; last wins. */
  readonly env?: Readonly<Record<string, string>>;
  /** Default: the user's home. Missing: invalid_argument `cwd '<x>' does not exist`. */
  readonly cwd?: string;
  /** Default `user`. It gets this user's own group and no supplementary ones. Unknown: unauthenticated `invalid username: '<x>'`. */
  readonly user?: string;
  readonly pty?: { readonly cols: number; readonly rows: number };
  /** False: stdin is /dev/null. True: DATA RAW from the host is stdin (or pty input); END closes it. */
  readonly stdin: boolean;
  readonly tag?: string;
  /** True: the process is one of the template's own: hidden from `processes` unless asked, and it lives as long as the machine. No process ends with a session. */
  readonly service?: boolean;
}

export interface ExitEvent {
  readonly event: 'exit';
  /** -1 when a signal ended it. */
  readonly exitCode: number;
  /** Name without SIG in lower case as Go prints it, e.g. `killed`, `terminated`, `interrupt`. */
  readonly signal?: string;
}

/** One process that the agent started. */
export interface ProcessInfo {
  readonly pid: number;
  readonly cmd: string;
  readonly args: readonly string[];
  readonly env: Readonly<Record<string, string>>;
  readonly cwd: string;
  readonly user: string;
  readonly tag?: string;
  readonly pty: boolean;
  readonly stdin: boolean;
  readonly service: boolean;
}

/** A directory entry, with the meaning of E2B's EntryInfo. `type` of a symlink is its target's. */
export interface FileEntry {
  readonly name: string;
  readonly path: string;
  readonly type: 'file' | 'directory' | 'unknown';
  readonly size: number;
  /** Permission bits only. */
  readonly mode: number;
  /** Go style: `-rw-r--r--`, `drwxr-xr-x`, `Lrwxrwxrwx`. */
  readonly permissions: string;
  readonly owner: string;
  readonly group: string;
  readonly modifiedMs: number;
  /** Fully resolved absolute path, when the entry is a symlink. */
  readonly symlinkTarget?: string;
  /** xattrs `user.e2b.*`, without the prefix. */
  readonly metadata?: Readonly<Record<string, string>>;
}

export interface WatchEvent {
  readonly event: 'create' | 'write' | 'remove' | 'rename' | 'chmod';
  /** Relative to the watched directory. */
  readonly name: string;
  readonly entry?: FileEntry;
}

/**
 * Path rule of every file operation: empty = the user's home; `~`, `~/x` = home; relative = under home; else absolute.
 * `user` defaults to `user`; new files and directories belong to it.
 */
interface OnPath {
  readonly path: string;
  readonly user?: string;
}

/** What the host can ask. After `->`: the REPLY's JSON, then what flows on the stream. */
export type AgentRequest =
  /** -> {} */
  | { readonly op: 'ping' }
  /** -> IdentityResult */
  | { readonly op: 'identity'; readonly identity: Identity }
  /** -> { pid }; DATA STDOUT/STDERR/PTY; EVENT ExitEvent; END. The exit event comes when the process itself is gone and its pipes are drained, or 100 ms after its exit when grandchildren hold them. */
  | SpawnRequest
  /** -> ProcessInfo; then as spawn, from now on (stdin too). A process that exited < 30 s ago: its exit event. Unknown: not_found. */
  | { readonly op: 'attach'; readonly pid?: number; readonly tag?: string }
  /** -> { processes: ProcessInfo[] } */
  | { readonly op: 'processes'; readonly services?: boolean }
  /** -> {} ; signal goes to the process group. Unknown pid: not_found. */
  | { readonly op: 'signal'; readonly pid: number; readonly signal: 'SIGKILL' | 'SIGTERM' | 'SIGINT' }
  /** -> {} */
  | { readonly op: 'resize'; readonly pid: number; readonly cols: number; readonly rows: number }
  /** -> { entry: FileEntry } ; missing: not_found */
  | ({ readonly op: 'stat' } & OnPath)
  /** -> { }; EVENT { entries: FileEntry[] } as often as needed (each payload <= MAX_PAYLOAD), lexical depth-first; END. depth >= 1. */
  | ({ readonly op: 'list'; readonly depth: number } & OnPath)
  /** -> { entry }; existing directory: already_exists; a file in the way: invalid_argument. Recursive. */
  | ({ readonly op: 'mkdir' } & OnPath)
  /** -> { entry }; parents of the destination are made. */
  | { readonly op: 'move'; readonly source: string; readonly destination: string; readonly user?: string }
  /** -> {}; recursive; a missing path succeeds. */
  | ({ readonly op: 'remove' } & OnPath)
  /** -> { entry }; DATA RAW; END. A directory: invalid_argument. `start`/`length` in bytes. */
  | ({ readonly op: 'read'; readonly start?: number; readonly length?: number } & OnPath)
  /** -> {} when the file is open (parents made, truncated, mode kept); DATA RAW from the host, END; EVENT { entry }; END. Disk full: resource_exhausted. `metadata` replaces the set. */
  | ({ readonly op: 'write'; readonly metadata?: Readonly<Record<string, string>> } & OnPath)
  /** -> { entry }; concatenates the sources into path, then removes them. */
  | ({ readonly op: 'compose'; readonly sources: readonly string[] } & OnPath)
  /** -> {} when the watch is live; EVENT WatchEvent. */
  | ({ readonly op: 'watch'; readonly recursive: boolean; readonly includeEntry: boolean } & OnPath)
  /** -> {} when connected; DATA RAW both ways. Refused: unavailable. 127.0.0.1 first, then ::1. */
  | { readonly op: 'dial'; readonly port: number }
  /** -> AgentMetrics */
  | { readonly op: 'metrics' }
  /**
   * Mounts volumes, in this order, instead of those that were mounted before. -> {} when all are. A file or a link in the way of a
   * path: invalid_argument. One that its server does not give: failed_precondition, with some of them mounted.
   */
  | { readonly op: 'volumes'; readonly volumes: VolumeMounts }
  /** Flush filesystems and finish what is in flight, so that a golden checkpoint may be taken; as long as it takes. -> {} */
  | { readonly op: 'quiesce' }
  /** Flush filesystems. -> { synced } when that is done, or after timeoutMs (1..MAX_TIMEOUT_MS): then false, and it goes on. */
  | { readonly op: 'sync'; readonly timeoutMs: number }
  /** Run what HookEvent says. -> HooksResult when all have exited, or after timeoutMs (1..MAX_TIMEOUT_MS) for all together. */
  | { readonly op: 'hooks'; readonly event: HookEvent; readonly timeoutMs: number };

/** Volumes by NFS version 3 over TCP, from a server at `server` (IPv4, dotted) and `port`. */
export interface VolumeMounts {
  readonly server: string;
  readonly port: number;
  readonly mounts: readonly { readonly volumeID: string; readonly path: string }[];
}

/** The longest bound that an operation takes. */
export const MAX_TIMEOUT_MS = 600_000;

/**
 * `hand-out`: the machine becomes somebody's sandbox, a new one. `before-pause`: its memory is about to be captured.
 * `after-resume`: it goes on, restored or not, after `before-pause`.
 *
 * Its hooks are the executables in /etc/coppice/hooks/<event>.d whose names are HOOK_NAME, in the order of their names, the
 * first MAX_HOOKS. Folder and files must be root's and writable by nobody else; links are passed over. They run one after
 * the other as root in `/`, with the sandbox's environment and COPPICE_EVENT, COPPICE_GENERATION, COPPICE_SANDBOX_ID, without
 * input or output. One that is not done when the time is over is killed, with its process group.
 */
export type HookEvent = 'hand-out' | 'before-pause' | 'after-resume';
export const MAX_HOOKS = 32;
export const HOOK_NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/;

export interface HookRun {
  readonly name: string;
  /** -1 when it did not exit by itself. */
  readonly exitCode: number;
  readonly ms: number;
  /** Why it did not exit by itself: the time was over, a signal ended it, it could not be started. */
  readonly failure?: 'timeout' | 'signal' | 'start';
}

export interface HooksResult {
  readonly ran: readonly HookRun[];
  /** How many had no turn: the time was over, or there are more than MAX_HOOKS. */
  readonly left: number;
}

export interface IdentityResult {
  /** Guest clock minus the host clock that was sent, in ms, before it was stepped. */
  readonly clockSkewMs?: number;
  readonly hostname: string;
  /** Of cutConnections: how many were ended, and how many could not be. Absent: the machine has no way to know. */
  readonly connections?: { readonly cut: number; readonly left: number };
}

/** Bytes, except where named. */
export interface AgentMetrics {
  readonly cpuCount: number;
  /** Percent of the whole machine, 0..100. */
  readonly cpuUsedPct: number;
  readonly memTotal: number;
  readonly memUsed: number;
  readonly memCache: number;
  readonly diskTotal: number;
  readonly diskUsed: number;
}
