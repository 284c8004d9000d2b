/**
 * Makes jails, in a thread that has a mount namespace of its own. Only calls that act on this very thread may touch what is
 * mounted here: Node's asynchronous file functions run on other threads, which see the host's mounts.
 */
import { chmodSync, fstatSync, mkdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { getPriority, setPriority } from 'node:os';
import { join } from 'node:path';
import { parentPort, workerData } from 'node:worker_threads';
import { isCoppiceError } from '../../../contract/errors.ts';
import type { JailConfig } from './config.ts';
import { loadDiskCalls } from './disk-calls.ts';
import { createCopies } from './keeper-copies.ts';
import type { AgentStart, Answer, Birth, JobName, KeeperData, Question } from './keeper-jobs.ts';
import { createLauncher, PID_FILE } from './launcher.ts';
import { AGENT_SOCKET } from './names.ts';
import { createRoots } from './roots.ts';
import { runtimeOf } from './runtime.ts';
import { runSelfTest, sweepSelfTests } from './self-test.ts';
import { loadSyscalls } from './syscalls.ts';
import { createUserNamespaces, forbidUserNamespaces } from './user-namespaces.ts';
import { createVolumes } from './volumes.ts';

const { folder: parent, runtime: runtimeName, architecture } = workerData as KeeperData;
const stateFolder = join(parent, 'state');
const syscalls = loadSyscalls();
const calls = loadDiskCalls();
const runtime = runtimeOf(runtimeName, architecture);

syscalls.unshare();
// The node prefers itself; what this thread starts gets the usual niceness, from its first instruction on.
if (getPriority() < 0) setPriority(0, 0);
mkdirSync(stateFolder, { recursive: true, mode: 0o700 });
hideHalfUnified();
sweepSelfTests(parent);

const launcher = createLauncher(runtime, stateFolder);
const roots = createRoots(parent, syscalls, calls);
const volumes = createVolumes(parent, syscalls, calls);
const userNamespaceOf = createUserNamespaces();

const WORK: { readonly [Name in JobName]: (ask: never) => Promise<unknown> } = {
  async test({ uid }: { readonly uid: number }) {
    const namespace = await userNamespaceOf(uid);
    const parts = { folder: parent, syscalls, calls, launcher };
    await runSelfTest(parts, uid, namespace, userNamespaceFor(uid, namespace));
  },
  birth,
  agent: startAgent,
  volume: async ({ image }: { readonly image: string }) => ({ fd: volumes.open(image) }),
  connect: async ({ path }: { readonly path: string }) => ({ fd: syscalls.connect(path) }),
  ...createCopies(calls),
};

parentPort!.on('message', (question: Question) => {
  const { number } = question;
  WORK[question.job](question.ask as never).then(
    (answer) => parentPort!.postMessage({ number, ok: true, answer: answer ?? null } as Answer),
    (error: unknown) => {
      const message = error instanceof Error ? error.message : String(error);
      const code = isCoppiceError(error) ? error.code : 'start_failed';
      parentPort!.postMessage({ number, ok: false, message, code } satisfies Answer);
    },
  );
});

/** crun refuses a host whose controllers are split over both versions of cgroups; it is not asked to manage any here. */
function hideHalfUnified(): void {
  try {
    if (readFileSync('/sys/fs/cgroup/unified/cgroup.controllers', 'utf8').trim() !== '')
      syscalls.unmount('/sys/fs/cgroup/unified');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
  }
}

async function birth(job: Birth): Promise<{ pid: number }> {
  const { id, folder, uid, shape, groups } = job;
  const namespace = await userNamespaceOf(uid);
  const root = join(folder, 'root');
  const mounts = [...roots.mount(job, namespace, root)];
  const network = job.network === undefined ? undefined : descriptorPath(job.network);
  try {
    const shared = volumes.mount(job, namespace, root, mounts);
    const config = launcher.configure({
      hostname: job.hostname,
      root,
      drive: roots.shared(job.drive),
      shape,
      volumes: shared,
      userNamespace: userNamespaceFor(uid, namespace),
      network: network === undefined ? 'own' : runtime.ownUserNamespace ? 'inherited' : network,
      ...(runtime.ownCgroups ? { cgroup: { path: job.group, limits: job.limits } } : {}),
    });
    await launcher.run(id, folder, config, { groups, detached: true, network });
    const pid = Number(readFileSync(join(folder, PID_FILE), 'utf8'));
    if (runtime.ownUserNamespace) await forbidUserNamespaces(`/proc/${pid}/ns/user`);
    demandNetwork(pid, job.network);
    return { pid };
  } finally {
    // The jail's own namespace holds them from here on.
    roots.unmount(mounts);
  }
}

/** Fails closed: a jail in any network but its own is none. This process' first thread is in the host's. */
function demandNetwork(pid: number, given: number | undefined): void {
  const { ino } = statSync(`/proc/${pid}/ns/net`);
  const right = given === undefined ? ino !== statSync('/proc/self/ns/net').ino : ino === fstatSync(given).ino;
  if (!right) throw new Error('the runtime has put it into another network namespace than the one given');
}

async function startAgent({ id, folder, groups, pid }: AgentStart): Promise<void> {
  const socket = join(folder, AGENT_SOCKET);
  rmSync(socket, { force: true });
  // Bound here and handed over: no path that the jail could change is ever followed.
  const listener = syscalls.listen(socket);
  try {
    chmodSync(socket, 0o600);
    await launcher.startAgent(id, folder, { groups, listener, network: `/proc/${pid}/ns/net` });
  } catch (error) {
    rmSync(socket, { force: true });
    throw error;
  } finally {
    syscalls.close(listener);
  }
}

function userNamespaceFor(firstUid: number, made: number): JailConfig['userNamespace'] {
  return runtime.ownUserNamespace ? { firstUid } : descriptorPath(made);
}

/** For a process that is not this one. */
function descriptorPath(fd: number): string {
  return `/proc/${process.pid}/fd/${fd}`;
}
