/** A template's own program: started, and waited for until it says that it is ready. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { AgentClient } from '../channel/agent.ts';
import { CoppiceError } from '../contract/errors.ts';
import { throwIfAborted } from '../templates/run.ts';
import { describeEnd, followCommand, type OutputKind, runCommand } from './guest-commands.ts';
import type { StartProgram } from './runtime.ts';

export interface StartOptions {
  readonly signal: AbortSignal;
  readonly onOutput?: (bytes: Uint8Array, kind: OutputKind) => void;
}

/**
 * Resolves when it is ready; it goes on by itself. start_failed: it ended with a failure, or was not ready in time. Where
 * nobody says how to ask whether it is ready, it is not waited for.
 */
export async function startProgram(agent: AgentClient, start: StartProgram, options: StartOptions): Promise<void> {
  const { onOutput } = options;
  const over = new AbortController();
  const signal = AbortSignal.any([options.signal, over.signal]);
  const child = start.command && (await agent.spawn({ ...start.command, stdin: false }, options.signal));
  // Its end is told by throwing; a program that puts itself into the background ends well.
  const failure = child && followUntil(agent, child, over.signal, onOutput);
  try {
    if (start.ready)
      await Promise.race([untilReady(agent, start, { ...options, signal }), ...(failure ? [failure] : [])]);
  } finally {
    over.abort();
    failure?.catch(() => {});
    child?.detach();
  }
}

/** Never resolves; rejects when the program fails. */
async function followUntil(
  agent: AgentClient,
  child: Awaited<ReturnType<AgentClient['spawn']>>,
  over: AbortSignal,
  onOutput: StartOptions['onOutput'],
): Promise<never> {
  // Its own signal: this one's abort lets go of the program, and does not end it.
  const end = await followCommand(agent, child, {
    signal: new AbortController().signal,
    ...(onOutput ? { onOutput } : {}),
  }).catch((error: unknown) => {
    if (!over.aborted) throw error;
    return { exitCode: 0 };
  });
  if (end.exitCode !== 0 && !over.aborted)
    throw new CoppiceError('start_failed', `the start command failed: ${describeEnd(end)}`);
  return new Promise<never>(() => {});
}

async function untilReady(agent: AgentClient, start: StartProgram, options: StartOptions): Promise<void> {
  const { everyMs, deadlineMs } = start;
  const deadline = AbortSignal.timeout(deadlineMs);
  const signal = AbortSignal.any([options.signal, deadline]);
  for (;;) {
    try {
      const { exitCode } = await runCommand(agent, start.ready!, { signal });
      if (exitCode === 0) return;
      await sleep(everyMs, undefined, { signal });
    } catch (error) {
      throwIfAborted(options.signal);
      if (deadline.aborted)
        throw new CoppiceError('start_failed', `the ready command did not succeed within ${deadlineMs / 1000} s`);
      throw error;
    }
  }
}
