/** An AgentClient of spawn, attach, processes and signal over processes of this host: the interpreter without a channel. */
import { type ChildProcess, spawn } from 'node:child_process';
import { type AgentClient, AgentError, type AgentProcess, type ProcessOutput } from '../../src/channel/agent.ts';
import { KIND, type ProcessInfo, type SpawnRequest } from '../../src/channel/protocol.ts';

interface Started {
  readonly info: ProcessInfo;
  readonly child: ChildProcess;
  exit: ProcessOutput | undefined;
  readonly watchers: Set<(output: ProcessOutput) => void>;
}

export interface LocalAgent {
  readonly client: AgentClient;
  /** Ends every process and waits for it. */
  stop(): Promise<void>;
  readonly signals: { readonly pid: number; readonly signal: string }[];
}

export function createLocalAgent(options: { readonly home: string }): LocalAgent {
  const started = new Map<number, Started>();
  const signals: { pid: number; signal: string }[] = [];

  const view = (it: Started): AgentProcess => {
    const queue: ProcessOutput[] = it.exit === undefined ? [] : [it.exit];
    let wake: (() => void) | undefined;
    let detached = false;
    const watcher = (output: ProcessOutput): void => {
      queue.push(output);
      wake?.();
    };
    it.watchers.add(watcher);
    async function* output(): AsyncGenerator<ProcessOutput> {
      while (!detached) {
        const next = queue.shift();
        if (next === undefined) {
          await new Promise<void>((resolve) => {
            wake = resolve;
          });
          continue;
        }
        yield next;
        if (next.type === 'exit') return;
      }
    }
    return {
      pid: it.info.pid,
      info: it.info,
      output: output(),
      writeStdin: (bytes) =>
        new Promise((resolve, reject) => {
          it.child.stdin!.write(bytes, (error) =>
            error ? reject(new AgentError('internal', error.message)) : resolve(),
          );
        }),
      closeStdin: async () => void it.child.stdin!.end(),
      detach() {
        detached = true;
        it.watchers.delete(watcher);
        wake?.();
      },
    };
  };

  const start = async (request: Omit<SpawnRequest, 'op'>): Promise<AgentProcess> => {
    const cwd = request.cwd ?? options.home;
    const env = { PATH: process.env.PATH ?? '', HOME: options.home, USER: 'user', LOGNAME: 'user', ...request.env };
    const child = spawn(request.cmd, [...request.args], { cwd, env, detached: true, stdio: 'pipe' });
    await new Promise<void>((resolve, reject) => {
      child.once('spawn', resolve);
      child.once('error', (error) =>
        reject(new AgentError('invalid_argument', `cwd '${cwd}' does not exist or ${error.message}`)),
      );
    });
    child.stdin.on('error', () => {});
    const info: ProcessInfo = {
      pid: child.pid!,
      cmd: request.cmd,
      args: request.args,
      env: request.env ?? {},
      cwd,
      user: request.user ?? 'user',
      ...(request.tag === undefined ? {} : { tag: request.tag }),
      pty: false,
      stdin: request.stdin,
      service: request.service ?? false,
    };
    const it: Started = { info, child, exit: undefined, watchers: new Set() };
    started.set(info.pid, it);
    const tell = (output: ProcessOutput): void => {
      for (const watcher of it.watchers) watcher(output);
    };
    child.stdout.on('data', (bytes: Buffer) => tell({ type: 'data', kind: KIND.STDOUT, bytes }));
    child.stderr.on('data', (bytes: Buffer) => tell({ type: 'data', kind: KIND.STDERR, bytes }));
    child.once('close', (code, signal) => {
      it.exit = {
        type: 'exit',
        exitCode: code ?? -1,
        ...(signal === null ? {} : { signal: signal.slice(3).toLowerCase() }),
      };
      tell(it.exit);
    });
    return view(it);
  };

  const present = (): Started[] => [...started.values()].filter((it) => it.exit === undefined);

  const client = {
    hello: { version: 'test', pid: process.pid, clockMs: Date.now() },
    spawn: start,
    async attach(which: { pid: number } | { tag: string }) {
      const it = present().find(({ info }) => ('pid' in which ? info.pid === which.pid : info.tag === which.tag));
      if (it === undefined) throw new AgentError('not_found', 'no such process');
      return view(it);
    },
    processes: async (wanted?: { services?: boolean }) =>
      present()
        .map(({ info }) => info)
        .filter((info) => wanted?.services || !info.service),
    async signal(pid: number, signal: 'SIGKILL' | 'SIGTERM' | 'SIGINT') {
      signals.push({ pid, signal });
      if (started.get(pid)?.exit !== undefined || !started.has(pid))
        throw new AgentError('not_found', 'no such process');
      process.kill(-pid, signal);
    },
  } as unknown as AgentClient;

  return {
    client,
    signals,
    async stop() {
      await Promise.all(
        present().map(async ({ info, child }) => {
          const gone = new Promise((resolve) => child.once('close', resolve));
          process.kill(-info.pid, 'SIGKILL');
          await gone;
        }),
      );
    },
  };
}
