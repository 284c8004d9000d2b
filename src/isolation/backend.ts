/**
 * One kind of isolation, seen from above: how a machine is made from a template, handed over, parked and ended. Nothing
 * above this interface knows which backend runs. A machine's agent is reached by one byte stream; no address is needed.
 */
import type { Duplex } from 'node:stream';

export interface BackendCapabilities {
  /** Memory and device state can be captured (golden checkpoint, pause with memory, fork). */
  readonly memoryCheckpoint: boolean;
  /** The guest has a kernel of its own. */
  readonly ownKernel: boolean;
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
  readonly tap: string;
  /** Path of the network namespace that holds the tap. */
  readonly namespace: string;
}

export interface MachineSpec {
  /** [a-z0-9]{1,32}; also the name of its folder and cgroup. */
  readonly id: string;
  /** Folder of this machine, made by the caller, emptied and removed by Machine.destroy. */
  readonly folder: string;
  readonly shape: MachineShape;
  readonly network?: MachineNetwork;
  /** The VMM runs as this uid and gid when the node is root. */
  readonly uid?: number;
}

/** Everything needed to find a machine again after the node process died; plain JSON, stored before the act it describes. */
export interface MachineRecord {
  readonly backend: string;
  readonly id: string;
  readonly folder: string;
  readonly pid: number;
  /** Field 22 of /proc/<pid>/stat: tells a recycled pid from ours. */
  readonly pidStartTime: string;
}

export interface Machine {
  readonly id: string;
  readonly record: MachineRecord;
  /** Opens the byte stream to the agent (the raw one: sessions are channel/'s). One at a time. */
  openChannel(signal?: AbortSignal): Promise<Duplex>;
  /** Stops it from running (SIGSTOP or freezer): no CPU, its clock runs on. Idempotent. */
  park(): void;
  /** The reverse, without a round trip. */
  unpark(): void;
  /** Resolves once, when the machine is gone for whatever reason. */
  readonly exited: Promise<{ readonly reason: string }>;
  /** Kills it if it lives, and removes everything it had: process, cgroup, folder. Idempotent, never depends on the guest. */
  destroy(): Promise<void>;
  /** Bytes of host memory that only this machine holds (private pages), and CPU seconds used so far. */
  usage(): Promise<{ readonly privateBytes: number; readonly cpuSeconds: number }>;
}

/** A published golden checkpoint. */
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
  readonly kind: 'microvm' | 'jail';
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
  /** Finds a machine again by its record. undefined: it is gone. */
  adopt(record: MachineRecord): Promise<Machine | undefined>;
  /** Live processes and cgroups of this backend under `root` (the home's machines folder), for the leak check and the sweep. */
  census(
    machinesFolder: string,
  ): Promise<
    readonly { readonly kind: 'process' | 'cgroup' | 'file' | 'mount'; readonly id: string; readonly detail: string }[]
  >;
  /** Removes whatever of machine `id` is left (process, cgroup, mounts, folder), without needing its record. */
  sweep(id: string, machinesFolder: string): Promise<void>;
}
