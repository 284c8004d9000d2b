/** Runs one host tool to its end: bounded output, process group killed on abort, errors that quote what the tool said. */
import { spawn } from 'node:child_process';
import { CoppiceError } from '../contract/errors.ts';

export interface RunOptions {
  readonly signal?: AbortSignal;
  readonly cwd?: string;
  readonly env?: Readonly<Record<string, string>>;
  /** Written to stdin, which is then closed. Default: no stdin. */
  readonly input?: string;
  /** Called for each line of stdout and stderr as it comes. */
  readonly onLine?: (line: string) => void;
  /** Milliseconds; default 15 minutes. */
  readonly timeoutMs?: number;
}

export interface RunResult {
  readonly stdout: string;
  readonly stderr: string;
}

/** Bytes kept of each output; of a longer one the end is kept. */
const OUTPUT_LIMIT = 4 * 1024 * 1024;
/** Characters of output quoted in an error. */
const QUOTE_LIMIT = 1_500;

const SYSTEM_PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

/** The environment of every tool: the C locale (outputs are parsed) and a PATH that has the sbin folders. */
export function toolEnvironment(extra: Readonly<Record<string, string>> = {}): Record<string, string> {
  const env: Record<string, string> = {};
  for (const [name, value] of Object.entries(process.env)) {
    if (value !== undefined && !name.startsWith('LC_') && name !== 'LANGUAGE' && name !== 'NODE_OPTIONS')
      env[name] = value;
  }
  env.PATH = process.env.PATH ? `${process.env.PATH}:${SYSTEM_PATH}` : SYSTEM_PATH;
  env.LANG = 'C.UTF-8';
  env.LC_ALL = 'C.UTF-8';
  return { ...env, ...extra };
}

/**
 * Resolves when the tool exits with 0. A tool that is not there: host_unfit; another exit: internal with the end of its
 * stderr; an abort or the time limit: aborted, after the whole process group has been killed and has closed its pipes.
 */
export async function run(command: string, args: readonly string[], options: RunOptions = {}): Promise<RunResult> {
  const { signal, timeoutMs = 900_000 } = options;
  throwIfAborted(signal);
  const child = spawn(command, args, {
    cwd: options.cwd,
    env: toolEnvironment(options.env),
    stdio: [options.input === undefined ? 'ignore' : 'pipe', 'pipe', 'pipe'],
    detached: true,
  });
  const { promise, resolve, reject } = Promise.withResolvers<RunResult>();
  const stdout = collect(child.stdout!, options.onLine);
  const stderr = collect(child.stderr!, options.onLine);
  let ended: 'abort' | 'timeout' | undefined;
  const kill = (why: 'abort' | 'timeout') => {
    ended ??= why;
    if (child.pid !== undefined) killGroup(child.pid);
  };
  const onAbort = () => kill('abort');
  signal?.addEventListener('abort', onAbort, { once: true });
  const timer = setTimeout(() => kill('timeout'), timeoutMs);
  child.on('error', (cause) => {
    const missing = (cause as NodeJS.ErrnoException).code === 'ENOENT';
    reject(
      missing
        ? new CoppiceError('host_unfit', `${command} is not installed`, { cause, details: { command } })
        : new CoppiceError('internal', `${command} could not be started: ${cause.message}`, { cause }),
    );
  });
  child.on('close', (code, by) => {
    if (ended === 'abort') reject(new CoppiceError('aborted', `${command} was stopped`, { cause: signal?.reason }));
    else if (ended === 'timeout')
      reject(new CoppiceError('internal', `${command} took longer than ${timeoutMs / 1000} s`));
    else if (code === 0) resolve({ stdout: stdout(), stderr: stderr() });
    else {
      const said = (stderr().trim() || stdout().trim()).slice(-QUOTE_LIMIT);
      const how = code === null ? `was killed by ${by}` : `failed with ${code}`;
      reject(new CoppiceError('internal', `${command} ${how}: ${said}`, { details: { command, args, code } }));
    }
  });
  if (options.input !== undefined) {
    child.stdin!.on('error', () => {});
    child.stdin!.end(options.input);
  }
  try {
    return await promise;
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener('abort', onAbort);
  }
}

/** Throws CoppiceError aborted when the signal has fired. */
export function throwIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw new CoppiceError('aborted', 'stopped', { cause: signal.reason });
}

function killGroup(pid: number): void {
  try {
    process.kill(-pid, 'SIGKILL');
  } catch {
    // Gone already.
  }
}

function collect(stream: NodeJS.ReadableStream, onLine: ((line: string) => void) | undefined): () => string {
  let text = '';
  let rest = '';
  stream.setEncoding('utf8');
  stream.on('data', (chunk: string) => {
    text += chunk;
    if (text.length > OUTPUT_LIMIT) text = text.slice(-OUTPUT_LIMIT / 2);
    if (onLine === undefined) return;
    const lines = (rest + chunk).split('\n');
    rest = (lines.pop() ?? '').slice(-OUTPUT_LIMIT / 2);
    for (const line of lines) onLine(line);
  });
  return () => text;
}
