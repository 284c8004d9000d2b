/**
 * One kind of isolation, seen from above: how a machine is made from a template, handed over, parked and ended. Nothing
 * above this interface knows which backend runs. A machine's agent is reached by one byte stream; no address is needed.
 */
import { createHash } from 'node:crypto';
import type { Duplex } from 'node:stream';
import type { Isolation } from '../contract/node-api.ts';

export type { Isolation };

export interface BackendCapabilities {
  /** Memory and device state can be captured too (golden checkpoint, `capture` with memory). */
  readonly memoryCheckpoint: boolean;
  /** A machine can be captured while it goes on (`capture`). */
  readonly diskSnapshot: boolean;
  /** `park` may last: a parked machine stays as it is for as long as the host runs, whatever becomes of the node. */
  readonly lastingPark: boolean;
  /** The guest has a kernel of its own. */
  readonly ownKernel: boolean;
  /**
   * A machine is born as itself: its names are MachineSpec's, its network is set up, clock and entropy are its kernel's.
   * False: it is a clone of a memory image, or boots like one, and takes all of that on through its agent.
   */
  readonly bornItself: boolean;
  /** The agent starts at the first `openChannel`, and ends when its work is done; a machine nobody spoke to has none. */
  readonly agentOnDemand: boolean;
  /** How its machines meet the network; see MachineNetwork. */
  readonly port: MachineNetwork['kind'];
  /** Host users that each machine holds, from `MachineSpec.uid` on; 0: none is taken. */
  readonly uidsEach: number;
  /**
   * What admission counts a machine of `memoryMB` as: `memoryMB / overcommit + overheadMB` MiB. A microVM may dirty all of
   * its memory and never gives it back; a jail's is the host's, returned when freed, and bounded for all jails together.
   */
  readonly admission: { readonly overcommit: number; readonly overheadMB: number };
  /**
   * How machines have volumes. `birth`: mounted when they are made (`MachineSpec.volumes`), and `openVolume` is there.
   * `network`: at any time, by their agent, from their host.
   */
  readonly volumes: 'birth' | 'network';
}

/** What the host offers this backend, measured and not assumed. */
export interface BackendProbe {
  readonly usable: boolean;
  /** e.g. `kvm`, `tcg`; for jails the runtime's name. */
  readonly accelerator: string;
  readonly version: string;
  /** Seconds a reference boot took; boot deadlines scale with it. */
  readonly referenceBootSeconds?: number;
  /** One line each, with the fix. */
  readonly notices: readonly string[];
}

/** The files a machine is built from; made by templates/, read-only and content-addressed. Absolute paths. */
export interface MachineImage {
  /** Content hash of everything below that a golden checkpoint depends on. */
  readonly hash: string;
  readonly kernel: string;
  readonly initrd: string;
  /** Read-only ext4, shared by all machines: the template's root filesystem. */
  readonly rootfs: string;
  /** Read-only ext4, shared by all machines: Node, the agent, the interpreter, their libraries. */
  readonly agentDrive: string;
}

export interface MachineShape {
  readonly cpuCount: number;
  /** MiB, even. */
  readonly memoryMB: number;
  /** MiB of writable layer, on disk. */
  readonly diskSizeMB: number;
}

/** Where a machine meets the network; made by network/. Absent: no network device traffic. */
export interface MachineNetwork {
  /**
   * `tap`: a device for a VMM to open, in the fabric's namespace. `namespace`: a network namespace of the machine's own,
   * with its interface, address and routes in place.
   */
  readonly kind: 'tap' | 'namespace';
  /** Name of the interface in the fabric's namespace. */
  readonly port: string;
  /** Path of the namespace to enter: the one that holds the tap, or the machine's own. Opaque to the node. */
  readonly namespace: string;
}

/** Who a machine is. Backends whose machines are born themselves need it at birth; to others it is told by the agent. */
export interface MachineNames {
  readonly hostname: string;
  /** 32 hex digits, as in /etc/machine-id. */
  readonly machineID: string;
  /** IPv4, dotted; absent without a network. */
  readonly address?: string;
}

export interface MachineSpec {
  /** [a-z0-9]{1,32}; also the name of its folder and cgroup. */
  readonly id: string;
  /** Folder of this machine, made by the caller, emptied and removed by Machine.destroy. */
  readonly folder: string;
  readonly shape: MachineShape;
  readonly names: MachineNames;
  readonly network?: MachineNetwork;
  /** First of the host's uids (and gids) that are this machine's alone, `uidsEach` of them, when the node is root. */
  readonly uid?: number;
  /** Backends with volumes at birth. */
  readonly volumes?: readonly MachineVolume[];
}

/** A file system that machines share, mounted in one of them. */
export interface MachineVolume {
  /** Absolute path of an ext4 image, which the host's kernel alone has ever written. */
  readonly image: string;
  /** Where: absolute and normal, none of them below another. Made when it is missing; nothing is followed on the way. */
  readonly path: string;
}

/** Everything needed to find a machine again after the node process died; plain JSON, stored before the act it describes. */
export interface MachineRecord {
  readonly backend: string;
  readonly id: string;
  readonly folder: string;
  /** 0: no one process is the machine, which is found by its id. */
  readonly pid: number;
  /** Tells a recycled pid from ours; the backend's own text, on Linux field 22 of /proc/<pid>/stat. */
  readonly pidStartTime: string;
}

export interface Machine {
  readonly id: string;
  readonly record: MachineRecord;
  /**
   * Opens the byte stream to the agent (the raw one: sessions are channel/'s), starting the agent where it starts on
   * demand. One at a time.
   */
  openChannel(signal?: AbortSignal): Promise<Duplex>;
  /** Stops it from running (SIGSTOP or freezer): no CPU, its clock runs on. Idempotent. */
  park(): void | Promise<void>;
  /** The reverse, without a round trip; after a park that is still under way, too. */
  unpark(): void;
  /** Resolves once, when the machine is gone for whatever reason. */
  readonly exited: Promise<{ readonly reason: string }>;
  /** Kills it if it lives, and removes everything it had: process, cgroup, folder. Idempotent, never depends on the guest. */
  destroy(): Promise<void>;
  /** Bytes of host memory that only this machine holds, or a bound where pages cannot be told apart; CPU seconds so far. */
  usage(): Promise<{ readonly privateBytes: number; readonly cpuSeconds: number }>;
  /** CPU seconds so far, without a wait and cheap enough for every few seconds. undefined: it is gone. Absent: its `record.pid`'s. */
  cpuSeconds?(): number | undefined;
  /** What it has of memory and disk, as the host sees it. Absent: only its agent knows. */
  room?(): Promise<MachineRoom>;
}

/** Bytes. `memUsed` has no page cache in it. */
export interface MachineRoom {
  readonly memUsed: number;
  readonly memTotal: number;
  readonly memCache: number;
  readonly diskUsed: number;
  readonly diskTotal: number;
}

/**
 * A published checkpoint: of a template (golden), of a user's sandbox, or of what a sandbox has on disk alone. Immutable.
 * Of a backend without memory checkpoints a golden one is the manifest alone: what its machines start from is the image.
 */
export interface Checkpoint {
  readonly folder: string;
  readonly manifest: CheckpointManifest;
  /** The golden checkpoint that it differs from: there when `manifest.base` is. */
  readonly base?: Checkpoint;
}

/** manifest.json of a checkpoint: what it is, what it was made with, and the hash of each file. */
export interface CheckpointManifest {
  readonly format: 2;
  readonly backend: string;
  readonly imageHash: string;
  readonly shape: MachineShape;
  readonly accelerator: string;
  /** VMM version, machine type, CPU model: all must match to restore. */
  readonly vmm: { readonly version: string; readonly machine: string; readonly cpu: string };
  readonly createdAtMs: number;
  /**
   * `whole`: all memory, as golden checkpoints have it. `own`: the pages in which a machine differs from its base. `none`:
   * disk alone, so that a machine of it boots.
   */
  readonly memory: 'whole' | 'own' | 'none';
  /** `contentOf` the golden checkpoint it lies on, and is worth nothing without. Never another: chains have one link. */
  readonly base?: string;
  readonly files: Readonly<Record<string, { readonly bytes: number; readonly sha256: string }>>;
}

/** Names a checkpoint by what it holds: hex SHA-256 over the hashes of its files. */
export function contentOf({ files }: CheckpointManifest): string {
  const hash = createHash('sha256');
  for (const name of Object.keys(files).toSorted()) hash.update(`${name}\0${files[name]!.sha256}\n`);
  return hash.digest('hex');
}

export interface CaptureRequest {
  readonly image: MachineImage;
  readonly shape: MachineShape;
  /** The golden checkpoint of the template that the machine goes back to, however many snapshots lie between. */
  readonly base: Checkpoint;
  /** False: disk alone. What the guest has not written out by `guestReady` is not in it. */
  readonly memory: boolean;
  /** False: nothing of it runs after the instant of the capture; it is the caller's to destroy, or to `unpark`. */
  readonly goesOn: boolean;
  /** What the guest does before it: awaited before the machine stands still, while all else is being got ready. Never rejects. */
  readonly guestReady?: Promise<void>;
  /** Called once when it goes on, if it does: what is still to be done is of files alone. */
  readonly onGoesOn?: () => void;
}

export interface Capture {
  readonly checkpoint: Checkpoint;
  /** How long nothing of the machine ran; until the end of the capture when it does not go on. */
  readonly pauseMs: number;
  /** What its files take beyond its base. */
  readonly ownBytes: number;
}

/** A machine made ahead of knowing which checkpoint of one base it is to be: everything is there but its state. */
export interface Shell {
  readonly record: MachineRecord;
  /** Resolves once, when it is gone for whatever reason; after `restore`, as the machine's own. */
  readonly exited: Promise<{ readonly reason: string }>;
  /** `clone` from here on. Once. `checkpoint` is the shell's base or lies on it. On failure nothing is left behind. */
  restore(checkpoint: Checkpoint, signal?: AbortSignal): Promise<Machine>;
  /** As Machine.destroy, for one that was never restored. */
  destroy(): Promise<void>;
}

export interface OpenOptions {
  /** All hashes too. */
  readonly verify?: boolean;
  readonly base?: Checkpoint;
  /**
   * `whole`, unless told: machines are made of all of it. `base`: others lie on it, whether or not this host could restore
   * it. `disk`: of what it has, its disk alone counts, on any host; what is opened has no memory.
   */
  readonly use?: CheckpointUse;
}

export type CheckpointUse = 'whole' | 'base' | 'disk';

export interface IsolationBackend {
  readonly name: string;
  readonly kind: Isolation;
  /** Settled once `probe` has answered. */
  readonly capabilities: BackendCapabilities;
  /** Measured once per boot of the host and kept in the home folder. */
  probe(signal?: AbortSignal): Promise<BackendProbe>;
  /**
   * Boots the image, calls `warm` with its channel (agent answering is the caller's check), then captures memory, device
   * state and disk at one instant and publishes the folder atomically at `out`.
   */
  makeGolden(
    image: MachineImage,
    spec: MachineSpec,
    out: string,
    warm: (machine: Machine, signal: AbortSignal) => Promise<void>,
    options: { readonly signal?: AbortSignal; readonly onProgress?: (stage: string) => void },
  ): Promise<Checkpoint>;
  /**
   * Reads and checks a published checkpoint (manifest, sizes; hashes when `verify`). checkpoint_corrupt or host_unfit with
   * the reason. One that lies on another needs that one, opened, as `base`.
   */
  openCheckpoint(folder: string, options?: OpenOptions): Promise<Checkpoint>;
  /**
   * Clones it: a new machine, running, its agent not yet spoken to; of one without memory, booting. What a checkpoint has
   * beyond its base is held against its hashes. On failure nothing is left behind.
   */
  clone(checkpoint: Checkpoint, image: MachineImage, spec: MachineSpec, signal?: AbortSignal): Promise<Machine>;
  /** Makes a shell for `base`, a golden checkpoint. On failure nothing is left behind. Backends that can. */
  prepare?(base: Checkpoint, image: MachineImage, spec: MachineSpec, signal?: AbortSignal): Promise<Shell>;
  /**
   * Captures a running or parked machine at one instant and publishes the checkpoint atomically at `out`. A machine that was
   * parked stays so. On failure nothing is left of it and the machine goes on as it was. Backends with `diskSnapshot`;
   * memory only where `memoryCheckpoint`.
   */
  capture?(machine: Machine, request: CaptureRequest, out: string, signal?: AbortSignal): Promise<Capture>;
  /**
   * Publishes what a machine that is gone had on disk, as `capture` without memory: the disk as after a loss of power. Needs
   * its folder. Backends that can.
   */
  salvage?(
    record: MachineRecord,
    request: Pick<CaptureRequest, 'image' | 'shape' | 'base'>,
    out: string,
    signal?: AbortSignal,
  ): Promise<Checkpoint>;
  /**
   * A command to be put before another one, which then finds at `folder` (empty, the caller's), read-only, the root filesystem
   * of a machine of this checkpoint. Nothing of that is left when it ends. Backends whose captures are disk alone.
   */
  merged?(checkpoint: Checkpoint, image: MachineImage, folder: string): Promise<readonly string[]>;
  /**
   * The root folder of a volume, as an open descriptor that is the caller's to close, mounted for as long as that is open.
   * What a machine writes there is seen here at once, and the other way round. Backends with `volumes`.
   */
  openVolume?(image: string): Promise<number>;
  /** Finds a machine again by its record. undefined: it is gone. */
  adopt(record: MachineRecord): Promise<Machine | undefined>;
  /** What is there of this backend's machines, for the leak check and the sweep; `kind` is what it is counted as. */
  census(
    machinesFolder: string,
  ): Promise<
    readonly { readonly kind: 'process' | 'cgroup' | 'file' | 'mount'; readonly id: string; readonly detail: string }[]
  >;
  /** Removes whatever of machine `id` is left (process, cgroup, mounts, folder), without needing its record. */
  sweep(id: string, machinesFolder: string): Promise<void>;
}
