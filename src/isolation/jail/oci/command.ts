/** A program run to its end. */
import { spawn } from 'node:child_process';

export const COMMAND_DEADLINE_MS = 30_000;

/** Resolves when it has ended well. It inherits nothing of ours but `passed`, as its descriptor 3. */
export async function command(file: string, args: readonly string[], passed?: number): Promise<void> {
  const stdio = ['ignore', 'ignore', 'ignore', ...(passed === undefined ? [] : [passed])] as const;
  const child = spawn(file, args, { stdio: [...stdio], timeout: COMMAND_DEADLINE_MS, killSignal: 'SIGKILL' });
  const [code, signal] = await new Promise<[number | null, string | null]>((resolve, reject) => {
    child.once('error', reject);
    child.once('exit', (...end) => resolve(end));
  });
  if (code !== 0) throw new Error(`${file} ended with ${code ?? signal}`);
}
