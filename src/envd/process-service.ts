/** E2B's process.Process service over the hub. Each method: read the request, ask the hub or the agent, map the answer. */
import { create } from '@bufbuild/protobuf';
import { Code, ConnectError, type HandlerContext, type ServiceImpl } from '@connectrpc/connect';
import type { ProcessOutput } from '../channel/agent.ts';
import { KIND, type ProcessInfo } from '../channel/protocol.ts';
import {
  type Process,
  type ProcessEvent,
  ProcessEventSchema,
  type ProcessInput,
  type ProcessSelector as ProcessSelectorMessage,
  type PTY,
  Signal,
  type StartRequest,
} from '../contract/gen/process_pb.ts';
import type { Subscription } from './fan-out.ts';
import { beforeAbort, follow, KEEPALIVE } from './follow.ts';
import type { ProcessSelector } from './process-hub.ts';
import { callOf } from './rpc-context.ts';
import type { EnvdSandbox } from './sandbox.ts';

/** Terminal rows or columns: the kernel keeps 16 bits. */
const MAX_TERMINAL = 65_535;
const BASH = '/bin/bash';
const DEFAULT_SIZE = { cols: 80, rows: 24 } as const;

export const processService: ServiceImpl<typeof Process> = {
  async *start(request, context) {
    const call = callOf(context);
    const spawn = spawnRequest(request, call.user, call.sandbox);
    const timeoutMs = context.timeoutMs();
    const deadline = timeoutMs === undefined || timeoutMs <= 0 ? undefined : Date.now() + timeoutMs;
    const starting = call.processes.spawn(spawn, deadline);
    // Once the caller is gone nobody reads the output; the process itself goes on.
    const abandoned = (): void => void starting.then(({ output }) => output.close()).catch(() => {});
    const { process, output } = await beforeAbort(starting, context.signal).catch((error: unknown) => {
      abandoned();
      throw error;
    });
    yield { event: startEvent(process.pid) };
    for await (const event of events(output, context, deadline)) yield { event };
  },

  async *connect(request, context) {
    const call = callOf(context);
    const process = await beforeAbort(call.processes.find(selectorOf(request.process)), context.signal);
    const output = process.subscribe();
    yield { event: startEvent(process.pid) };
    for await (const event of events(output, context)) yield { event };
  },

  async list(_request, context) {
    const agent = await callOf(context).sandbox.agent();
    return { processes: (await agent.processes()).map(processInfo) };
  },

  async update(request, context) {
    const call = callOf(context);
    const pid = await call.processes.pidOf(selectorOf(request.process));
    const size = request.pty === undefined ? undefined : terminalSize(request.pty);
    const agent = await call.sandbox.agent();
    if (size) await agent.resize(pid, size.cols, size.rows);
    return {};
  },

  async sendInput(request, context) {
    const call = callOf(context);
    const input = inputOf(request.input);
    const process = await beforeAbort(call.processes.findRunning(selectorOf(request.process)), context.signal);
    await process.write(input.case, input.value, context.signal);
    return {};
  },

  async streamInput(requests, context) {
    const call = callOf(context);
    let process: Awaited<ReturnType<typeof call.processes.findRunning>> | undefined;
    for await (const { event } of requests) {
      if (event.case === 'start') {
        process = await beforeAbort(call.processes.findRunning(selectorOf(event.value.process)), context.signal);
      } else if (event.case === 'data') {
        if (!process) throw new ConnectError('the first message must be start', Code.InvalidArgument);
        const input = inputOf(event.value.input);
        await process.write(input.case, input.value, context.signal);
      } else if (event.case === undefined) {
        throw new ConnectError('a message without an event', Code.InvalidArgument);
      }
    }
    if (!process) throw new ConnectError('the first message must be start', Code.InvalidArgument);
    return {};
  },

  async sendSignal(request, context) {
    const call = callOf(context);
    const selector = selectorOf(request.process);
    const signal = signalOf(request.signal);
    const pid = await call.processes.pidOf(selector);
    await (await call.sandbox.agent()).signal(pid, signal);
    return {};
  },

  async closeStdin(request, context) {
    const process = await beforeAbort(
      callOf(context).processes.findRunning(selectorOf(request.process)),
      context.signal,
    );
    await process.closeStdin();
    return {};
  },
};

function spawnRequest(request: StartRequest, user: string, { defaultWorkdir, insteadOfBash }: EnvdSandbox) {
  const config = request.process;
  if (config === undefined || config.cmd === '') throw new ConnectError('process.cmd is missing', Code.InvalidArgument);
  for (const text of [config.cmd, config.cwd ?? '', ...config.args, ...Object.entries(config.envs).flat()]) {
    if (text.includes('\0')) throw new ConnectError('a NUL character in the command', Code.InvalidArgument);
  }
  for (const name of Object.keys(config.envs)) {
    if (name === '' || name.includes('=')) {
      throw new ConnectError(`'${name}' is not the name of an environment variable`, Code.InvalidArgument);
    }
  }
  const cwd = config.cwd || defaultWorkdir;
  return {
    cmd: config.cmd === BASH ? (insteadOfBash ?? BASH) : config.cmd,
    args: config.args,
    env: config.envs,
    ...(cwd === undefined ? {} : { cwd }),
    user,
    ...(request.pty === undefined ? {} : { pty: terminalSize(request.pty) ?? DEFAULT_SIZE }),
    stdin: request.stdin ?? true,
    ...(request.tag === undefined ? {} : { tag: request.tag }),
  };
}

async function* events(
  output: Subscription<ProcessOutput>,
  context: HandlerContext,
  deadline?: number,
): AsyncGenerator<ProcessEvent> {
  for await (const item of follow(output, context)) {
    if (item === KEEPALIVE) {
      yield create(ProcessEventSchema, { event: { case: 'keepalive', value: {} } });
    } else if (item.type === 'data') {
      yield dataEvent(item);
    } else {
      // Killed by its deadline: the caller is told of the deadline, whichever of the two arrives first.
      if (deadline !== undefined && item.signal === 'killed' && Date.now() >= deadline) {
        throw new ConnectError('the operation timed out', Code.DeadlineExceeded);
      }
      yield endEvent(item);
      return;
    }
  }
  throw new ConnectError('the process was lost before it ended', Code.Unavailable);
}

const startEvent = (pid: number): ProcessEvent =>
  create(ProcessEventSchema, { event: { case: 'start', value: { pid } } });

function dataEvent({ kind, bytes }: Extract<ProcessOutput, { type: 'data' }>): ProcessEvent {
  const name = kind === KIND.PTY ? 'pty' : kind === KIND.STDERR ? 'stderr' : 'stdout';
  return create(ProcessEventSchema, {
    event: { case: 'data', value: { output: { case: name, value: bytes as Uint8Array<ArrayBuffer> } } },
  });
}

/** `exit status N`, or `signal: killed` with -1; `error` repeats it unless the process succeeded. */
function endEvent({ exitCode, signal }: Extract<ProcessOutput, { type: 'exit' }>): ProcessEvent {
  const status = signal === undefined ? `exit status ${exitCode}` : `signal: ${signal}`;
  const failed = signal !== undefined || exitCode !== 0;
  return create(ProcessEventSchema, {
    event: {
      case: 'end',
      value: {
        exitCode: signal === undefined ? exitCode : -1,
        exited: signal === undefined,
        status,
        ...(failed ? { error: status } : {}),
      },
    },
  });
}

function processInfo(info: ProcessInfo) {
  return {
    pid: info.pid,
    config: { cmd: info.cmd, args: [...info.args], envs: { ...info.env }, cwd: info.cwd },
    ...(info.tag === undefined ? {} : { tag: info.tag }),
  };
}

function selectorOf(message: ProcessSelectorMessage | undefined): ProcessSelector {
  const selector = message?.selector;
  if (selector?.case === 'pid') return { pid: selector.value };
  if (selector?.case === 'tag' && selector.value !== '') return { tag: selector.value };
  throw new ConnectError('the process must be named by pid or tag', Code.InvalidArgument);
}

function inputOf(message: ProcessInput | undefined) {
  const input = message?.input;
  if (input?.case === undefined) throw new ConnectError('the input must be stdin or pty', Code.InvalidArgument);
  return input;
}

function signalOf(signal: Signal): 'SIGKILL' | 'SIGTERM' {
  if (signal === Signal.SIGKILL) return 'SIGKILL';
  if (signal === Signal.SIGTERM) return 'SIGTERM';
  throw new ConnectError('the signal must be SIGNAL_SIGKILL or SIGNAL_SIGTERM', Code.InvalidArgument);
}

/** undefined: no size was given, or that of a client which has no terminal itself. */
function terminalSize(pty: PTY): { cols: number; rows: number } | undefined {
  if (pty.size === undefined) return undefined;
  const { cols, rows } = pty.size;
  if (cols === 0 && rows === 0) return undefined;
  if (cols < 1 || rows < 1 || cols > MAX_TERMINAL || rows > MAX_TERMINAL) {
    throw new ConnectError(`the terminal size must be between 1 and ${MAX_TERMINAL}`, Code.InvalidArgument);
  }
  return { cols, rows };
}
