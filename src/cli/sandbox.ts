/**
 * `coppice sandbox …`: the official SDK pointed at the running service, and its API for a verb that E2B does not have;
 * nothing here that a user could not do.
 */
import { CommandExitError, Sandbox, type SandboxInfo } from 'e2b';
import { ISOLATION_KEY, type Isolation } from '../contract/node-api.ts';
import { ask } from './ask.ts';
import { runningService, sdkConnection } from './client-environment.ts';
import { type OutputOptions, print, table } from './report.ts';
import { mountsOf } from './volume.ts';

/** As long as the service itself gives a fork. */
const FORK_TIMEOUT_MS = 180_000;

/** The running service, as the SDK wants it. */
export const connection = () => sdkConnection(runningService());

export async function list(options: OutputOptions): Promise<void> {
  const found: SandboxInfo[] = [];
  const pages = Sandbox.list({ ...connection(), limit: 100 });
  while (pages.hasNext) found.push(...(await pages.nextItems()));
  print(options, found, () =>
    table(
      ['SANDBOX', 'TEMPLATE', 'STATE', 'STARTED', 'ENDS'],
      found.map((one) => [
        one.sandboxId,
        one.name ?? one.templateId,
        one.state,
        one.startedAt.toISOString(),
        one.endAt.toISOString(),
      ]),
    ),
  );
}

export async function create(
  template: string | undefined,
  options: OutputOptions & {
    readonly timeout: number;
    readonly isolation?: Isolation;
    readonly autoPause?: boolean;
    readonly volume: readonly string[];
  },
): Promise<void> {
  const sandbox = await Sandbox.create(template ?? 'base', {
    ...connection(),
    timeoutMs: options.timeout * 1000,
    ...(options.autoPause ? { lifecycle: { onTimeout: 'pause' as const } } : {}),
    ...(options.isolation === undefined ? {} : { metadata: { [ISOLATION_KEY]: options.isolation } }),
    ...mountsOf(options.volume),
  });
  print(options, { sandboxID: sandbox.sandboxId }, () => sandbox.sandboxId);
}

export interface ExecOptions extends OutputOptions {
  readonly user?: string;
  readonly cwd?: string;
  readonly timeout: number;
}

export async function exec(id: string, command: readonly string[], options: ExecOptions): Promise<void> {
  const sandbox = await Sandbox.connect(id, connection());
  const line = command.length === 1 ? command[0]! : command.map(quote).join(' ');
  const result = await sandbox.commands
    .run(line, {
      timeoutMs: options.timeout * 1000,
      ...(options.user ? { user: options.user } : {}),
      ...(options.cwd ? { cwd: options.cwd } : {}),
      ...(options.json
        ? {}
        : {
            onStdout: (text: string) => void process.stdout.write(text),
            onStderr: (text: string) => void process.stderr.write(text),
          }),
    })
    .catch((error: unknown) => {
      if (error instanceof CommandExitError) return error;
      throw error;
    });
  if (options.json) {
    print(options, { exitCode: result.exitCode, stdout: result.stdout, stderr: result.stderr }, () => '');
  }
  process.exitCode = result.exitCode;
}

/** For bash, which the sandbox runs commands with. */
function quote(word: string): string {
  return /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`;
}

export async function shell(id: string): Promise<void> {
  const sandbox = await Sandbox.connect(id, connection());
  const { stdin, stdout } = process;
  const terminal = await sandbox.pty.create({
    cols: stdout.columns ?? 80,
    rows: stdout.rows ?? 24,
    timeoutMs: 0,
    onData: (bytes) => void stdout.write(bytes),
  });
  const resize = (): void => {
    void sandbox.pty.resize(terminal.pid, { cols: stdout.columns, rows: stdout.rows }).catch(() => {});
  };
  // Keys go one after the other: a later request must not overtake an earlier one.
  let sending = Promise.resolve();
  const send = (bytes: Buffer): void => {
    sending = sending.then(() => sandbox.pty.sendInput(terminal.pid, bytes)).catch(() => {});
  };
  if (stdin.isTTY) stdin.setRawMode(true);
  stdin.on('data', send);
  stdout.on('resize', resize);
  try {
    const result = await terminal.wait().catch((error: unknown) => {
      if (error instanceof CommandExitError) return error;
      throw error;
    });
    process.exitCode = result.exitCode;
  } finally {
    if (stdin.isTTY) stdin.setRawMode(false);
    stdin.off('data', send);
    stdin.pause();
    stdout.off('resize', resize);
  }
}

export async function kill(ids: readonly string[], options: OutputOptions): Promise<void> {
  const outcomes = await Promise.all(
    ids.map(async (id) => ({ sandboxID: id, killed: await Sandbox.kill(id, connection()) })),
  );
  print(options, outcomes, () =>
    outcomes.map((one) => `${one.sandboxID}: ${one.killed ? 'killed' : 'not found'}`).join('\n'),
  );
  if (outcomes.some((one) => !one.killed)) process.exitCode = 1;
}

export async function pause(
  ids: readonly string[],
  options: OutputOptions & { readonly memory: boolean },
): Promise<void> {
  const keep = options.memory ? {} : { keepMemory: false };
  const outcomes = await Promise.all(
    ids.map(async (id) => ({ sandboxID: id, paused: await Sandbox.pause(id, { ...connection(), ...keep }) })),
  );
  print(options, outcomes, () =>
    outcomes.map((one) => `${one.sandboxID}: ${one.paused ? 'paused' : 'paused already'}`).join('\n'),
  );
}

export async function resume(
  ids: readonly string[],
  options: OutputOptions & { readonly timeout: number; readonly memory: boolean },
): Promise<void> {
  const wish = {
    timeoutMs: options.timeout * 1000,
    ...(options.memory ? {} : { onResume: 'reboot' as const }),
  };
  // E2B's verb for it: one that runs is left running.
  await Promise.all(ids.map((id) => Sandbox.connect(id, { ...connection(), ...wish })));
  print(
    options,
    ids.map((sandboxID) => ({ sandboxID, state: 'running' })),
    () => ids.map((id) => `${id}: running`).join('\n'),
  );
}

export async function fork(
  id: string,
  options: OutputOptions & { readonly count: number; readonly timeout: number },
): Promise<void> {
  const made = await Sandbox.fork(id, {
    ...connection(),
    count: options.count,
    timeoutMs: options.timeout * 1000,
    // The SDK's own limit of a minute is short of many emulated machines.
    requestTimeoutMs: FORK_TIMEOUT_MS,
  });
  const outcomes = made.map((one) => (one instanceof Error ? { error: one.message } : { sandboxID: one.sandboxId }));
  print(options, outcomes, () => outcomes.map((one) => one.sandboxID ?? `not made: ${one.error}`).join('\n'));
  if (outcomes.some((one) => one.sandboxID === undefined)) process.exitCode = 1;
}

export async function rollback(id: string, snapshotID: string, options: OutputOptions): Promise<void> {
  await ask('POST', `/sandboxes/${encodeURIComponent(id)}/rollback`, { snapshotID });
  print(options, { sandboxID: id, snapshotID, state: 'running' }, () => `${id}: running, as it was in ${snapshotID}`);
}
