/** The service proves itself through the official SDKs, the way a stranger would use it. */
import { subscribe, unsubscribe } from 'node:diagnostics_channel';
import { setTimeout as sleep } from 'node:timers/promises';
import { Sandbox as CodeSandbox } from '@e2b/code-interpreter';
import { type ClientEnvironment, sdkConnection } from './client-environment.ts';

export interface Proof {
  readonly ok: boolean;
  /** What ran and what came of it, one line each, for the panel. */
  readonly lines: readonly { readonly what: string; readonly outcome: string; readonly ms: number }[];
  /** Client's clock: call to answer, SDK included. */
  readonly create_ms: number;
  readonly first_exec_ms: number;
  readonly first_run_code_ms: number;
  /** The server's own stages of the create, from its Server-Timing header. */
  readonly receipt: Readonly<Record<string, number>>;
  readonly error?: string;
}

const PICTURE = `import matplotlib.pyplot as plt
plt.plot([1, 2, 3], [x, x * 2, x * 3])
plt.title('regrown')
plt.show()`;

/** One request may take this long; emulated guests on a loaded host are slow. */
const REQUEST_MS = 120_000;

/** `jails`: this host runs them, so one is part of the proof. */
export async function prove(
  client: ClientEnvironment,
  { jails, signal }: { readonly jails: boolean; readonly signal: AbortSignal },
): Promise<Proof> {
  const lines: { what: string; outcome: string; ms: number }[] = [];
  const timings = { create_ms: 0, first_exec_ms: 0, first_run_code_ms: 0 };
  let receipt: Record<string, number> = {};
  let sandbox: CodeSandbox | undefined;
  const timed = async <T>(
    what: string,
    work: () => Promise<T>,
    check: (value: T) => string | undefined,
  ): Promise<number> => {
    signal.throwIfAborted();
    const begun = performance.now();
    const value = await work();
    const ms = Math.round((performance.now() - begun) * 10) / 10;
    const outcome = check(value);
    if (outcome === undefined)
      throw new Error(`${what}: not what was expected: ${JSON.stringify(value)?.slice(0, 300)}`);
    lines.push({ what, outcome, ms });
    return ms;
  };
  const stopListening = watchCreates((found) => {
    if (Object.keys(receipt).length === 0) receipt = found;
  });
  const connection = {
    ...sdkConnection(client),
    timeoutMs: 300_000,
    requestTimeoutMs: REQUEST_MS,
  };
  // It would win over the names of the domain.
  delete process.env.E2B_SANDBOX_URL;
  try {
    timings.create_ms = await timed(
      "Sandbox.create('code-interpreter-v1')",
      async () => {
        sandbox = await CodeSandbox.create('code-interpreter-v1', connection);
        return sandbox;
      },
      (made) => made.sandboxId,
    );
    const box = sandbox!;
    const code = { timeoutMs: REQUEST_MS, requestTimeoutMs: REQUEST_MS };
    timings.first_exec_ms = await timed(
      "commands.run('echo hello')",
      () => box.commands.run('echo hello', code),
      (result) => (result.stdout === 'hello\n' && result.exitCode === 0 ? 'hello' : undefined),
    );
    timings.first_run_code_ms = await timed(
      "runCode('x = 41; x')",
      () => box.runCode('x = 41\nx', code),
      (run) => (run.text === '41' ? '41' : undefined),
    );
    await timed(
      "runCode('x + 1') keeps state",
      () => box.runCode('x + 1', code),
      (run) => (run.text === '42' ? '42' : undefined),
    );
    await timed(
      'runCode(a matplotlib figure)',
      () => box.runCode(PICTURE, code),
      (run) => {
        const png = run.results.find((result) => result.png)?.png;
        if (!png?.startsWith('iVBOR')) return undefined;
        return `a picture, ${Math.round((png.length * 3) / 4 / 1024)} KiB of PNG`;
      },
    );
    await timed(
      'files.write, files.read',
      async () => {
        await box.files.write('note.txt', 'as trees regrow');
        return box.files.read('note.txt');
      },
      (text) => (text === 'as trees regrow' ? text : undefined),
    );
    await timed(
      'sandbox.kill()',
      () => box.kill(),
      (killed) => (killed ? 'gone' : undefined),
    );
    sandbox = undefined;
    await timed(
      'isRunning() after the kill',
      () => box.isRunning(),
      (running) => (running ? undefined : 'false'),
    );
    if (jails) {
      await timed(
        "Sandbox.create('base-jail')",
        async () => {
          sandbox = await CodeSandbox.create('base-jail', connection);
          return sandbox;
        },
        (made) => made.sandboxId,
      );
      const jail = sandbox!;
      await timed(
        'echo hello, in the jail',
        () => jail.commands.run('echo hello', code),
        (result) => (result.stdout === 'hello\n' ? 'hello' : undefined),
      );
      await timed(
        'sandbox.kill()',
        () => jail.kill(),
        (killed) => (killed ? 'gone' : undefined),
      );
      sandbox = undefined;
    }
    return { ok: true, lines, ...timings, receipt };
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    return { ok: false, lines, ...timings, receipt, error: message };
  } finally {
    stopListening();
    await Promise.race([sandbox?.kill().catch(() => false), sleep(5_000, undefined, { ref: false })]);
  }
}

/** The SDK does not show response headers: the create's Server-Timing is read where undici publishes it. */
function watchCreates(found: (receipt: Record<string, number>) => void): () => void {
  const listener = (message: unknown): void => {
    const { request, response } = message as {
      request: { method: string; path: string };
      response: { headers: readonly Buffer[] };
    };
    if (request.method !== 'POST' || !request.path.endsWith('/sandboxes')) return;
    for (let index = 0; index + 1 < response.headers.length; index += 2) {
      if (response.headers[index]!.toString('latin1').toLowerCase() !== 'server-timing') continue;
      found(parseServerTiming(response.headers[index + 1]!.toString('latin1')));
    }
  };
  subscribe('undici:request:headers', listener);
  return () => void unsubscribe('undici:request:headers', listener);
}

/** `name;dur=1.2, other;dur=3` as milliseconds by name. */
function parseServerTiming(header: string): Record<string, number> {
  const stages: Record<string, number> = {};
  for (const part of header.split(',')) {
    const match = /^\s*([\w-]+)\s*;(?:.*;)?\s*dur=([\d.]+)/.exec(part);
    if (match) stages[match[1]!] = Number(match[2]);
  }
  return stages;
}
