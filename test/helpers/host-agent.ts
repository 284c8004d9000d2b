/**
 * The real agent as a process of this host, for tests: over a unix socket, with its own passwd, group and folders under a
 * temporary root, and without the powers that would change the host (clock, entropy, host name, network): those are
 * written to `powers.jsonl` in the root. Terminals, pipes, attributes and inotify are real.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import fs from 'node:fs';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { runAgent } from '../../guest/agent/agent.ts';
import type { Context } from '../../guest/agent/context.ts';
import { type Powers, realPowers } from '../../guest/agent/powers.ts';
import { socketTransport } from '../../guest/agent/transport.ts';
import { readUsers } from '../../guest/agent/users.ts';
import type { AgentClient } from '../../src/channel/agent.ts';
import { type ConnectOptions, connectAgent } from '../../src/channel/client.ts';

const START_DEADLINE_MS = 15_000;

export interface HostAgent {
  readonly client: AgentClient;
  /** Temporary folder: `home/user` and `root` are homes, `etc` and `run` are written by identity. */
  readonly root: string;
  /** Path of the agent's unix socket. */
  readonly socketPath: string;
  readonly pid: number;
  /** A new session on a new connection; the one before ends. */
  reconnect(options?: Partial<ConnectOptions>): Promise<AgentClient>;
  /** What identity asked of the machine, in order. */
  powersUsed(): readonly { readonly power: string; readonly value: unknown }[];
  /** Kills the agent and removes the root. Processes it started are killed first. */
  stop(): Promise<void>;
}

export async function startHostAgent(): Promise<HostAgent> {
  const root = fs.mkdtempSync(path.join(os.tmpdir(), 'coppice-agent-'));
  const socketPath = path.join(root, 'agent.sock');
  const [uid, gid] = [process.getuid!(), process.getgid!()];
  for (const folder of ['etc', 'run', 'root', 'home/user', 'dbus'])
    fs.mkdirSync(path.join(root, folder), { recursive: true });
  const account = (name: string, home: string): string => `${name}:x:${uid}:${gid}::${path.join(root, home)}:/bin/sh\n`;
  fs.writeFileSync(path.join(root, 'etc/passwd'), account('user', 'home/user') + account('root', 'root'));
  fs.writeFileSync(path.join(root, 'etc/group'), `user:x:${gid}:\n`);
  const child = spawn(
    process.execPath,
    ['--disable-warning=ExperimentalWarning', import.meta.filename, '--serve', root, socketPath],
    { stdio: ['pipe', 'inherit', 'inherit'], env: { ...process.env, UV_THREADPOOL_SIZE: '8', NODE_TEST_CONTEXT: '' } },
  );
  let client: AgentClient;
  const reconnect = async (options: Partial<ConnectOptions> = {}): Promise<AgentClient> => {
    const socket = await connect(socketPath, child);
    client = await connectAgent(socket, { deadlineMs: START_DEADLINE_MS, ...options });
    return client;
  };
  try {
    await reconnect();
  } catch (error) {
    child.kill('SIGKILL');
    fs.rmSync(root, { recursive: true, force: true });
    throw error;
  }
  return {
    get client() {
      return client;
    },
    root,
    socketPath,
    pid: child.pid!,
    reconnect,
    powersUsed() {
      const file = path.join(root, 'powers.jsonl');
      if (!fs.existsSync(file)) return [];
      const lines = fs.readFileSync(file, 'utf8').trim().split('\n');
      return lines.map((line) => JSON.parse(line) as { power: string; value: unknown });
    },
    async stop() {
      try {
        const processes = await client.processes({ services: true });
        for (const { pid } of processes) await client.signal(pid, 'SIGKILL').catch(() => {});
      } catch {
        // The channel is gone; the agent goes anyway.
      }
      client.close();
      const exited = new Promise((resolve) => child.once('exit', resolve));
      if (child.exitCode === null && child.signalCode === null) {
        child.kill('SIGKILL');
        await exited;
      }
      fs.rmSync(root, { recursive: true, force: true, maxRetries: 5 });
    },
  };
}

async function connect(socketPath: string, child: ChildProcess): Promise<net.Socket> {
  const deadline = performance.now() + START_DEADLINE_MS;
  for (;;) {
    const socket = net.connect(socketPath);
    const connected = await new Promise<boolean>((resolve) => {
      socket.once('connect', () => resolve(true));
      socket.once('error', () => resolve(false));
    });
    if (connected) return socket;
    if (child.exitCode !== null) throw new Error(`the agent ended with ${child.exitCode}`);
    if (performance.now() > deadline) throw new Error('the agent did not start');
    await sleep(10);
  }
}

function recordingPowers(root: string): Powers {
  const note = (power: string, value: unknown): void =>
    fs.appendFileSync(path.join(root, 'powers.jsonl'), `${JSON.stringify({ power, value })}\n`);
  return {
    ...realPowers(),
    sync: async () => note('sync', null),
    setClock: (ms) => note('clock', ms),
    addEntropy: (bytes) => note('entropy', bytes.length),
    setHostname: (name) => note('hostname', name),
    setNetwork: (network) => note('network', network),
    cutConnections() {
      note('connections', null);
      return { cut: 2, left: 0 };
    },
    async mount(source, target) {
      if (source.endsWith('/refused')) throw Object.assign(new Error('mount: EACCES'), { code: 'EACCES' });
      note('mount', { source, target });
    },
    unmount: async (target) => note('unmount', target),
  };
}

if (process.argv[2] === '--serve' && process.argv[1] === import.meta.filename) {
  const [root, socketPath] = process.argv.slice(3) as [string, string];
  const context: Context = {
    powers: recordingPowers(root),
    users: readUsers(path.join(root, 'etc')),
    folders: { etc: path.join(root, 'etc'), run: path.join(root, 'run'), dbus: path.join(root, 'dbus') },
    resetOOMScore: false,
    busybox: path.join(root, 'bin/busybox'),
    env: {},
    generation: undefined,
    sandboxID: undefined,
    hostname: undefined,
  };
  // Its standard input ends with the test, however the test ends.
  process.stdin.on('end', () => process.kill(process.pid, 'SIGKILL')).resume();
  runAgent(context, (events) => socketTransport({ path: socketPath }, events));
}
