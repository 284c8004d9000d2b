/** Runs one program, arguments unread by any shell: input on stdin, bounded output, a deadline. */
import { spawn } from 'node:child_process';
import { CoppiceError } from '../../contract/errors.ts';

export interface RunOptions {
  readonly input?: string;
  readonly signal?: AbortSignal;
  /** Default 15 000. */
  readonly timeoutMs?: number;
}

export interface RunResult {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

const OUTPUT_LIMIT = 64 * 1024 * 1024;
const PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

/**
 * Resolves with the exit code, whatever it is. Rejects with host_unfit when the program is not installed, with aborted
 * when `signal` fires, and with internal when it outlives the deadline or floods its output.
 */
export function tryRun(command: readonly string[], options: RunOptions = {}): Promise<RunResult> {
  const [program = '', ...args] = command;
  const { promise, resolve, reject } = Promise.withResolvers<RunResult>();
  if (options.signal?.aborted) {
    reject(new CoppiceError('aborted', `${program} was not started`));
    return promise;
  }
  const child = spawn(program, args, {
    stdio: ['pipe', 'pipe', 'pipe'],
    env: { PATH, LC_ALL: 'C' },
    // A process group of its own: whoever ends it ends what it started.
    detached: true,
  });
  const output = { stdout: [] as Buffer[], stderr: [] as Buffer[] };
  let size = 0;
  let fault: CoppiceError | undefined;
  const end = (error: CoppiceError) => {
    fault ??= error;
    endGroup(child.pid);
  };
  const timeoutMs = options.timeoutMs ?? 15_000;
  const timer = setTimeout(() => end(new CoppiceError('internal', `${program} took over ${timeoutMs} ms`)), timeoutMs);
  const onAbort = () => end(new CoppiceError('aborted', `${program} was given up`));
  options.signal?.addEventListener('abort', onAbort, { once: true });
  for (const name of ['stdout', 'stderr'] as const) {
    child[name].on('data', (chunk: Buffer) => {
      size += chunk.length;
      if (size > OUTPUT_LIMIT) end(new CoppiceError('internal', `${program} wrote over ${OUTPUT_LIMIT} bytes`));
      else output[name].push(chunk);
    });
  }
  // A program that ends without reading its input closes the pipe; its exit code says what happened.
  child.stdin.on('error', () => {});
  child.stdin.end(options.input ?? '');
  child.on('error', (error: NodeJS.ErrnoException) => {
    fault ??= new CoppiceError(
      error.code === 'ENOENT' ? 'host_unfit' : 'internal',
      error.code === 'ENOENT' ? `${program} is not installed` : `${program} could not be started`,
      { cause: error },
    );
    finish(-1);
  });
  child.on('close', (code) => finish(code ?? -1));
  function finish(code: number): void {
    clearTimeout(timer);
    options.signal?.removeEventListener('abort', onAbort);
    if (fault) reject(fault);
    else
      resolve({
        code,
        stdout: Buffer.concat(output.stdout).toString('utf8'),
        stderr: Buffer.concat(output.stderr).toString('utf8'),
      });
  }
  return promise;
}

function endGroup(leader: number | undefined): void {
  if (leader === undefined) return;
  try {
    process.kill(-leader, 'SIGKILL');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
  }
}

/** As tryRun, and rejects with internal when the exit code is not 0. Returns stdout. */
export async function run(command: readonly string[], options: RunOptions = {}): Promise<string> {
  const result = await tryRun(command, options);
  if (result.code === 0) return result.stdout;
  const complaint = result.stderr.trim().slice(0, 2000);
  throw new CoppiceError('internal', `${command.join(' ')} failed: ${complaint || `exit code ${result.code}`}`, {
    details: { command: command.join(' '), code: result.code, stderr: complaint },
  });
}
