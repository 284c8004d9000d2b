/**
 * The jail backend alone, on the templates that `bin/test` has built: for each OCI runtime a home of its own. Needs root,
 * the runtimes, e2fsprogs, util-linux.
 */
import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { chmod, mkdir } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe } from 'node:test';
import type { AgentClient } from '../../src/channel/agent.ts';
import { connectAgent } from '../../src/channel/client.ts';
import type {
  CaptureRequest,
  Checkpoint,
  IsolationBackend,
  Machine,
  MachineImage,
  MachineSpec,
} from '../../src/isolation/backend.ts';
import { openCgroups } from '../../src/isolation/cgroup.ts';
import { createOciBackend } from '../../src/isolation/jail/oci/driver.ts';
import { RUNTIMES, type RuntimeName } from '../../src/isolation/jail/oci/runtime.ts';
import { silentLog } from '../../src/telemetry/log.ts';
import { openCatalogue } from '../../src/templates/catalogue.ts';
import { TEMPLATES_HOME } from './service.ts';

/** Above every range that the service itself hands out. */
export const FIRST_UID = 2_200_000_000;
export const UIDS_EACH = 65_536;
export const SHAPE = { cpuCount: 1, memoryMB: 256, diskSizeMB: 256 } as const;
const SLOTS = 4_096;

export interface JailRig {
  readonly runtime: RuntimeName;
  /** Everything of this rig is in it. */
  readonly home: string;
  readonly machines: string;
  /** The backend's own folder. */
  readonly jails: string;
  readonly image: MachineImage;
  readonly backend: IsolationBackend;
  readonly golden: Checkpoint;
  /** Another backend on the same folders, as after a start of a new node. */
  again(): IsolationBackend;
  /** Makes the folder; each call takes the next range of users. */
  spec(id: string, more?: Partial<MachineSpec>): Promise<MachineSpec & { readonly uid: number }>;
  clone(id: string, more?: Partial<MachineSpec>): Promise<Machine>;
  /** What a capture of one of its jails asks for. */
  wish(more?: Partial<CaptureRequest>): CaptureRequest;
  /** Pids in the cgroup of a jail, lowest first. */
  pids(id: string): Promise<readonly number[]>;
  /** Ends and removes whatever jails there are. */
  sweepAll(): Promise<void>;
}

/** Runs `define` for each runtime; one that is not installed is skipped with that reason. To be called once in a file. */
export function eachRuntime(define: (rig: JailRig) => void): void {
  for (const runtime of RUNTIMES) {
    const absent = whyAbsent(runtime);
    describe(runtime, absent ? { skip: absent } : {}, () => {
      const rig = {} as { -readonly [Key in keyof JailRig]: JailRig[Key] };
      before(async () => void Object.assign(rig, await openRig(runtime)));
      after(async () => {
        await rig.sweepAll?.();
        if (rig.home) rmSync(rig.home, { recursive: true, force: true });
      });
      define(rig);
    });
  }
}

function whyAbsent(runtime: RuntimeName): string | undefined {
  try {
    execFileSync(runtime, ['--version'], { stdio: 'ignore' });
    return undefined;
  } catch {
    return `${runtime} is not installed`;
  }
}

/** The image of the built-in template `base`. */
export async function baseImage(): Promise<MachineImage> {
  const found = (await openCatalogue(join(TEMPLATES_HOME, 'templates'))).resolve('base');
  if (!found) throw new Error(`no template base in ${TEMPLATES_HOME}; run bin/test`);
  return found.build.image;
}

async function openRig(runtime: RuntimeName): Promise<JailRig> {
  const home = mkdtempSync(join(tmpdir(), 'cpo-'));
  await chmod(home, 0o711);
  const machines = join(home, 'machines');
  const jails = join(home, 'jails');
  for (const folder of [machines, jails]) mkdirSync(folder, { mode: 0o711 });
  const image = await baseImage();
  const again = () =>
    createOciBackend({
      log: silentLog,
      folder: jails,
      uids: { first: FIRST_UID, slots: SLOTS },
      runtimes: [runtime],
    });
  const backend = again();
  let slot = 0;
  const spec: JailRig['spec'] = async (id, more = {}) => {
    const folder = join(machines, id);
    await mkdir(folder, { recursive: true });
    const uid = FIRST_UID + slot++ * UIDS_EACH;
    const names = { hostname: `host-${id}`, machineID: randomBytes(16).toString('hex') };
    return { id, folder, shape: SHAPE, names, uid, ...more };
  };
  const probe = await backend.probe();
  if (!probe.usable) throw new Error(probe.notices.join('\n'));
  const golden = await backend.makeGolden(image, await spec('golden'), join(home, 'golden'), async () => {}, {});
  await backend.sweep('golden', machines);
  const clone: JailRig['clone'] = async (id, more) => backend.clone(golden, image, await spec(id, more));
  return {
    runtime,
    home,
    machines,
    jails,
    image,
    backend,
    golden,
    again,
    spec,
    clone,
    wish: (more) => ({ image, shape: SHAPE, base: golden, memory: false, goesOn: true, ...more }),
    pids: async (id) => [...(await cgroupsOf(machines)).processes(id)].sort((a, b) => a - b),
    sweepAll: async () => {
      for (const id of new Set((await backend.census(machines)).map((item) => item.id)))
        await backend.sweep(id, machines);
    },
  };
}

/** The groups of this home's jails, found as the backend finds them. */
export function cgroupsOf(machines: string) {
  return openCgroups(machines, { family: 'jails' });
}

/**
 * Speaks to the agent of a machine while `work` runs. As the node does, tries once more: an agent that is ending may take
 * the connection and close it.
 */
export async function withAgent<T>(machine: Machine, work: (agent: AgentClient) => Promise<T>): Promise<T> {
  const open = async () => connectAgent(await machine.openChannel(), { deadlineMs: 20_000 });
  const agent = await open().catch((error: { code?: string }) => {
    if (error.code !== 'unavailable') throw error;
    return open();
  });
  try {
    return await work(agent);
  } finally {
    agent.close();
  }
}

export interface Ran {
  readonly code: number;
  /** Of both streams, trimmed. */
  readonly output: string;
}

/** Runs a line of bash inside, as root unless said otherwise. */
export async function sh(agent: AgentClient, line: string, user = 'root'): Promise<Ran> {
  const child = await agent.spawn({ cmd: '/bin/bash', args: ['-c', line], stdin: false, user });
  let output = '';
  for await (const event of child.output) {
    if (event.type === 'exit') return { code: event.exitCode, output: output.trim() };
    output = (output + Buffer.from(event.bytes).toString()).slice(-65_536);
  }
  throw new Error('no exit event');
}

/** The same for one line that must succeed; what it printed. */
export async function said(agent: AgentClient, line: string, user?: string): Promise<string> {
  const { code, output } = await sh(agent, line, user);
  if (code !== 0) throw new Error(`'${line}' ended with ${code}: ${output}`);
  return output;
}

/** Its root folder, as the host sees it. */
export function rootOf(machine: Machine): string {
  return join('/proc', String(machine.record.pid), 'root');
}

/** A member of /proc/<pid>/status of the host. */
export function statusOf(pid: number, member: string): string {
  return (
    new RegExp(`^${member}:[ \\t]*(.*?)[ \\t]*$`, 'm').exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1] ?? ''
  );
}

/** What is mounted on the host, but for namespaces, which other services may make and remove at any time. */
export function hostMounts(): readonly string[] {
  return readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .filter((line) => !line.includes(' nsfs '));
}
