/**
 * One kind of isolation, seen from above: how a machine is made from a template, handed over, parked and ended. Nothing
 * above this interface knows which backend runs. A machine's agent is reached by one byte stream; no address is needed.
 */
import type { Duplex } from 'node:stream';
import type { Isolation } from '../contract/node-api.ts';

export type { Isolation };

export interface BackendCapabilities {
  /** Memory and device state can be captured (golden checkpoint, pause with memory, fork). */
  readonly memoryCheckpoint: boolean;
  /** What a machine has written can be captured while it goes on, as something to make machines from (`captureDisk`). */
  readonly diskSnapshot: boolean;
  /** `park` may last: a parked machine stays as it is for as long as the host runs, whatever becomes of the node. */
  readonly pause: boolean;
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
}

/**
 * A published golden checkpoint. Of a backend without memory checkpoints it is the manifest alone: what its machines start
 * from is the image.
 */
export interface GoldenCheckpoint {
  readonly folder: string;
  readonly manifest: GoldenManifest;
}

/** manifest.json of a golden checkpoint: what it is, what it was made with, and the hash of each file. */
export interface GoldenManifest {
  readonly format: 1;
  readonly backend: string;
  readonly imageHash: string;
  readonly shape: MachineShape;
  readonly accelerator: string;
  /** VMM version, machine type, CPU model: all must match to restore. */
  readonly vmm: { readonly version: string; readonly machine: string; readonly cpu: string };
  readonly createdAtMs: number;
  readonly files: Readonly<Record<string, { readonly bytes: number; readonly sha256: string }>>;
}

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
  ): Promise<GoldenCheckpoint>;
  /** Reads and checks a published checkpoint (manifest, sizes; hashes when `verify`). checkpoint_corrupt or host_unfit with the reason. */
  openGolden(folder: string, options?: { readonly verify?: boolean }): Promise<GoldenCheckpoint>;
  /** Clones it: a new machine, running, its agent not yet spoken to. On failure nothing is left behind. */
  clone(golden: GoldenCheckpoint, image: MachineImage, spec: MachineSpec, signal?: AbortSignal): Promise<Machine>;
  /**
   * Captures what a running or parked machine has written, at one instant, and publishes it atomically at `out`: a
   * checkpoint without memory, which `clone` takes like a golden one. The machine goes on. Backends with `diskSnapshot`.
   */
  captureDisk?(
    machine: Machine,
    about: { readonly image: MachineImage; readonly shape: MachineShape },
    out: string,
    signal?: AbortSignal,
  ): Promise<GoldenCheckpoint>;
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
