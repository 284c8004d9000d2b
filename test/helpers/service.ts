/** The whole service for one test file: a home of its own on the templates that `bin/test` has built. */
import { execFile } from 'node:child_process';
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { leaksOfHome } from '../../src/cli/leaks.ts';
import { localKey } from '../../src/cli/local-service.ts';
import { Service } from '../../src/cli/service.ts';
import type { LeakReport } from '../../src/contract/node-api.ts';
import { connectNodeApi } from '../../src/contract/node-rpc/client.ts';
import { type Home, openHome } from '../../src/store/home.ts';
import { createLog, silentLog } from '../../src/telemetry/log.ts';
import { templateIDOf } from '../../src/templates/definitions.ts';
import { until } from './until.ts';

export interface TestService {
  readonly home: Home;
  readonly port: number;
  readonly url: string;
  readonly apiKey: string;
  /** For `Sandbox.create(template, sdk)` of any generation. */
  readonly sdk: {
    readonly apiUrl: string;
    readonly sandboxUrl: string;
    readonly apiKey: string;
    readonly requestTimeoutMs: number;
  };
  readonly node: ReturnType<typeof connectNodeApi>;
  /** Pid of the node process that serves now. */
  nodePid(): number;
  hot(count: number, template?: string): Promise<void>;
  leaks(): Promise<LeakReport>;
  /** Stops it and says what is left on the host in its name. */
  stop(): Promise<LeakReport>;
}

export interface StartOptions {
  /** Default: any that is free, and another when control is started again. */
  readonly port?: number;
  /** As of the supervisor. */
  readonly restartMs?: readonly number[];
  /** Is given the home before anything is started in it; what it returns is called when all of that has ended. */
  readonly prepare?: (home: Home) => () => void;
}

/** Where `bin/test` keeps the built templates. */
export const TEMPLATES_HOME = process.env.COPPICE_TEST_HOME ?? '/var/tmp/coppice-test';

/** A fresh home that shares the built templates (all, or those named), in a folder short enough for unix sockets. */
export function freshHome(templates?: readonly string[]): Home {
  if (!existsSync(join(TEMPLATES_HOME, 'templates')))
    throw new Error(`no templates in ${TEMPLATES_HOME}; run bin/test`);
  const folder = mkdtempSync(join(tmpdir(), 'cpt'));
  const share = (path: string): void => symlinkSync(join(TEMPLATES_HOME, path), join(folder, path));
  share('images');
  if (templates === undefined) share('templates');
  else {
    mkdirSync(join(folder, 'templates'), { mode: 0o755 });
    for (const name of templates) share(join('templates', templateIDOf(name)));
  }
  mkdirSync(join(folder, 'node'), { recursive: true, mode: 0o700 });
  // Measured once for all: a busy test run is no time to measure a host.
  copyFileSync(join(TEMPLATES_HOME, 'node', 'probe.json'), join(folder, 'node', 'probe.json'));
  return openHome(folder);
}

/**
 * One environment for all services of a test file: `env` holds until its process ends.
 * @param templates names of built-in templates, default all; each keeps hot machines that cost time to grow.
 */
export async function startService(
  env: Readonly<Record<string, string>> = {},
  templates?: readonly string[],
  { port: wanted = 0, restartMs, prepare }: StartOptions = {},
): Promise<TestService> {
  const home = freshHome(templates);
  const undo = prepare?.(home) ?? (() => {});
  // Its processes take the environment from this one, also when they are started anew: it stays.
  Object.assign(process.env, env);
  const log = createLog({ name: 'supervisor', file: join(home.logs, 'supervisor.log') });
  const pace = restartMs ? { restartMs } : {};
  const service = new Service({ home, host: '127.0.0.1', port: wanted, log, ...pace });
  try {
    const port = await service.start(AbortSignal.timeout(120_000));
    const url = `http://127.0.0.1:${port}`;
    const apiKey = localKey(home);
    const node = connectNodeApi(home.nodeSocket);
    return {
      home,
      port,
      url,
      apiKey,
      sdk: { apiUrl: url, sandboxUrl: url, apiKey, requestTimeoutMs: 120_000 },
      node,
      nodePid: () => service.nodePid,
      hot: (count, template) =>
        until(
          `${count} hot entries`,
          async () => {
            const templates = await node.listTemplates();
            return templates.every((one) => (template && !one.aliases.includes(template)) || one.hot >= count);
          },
          120_000,
        ),
      leaks: () => node.leaks(),
      stop: async () => {
        await node.close();
        await service.stop();
        const report = await leaksOfHome(home, silentLog);
        undo();
        rmSync(home.folder, { recursive: true, force: true });
        return report;
      },
    };
  } catch (error) {
    await service.stop();
    undo();
    const tail = (name: string): string => {
      const file = join(home.logs, `${name}.log`);
      return existsSync(file) ? readFileSync(file, 'utf8').slice(-2_000) : '';
    };
    throw new Error(`the service did not start: ${(error as Error).message}\n${tail('node')}\n${tail('control')}`, {
      cause: error,
    });
  }
}

const exec = promisify(execFile);

/** Runs bin/coppice and gives what it printed; a failure has `code`, `stdout` and `stderr`. */
export function coppice(
  args: readonly string[],
  env: Readonly<Record<string, string>>,
): Promise<{ stdout: string; stderr: string }> {
  const program = join(import.meta.dirname, '..', '..', 'bin', 'coppice');
  return exec(program, args, { env: { ...process.env, ...env }, maxBuffer: 64 * 2 ** 20 });
}
