/** Commands of ours in a guest, run to their end. */
import type { AgentClient, AgentProcess } from '../channel/agent.ts';
import { KIND } from '../channel/protocol.ts';
import type { GuestCommand } from '../templates/build-plan.ts';
import { throwIfAborted } from '../templates/run.ts';

export type OutputKind = 'stdout' | 'stderr';

export interface CommandEnd {
  /** -1 when a signal ended it. */
  readonly exitCode: number;
  readonly signal?: string;
}

export interface CommandOptions {
  readonly signal: AbortSignal;
  readonly onOutput?: (bytes: Uint8Array, kind: OutputKind) => void;
}

/** An abort kills it. AgentError: it could not be started, or the guest is gone. */
export async function runCommand(
  agent: AgentClient,
  command: GuestCommand,
  options: CommandOptions,
): Promise<CommandEnd> {
  const child = await agent.spawn({ ...command, stdin: false }, options.signal);
  return followCommand(agent, child, options);
}

export async function followCommand(
  agent: AgentClient,
  child: AgentProcess,
  { signal, onOutput }: CommandOptions,
): Promise<CommandEnd> {
  const onAbort = (): void => {
    // The guest may not answer any more; whoever aborts ends it as a whole.
    agent.signal(child.pid, 'SIGKILL').catch(() => {});
    child.detach();
  };
  signal.addEventListener('abort', onAbort, { once: true });
  try {
    throwIfAborted(signal);
    for await (const output of child.output) {
      if (output.type === 'exit') {
        const { exitCode, signal: by } = output;
        return { exitCode, ...(by === undefined ? {} : { signal: by }) };
      }
      onOutput?.(output.bytes, output.kind === KIND.STDERR ? 'stderr' : 'stdout');
    }
    throw new Error('a command was lost before it ended');
  } catch (error) {
    throwIfAborted(signal);
    throw error;
  } finally {
    signal.removeEventListener('abort', onAbort);
  }
}

/** As E2B tells it. */
export function describeEnd({ exitCode, signal }: CommandEnd): string {
  return signal === undefined ? `exit status ${exitCode}` : `signal: ${signal}`;
}
