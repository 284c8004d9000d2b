/** A guest that has written memory: a program fills so much of its own with random bytes, and stays. */
import type { AgentClient } from '../../src/channel/agent.ts';
import type { Command } from './exec.ts';

/** Ends when the program has filled its memory, and fails when it has not after a minute. */
export function fillMemory(mib: number): Command {
  const program = `import os, time; kept = os.urandom(${mib} << 20); print("filled", flush=True); time.sleep(1e6)`;
  const script = `setsid python3 -c '${program}' >/tmp/filled 2>&1 </dev/null &
for turn in $(seq 600); do grep -q filled /tmp/filled && exit 0; sleep 0.1; done; exit 1`;
  return { cmd: '/bin/bash', args: ['-c', script] };
}

/** As a request to envd would, without one. */
export async function spawnAndWait(agent: AgentClient, command: Command, signal: AbortSignal): Promise<void> {
  const { output } = await agent.spawn({ ...command, user: 'user', stdin: false }, signal);
  let code: number | undefined;
  for await (const item of output) if (item.type === 'exit') code = item.exitCode;
  if (code !== 0) throw new Error(`${command.cmd} ended with ${code}`);
}
