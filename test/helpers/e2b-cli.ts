/** E2B's own command line, unmodified, with a home of its own. */
import { spawn } from 'node:child_process';
import { join } from 'node:path';

const PROGRAM = join(import.meta.dirname, '..', '..', 'node_modules', '@e2b', 'cli', 'dist', 'index.js');

export interface CliResult {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

export interface CliOptions {
  /** The whole environment beside PATH. */
  readonly env: Readonly<Record<string, string>>;
  readonly stdin?: string;
  /** Runs it in a terminal, where both outputs are one. */
  readonly terminal?: boolean;
  /** Sees standard output as it grows. */
  onStdout?(sofar: string): void;
}

export function e2b(args: readonly string[], options: CliOptions): Promise<CliResult> {
  const words = [process.execPath, PROGRAM, ...args];
  const [file, ...rest] = options.terminal
    ? [
        'script',
        '--quiet',
        '--return',
        '--flush',
        '--command',
        `stty rows 24 cols 80; exec ${words.join(' ')}`,
        '/dev/null',
      ]
    : words;
  const child = spawn(file!, rest, {
    // In a terminal it would ask npm's registry for a newer one, unless npm runs it.
    env: { PATH: process.env.PATH ?? '', TERM: 'xterm', npm_config_user_agent: 'npm', ...options.env },
    timeout: 120_000,
    killSignal: 'SIGKILL',
  });
  let stdout = '';
  let stderr = '';
  child.stdout.on('data', (chunk: Buffer) => {
    stdout += chunk.toString();
    options.onStdout?.(stdout);
  });
  child.stderr.on('data', (chunk: Buffer) => {
    stderr += chunk.toString();
  });
  child.stdin.on('error', () => {});
  if (options.terminal) child.stdin.write(options.stdin ?? '');
  else child.stdin.end(options.stdin);
  return new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('close', (code) => resolve({ code, stdout, stderr }));
  });
}
