/** The hooks that a sandbox's owner put into it: run by its agent at the turns of its life, bounded, and never in the way. */
import type { AgentClient } from '../channel/agent.ts';
import type { HookEvent } from '../channel/protocol.ts';
import type { Log } from '../telemetry/log.ts';

/** All hooks of one event together. */
const HOOKS_MS = 2_000;

/** What fails is logged: a hook cannot refuse what its owner asked for. */
export async function runHooks(agent: AgentClient, event: HookEvent, log: Log, signal?: AbortSignal): Promise<void> {
  try {
    const { ran, left } = await agent.hooks(event, { timeoutMs: HOOKS_MS, ...(signal ? { signal } : {}) });
    for (const hook of ran) if (hook.exitCode !== 0) log.warn({ event, ...hook }, 'a hook of a sandbox failed');
    if (left > 0) log.warn({ event, left }, 'hooks of a sandbox had no turn');
  } catch (error) {
    log.warn({ error, event }, 'hooks of a sandbox could not be run');
  }
}
