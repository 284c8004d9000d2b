/** Starting processes, and finding them again. */
import { type ChildProcess, spawn } from 'node:child_process';
import fs from 'node:fs';
import net from 'node:net';
import path from 'node:path';
import { KIND, type ProcessInfo, type SpawnRequest } from '../../src/channel/protocol.ts';
import type { Context } from './context.ts';
import { Failure } from './failure.ts';
import { resolvePath } from './paths.ts';
import { AgentProcess, type Ends } from './process.ts';
import { openTerminal, terminalCommand } from './pty.ts';
import { answer } from './session.ts';
import type { AgentStream } from './stream.ts';
import type { Account } from './users.ts';

const DEFAULT_PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';
/** How long the exit of a process can still be asked for. */
const REMEMBERED_MS = 30_000;
const REMEMBERED = 1_024;

export interface Processes {
  spawn(request: SpawnRequest, stream: AgentStream): Promise<void>;
  attach(which: { readonly pid?: number; readonly tag?: string }, stream: AgentStream): void;
  list(stream: AgentStream, services: boolean): void;
  signal(pid: number, signal: NodeJS.Signals): void;
  resize(pid: number, cols: number, rows: number): void;
  /** Nothing runs, and no exit can still be asked for. */
  idle(): boolean;
}

export function createProcesses(context: Context): Processes {
  const running = new Map<number, AgentProcess>();
  /** In the order in which they ended. */
  const ended = new Set<AgentProcess>();

  const onExit = (process: AgentProcess): void => {
    if (running.get(process.info.pid) === process) running.delete(process.info.pid);
    ended.add(process);
    forgetOld();
  };

  /** Called as new ones come, so that no timer runs. */
  const forgetOld = (): void => {
    const limit = performance.now() - REMEMBERED_MS;
    for (const process of ended) {
      if (process.exit!.atMs >= limit && ended.size <= REMEMBERED) return;
      ended.delete(process);
    }
  };

  const byPID = (pid: number): AgentProcess => {
    const process = running.get(pid);
    if (!process) throw new Failure('not_found', `process with pid ${pid} not found`);
    return process;
  };

  return {
    async spawn(request, stream) {
      const process = await start(context, request, onExit);
      if (!process.exit) running.set(process.info.pid, process);
      stream.reply({ pid: process.info.pid });
      process.attach(stream);
    },
    attach({ pid, tag }, stream) {
      forgetOld();
      const matches = ({ info }: AgentProcess): boolean => (pid === undefined ? info.tag === tag : info.pid === pid);
      if (pid === undefined && tag === undefined) throw new Failure('invalid_argument', 'neither a pid nor a tag');
      const process = [...running.values()].findLast(matches) ?? [...ended].findLast(matches);
      if (!process) throw new Failure('not_found', `process with ${pid ? `pid ${pid}` : `tag '${tag}'`} not found`);
      stream.reply(process.info);
      process.attach(stream);
    },
    list(stream, services) {
      const processes: ProcessInfo[] = [];
      for (const { info } of running.values()) if (services || !info.service) processes.push(info);
      answer(stream, { processes });
    },
    signal(pid, signal) {
      byPID(pid);
      process.kill(-pid, signal);
    },
    resize(pid, cols, rows) {
      const { pty } = byPID(pid);
      if (pty === undefined) throw new Failure('failed_precondition', `process ${pid} has no terminal`);
      context.powers.resizePty(pty, { cols, rows });
    },
    idle() {
      forgetOld();
      return running.size === 0 && ended.size === 0;
    },
  };
}

async function start(
  context: Context,
  request: SpawnRequest,
  onExit: (process: AgentProcess) => void,
): Promise<AgentProcess> {
  const account = context.users.find(request.user);
  const env = environmentOf(context, account, request.env);
  const cwd = resolvePath(request.cwd ?? '', account);
  if (!fs.statSync(cwd, { throwIfNoEntry: false })?.isDirectory())
    throw new Failure('invalid_argument', `cwd '${request.cwd ?? cwd}' does not exist`);
  const options = { cwd, env, detached: true as const, ...identityOf(account) };

  const { child, ends } = request.pty
    ? inTerminal(context, request, request.pty, account, options)
    : withPipes(context, request, options);
  if (child.pid === undefined) {
    for (const { socket } of ends.outputs) socket.destroy();
    ends.input?.destroy();
    const [error] = await new Promise<[NodeJS.ErrnoException]>((resolve) => child.once('error', (e) => resolve([e])));
    throw new Failure('invalid_argument', `error starting process '${request.cmd}': ${describe(error)}`);
  }
  if (context.resetOOMScore) resetOOMScore(child.pid);
  const info: ProcessInfo = {
    pid: child.pid,
    cmd: request.cmd,
    args: request.args,
    env: request.env ?? {},
    cwd,
    user: account.name,
    ...(request.tag === undefined ? {} : { tag: request.tag }),
    pty: request.pty !== undefined,
    stdin: request.stdin,
    service: request.service ?? false,
  };
  return new AgentProcess(info, child, ends, onExit);
}

interface Started {
  readonly child: ChildProcess;
  readonly ends: Ends;
}

interface StartOptions {
  readonly cwd: string;
  readonly env: NodeJS.ProcessEnv;
  readonly detached: true;
  readonly uid?: number;
  readonly gid?: number;
}

function inTerminal(
  context: Context,
  request: SpawnRequest,
  size: { readonly cols: number; readonly rows: number },
  account: Account,
  options: StartOptions,
): Started {
  const command = findCommand(request.cmd, options.cwd, options.env.PATH);
  const { master, slave, socket } = openTerminal(context, size, account);
  const ends: Ends = { outputs: [{ socket, kind: KIND.PTY }], input: socket, pty: master };
  try {
    const [shell, args] = terminalCommand(context, slave, command, request.args);
    return { child: spawn(shell, args, { ...options, stdio: 'ignore' }), ends };
  } catch (error) {
    socket.destroy();
    throw error;
  }
}

/** Pipes and not the socket pairs that Node makes: a program may open /dev/stdout or /dev/stderr again. */
function withPipes(context: Context, request: SpawnRequest, options: StartOptions): Started {
  const ours: number[] = [];
  const theirs: number[] = [];
  try {
    for (let count = request.stdin ? 3 : 2; count > 0; count--) {
      const [read, write] = context.powers.pipe();
      ours.push(count === 1 && request.stdin ? write : read);
      theirs.push(count === 1 && request.stdin ? read : write);
    }
    const [out, err, input] = theirs;
    const child = spawn(request.cmd, [...request.args], { ...options, stdio: [input ?? 'ignore', out, err] });
    const outputs = [
      { socket: readEnd(ours[0]!), kind: KIND.STDOUT },
      { socket: readEnd(ours[1]!), kind: KIND.STDERR },
    ];
    const stdin = ours[2] === undefined ? undefined : new net.Socket({ fd: ours[2], readable: false, writable: true });
    return { child, ends: stdin ? { outputs, input: stdin } : { outputs } };
  } catch (error) {
    for (const fd of ours) fs.closeSync(fd);
    throw error;
  } finally {
    for (const fd of theirs) fs.closeSync(fd);
  }
}

function readEnd(fd: number): net.Socket {
  return new net.Socket({ fd, readable: true, writable: false });
}

/** Nothing when the account is the agent's own: setting it needs a privilege that a rootless agent has not. */
function identityOf(account: Account): { uid?: number; gid?: number } {
  if (account.uid === process.getuid?.() && account.gid === process.getgid?.()) return {};
  return { uid: account.uid, gid: account.gid };
}

/** What a process of `account` finds; `own` wins. */
export function environmentOf(
  context: Context,
  account: Account,
  own: Readonly<Record<string, string>> | undefined,
): NodeJS.ProcessEnv {
  return {
    PATH: DEFAULT_PATH,
    HOME: account.home,
    USER: account.name,
    LOGNAME: account.name,
    ...context.env,
    ...(context.generation === undefined ? {} : { COPPICE_GENERATION: context.generation }),
    ...own,
  };
}

/** The file that a shell would run. Throws Failure `invalid_argument`. */
function findCommand(command: string, cwd: string, searchPath = DEFAULT_PATH): string {
  if (command.includes('/')) {
    const file = path.resolve(cwd, command);
    if (isExecutable(file)) return file;
  } else {
    for (const folder of searchPath.split(':')) {
      const file = path.resolve(cwd, folder, command);
      if (isExecutable(file)) return file;
    }
  }
  throw new Failure('invalid_argument', `error starting process '${command}': no such executable file`);
}

function isExecutable(file: string): boolean {
  try {
    fs.accessSync(file, fs.constants.X_OK);
    return fs.statSync(file).isFile();
  } catch {
    return false;
  }
}

function describe(error: NodeJS.ErrnoException): string {
  if (error.code === 'ENOENT') return 'no such executable file';
  if (error.code === 'EACCES') return 'permission denied';
  return error.code ?? error.message;
}

export function resetOOMScore(pid: number): void {
  try {
    fs.writeFileSync(`/proc/${pid}/oom_score_adj`, '0');
  } catch {
    // It is gone already.
  }
}
