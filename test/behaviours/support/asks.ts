/** Short ways to ask a sandbox something. */
import { setTimeout as sleep } from 'node:timers/promises';
import { CommandExitError, type CommandResult, type CommandStartOpts, type Sandbox } from 'e2b';

/** Wide, since emulated guests under load are slow. */
export const PATIENT = { timeoutMs: 120_000, requestTimeoutMs: 120_000 } as const;

type Asked = Omit<CommandStartOpts, 'background'>;

/** Runs a line of shell, whatever its exit code. */
export async function ask(sandbox: Sandbox, line: string, options: Asked = {}): Promise<CommandResult> {
  try {
    return await sandbox.commands.run(line, { ...PATIENT, ...options });
  } catch (error) {
    if (error instanceof CommandExitError) return error;
    throw error;
  }
}

/** What a line of shell printed, without the last line end. It must succeed. */
export async function say(sandbox: Sandbox, line: string, options: Asked = {}): Promise<string> {
  return (await sandbox.commands.run(line, { ...PATIENT, ...options })).stdout.replace(/\n$/, '');
}

/** Runs Python with the program on its command line. */
export function python(sandbox: Sandbox, program: string, options: Asked = {}): Promise<CommandResult> {
  return ask(sandbox, `python3 - <<'PROGRAM'\n${program}\nPROGRAM`, options);
}

/** Starts a command in the background and leaves it be. */
export async function start(sandbox: Sandbox, line: string, user?: string): Promise<number> {
  const handle = await sandbox.commands.run(line, { background: true, timeoutMs: 0, ...(user ? { user } : {}) });
  // It may end with its sandbox; nobody waits for it.
  handle.wait().catch(() => {});
  return handle.pid;
}

/** Asks again until the answer will do, with a deadline. */
export async function eventually<T>(
  what: string,
  question: () => Promise<T>,
  fits: (answer: T) => boolean,
  deadlineMs = 60_000,
): Promise<T> {
  const end = Date.now() + deadlineMs;
  for (;;) {
    const answer = await question();
    if (fits(answer)) return answer;
    if (Date.now() > end) throw new Error(`not within ${deadlineMs} ms: ${what}; last: ${JSON.stringify(answer)}`);
    await sleep(50);
  }
}
