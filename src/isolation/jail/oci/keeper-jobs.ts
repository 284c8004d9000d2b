/** What the keeper's thread is asked to do, and what it answers: messages between two threads of one process. */
import type { ErrorCode } from '../../../contract/errors.ts';
import type { MachineShape, MachineVolume } from '../../backend.ts';
import type { CgroupLimits } from '../../cgroup.ts';
import type { Settled } from './layer-copy.ts';
import type { RuntimeName } from './runtime.ts';
import type { Architecture } from './seccomp.ts';
import type { Stop } from './sparse-copy.ts';

/** What the thread is started with. */
export interface KeeperData {
  /** Holds blank layers, the runtime's state, and where what jails share is mounted. */
  readonly folder: string;
  readonly runtime: RuntimeName;
  readonly architecture: Architecture;
}

export interface Birth {
  readonly id: string;
  readonly folder: string;
  /** Host uid of the jail's root; the range of 65 536 that begins there is its own. */
  readonly uid: number;
  readonly shape: MachineShape;
  /** ext4 images. */
  readonly rootfs: string;
  readonly drive: string;
  readonly hostname: string;
  readonly machineID: string;
  /** Whether its layer is there already, a copy of another jail's; else it gets a blank one. */
  readonly filled: boolean;
  readonly volumes: readonly MachineVolume[];
  /** Open descriptor, in this process, of the network namespace to enter. */
  readonly network?: number;
  /** The folders of its cgroups. */
  readonly groups: readonly string[];
  /** Path of its cgroup below their mounts. */
  readonly group: string;
  readonly limits: CgroupLimits;
}

export interface AgentStart {
  readonly id: string;
  readonly folder: string;
  /** The jail's first process. */
  readonly pid: number;
  readonly groups: readonly string[];
}

/** Copies a layer that no jail uses. `size`: bytes, as it must be. */
export interface LayerFill {
  readonly from: string;
  readonly to: string;
  readonly size: number;
  readonly stop: Stop;
}

/** Begins a copy of a living jail's layer, which the two jobs after it speak of by its target. */
export interface CopyStart {
  readonly layer: string;
  readonly to: string;
  readonly stop: Stop;
}

/** Job name -> its question and answer. */
export interface Jobs {
  /** Runs nothing in an empty jail, to see that all of the parts work on this host. */
  readonly test: { readonly ask: { readonly uid: number }; readonly answer: null };
  readonly birth: { readonly ask: Birth; readonly answer: { readonly pid: number } };
  readonly agent: { readonly ask: AgentStart; readonly answer: null };
  /** Its root folder, mounted until the descriptor, which is the asker's, is closed. */
  readonly volume: { readonly ask: { readonly image: string }; readonly answer: { readonly fd: number } };
  readonly fill: { readonly ask: LayerFill; readonly answer: null };
  readonly copy: { readonly ask: CopyStart; readonly answer: null };
  /** Brings it to what the layer holds now, with no process of the jail running. */
  readonly settle: { readonly ask: { readonly to: string; readonly stop: Stop }; readonly answer: Settled };
  /** Lets go of its descriptors. Idempotent. */
  readonly close: { readonly ask: { readonly to: string }; readonly answer: null };
  /** Connects to an agent, by a socket of no network; nobody listens: null. The descriptor is the asker's. */
  readonly connect: { readonly ask: { readonly path: string }; readonly answer: { readonly fd: number | null } };
}

export type JobName = keyof Jobs;

export interface Question<Name extends JobName = JobName> {
  readonly number: number;
  readonly job: Name;
  readonly ask: Jobs[Name]['ask'];
}

export type Answer =
  | { readonly number: number; readonly ok: true; readonly answer: Jobs[JobName]['answer'] }
  | { readonly number: number; readonly ok: false; readonly message: string; readonly code: ErrorCode };
