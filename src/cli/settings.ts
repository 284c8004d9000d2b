/** What the environment says, read in one place and checked. Options of the command line win over it. */

import { CoppiceError } from '../contract/errors.ts';
import { readLocalKey } from '../control/local-key.ts';
import { defaultHomeFolder } from '../store/home.ts';

export interface Settings {
  readonly homeFolder: string;
  readonly host: string;
  readonly port: number;
  /** Hot entries per template at rest and at most. */
  readonly pool: { readonly least: number; readonly most: number };
  /** Domains answered beside localhost, e.g. for `<port>-<id>.<domain>`. */
  readonly domains: readonly string[];
  /** MiB that sandboxes may claim together; undefined: a share of the host's memory. */
  readonly memoryBudgetMB: number | undefined;
}

export function readSettings(options: { readonly port?: number; readonly host?: string } = {}): Settings {
  const { env } = process;
  return {
    homeFolder: defaultHomeFolder(),
    host: options.host ?? env.COPPICE_HOST ?? '127.0.0.1',
    port: options.port ?? whole('COPPICE_PORT', 3000, 0, 65_535),
    pool: { least: whole('COPPICE_POOL', 2, 0, 1_000), most: whole('COPPICE_POOL_MOST', 12, 0, 1_000) },
    domains: (env.COPPICE_DOMAIN ?? '')
      .split(',')
      .map((domain) => domain.trim())
      .filter(Boolean),
    memoryBudgetMB: env.COPPICE_MEMORY_MB === undefined ? undefined : whole('COPPICE_MEMORY_MB', 0, 64, 2 ** 30),
  };
}

function whole(name: string, fallback: number, least: number, most: number): number {
  const text = process.env[name];
  if (text === undefined || text === '') return fallback;
  const value = Number(text);
  if (!Number.isInteger(value) || value < least || value > most) {
    throw new CoppiceError('bad_request', `${name} must be a whole number from ${least} to ${most}, not ${text}`);
  }
  return value;
}

/** The three variables that point any E2B SDK here. */
export interface ClientEnvironment {
  readonly E2B_API_URL: string;
  readonly E2B_SANDBOX_URL: string;
  readonly E2B_API_KEY: string;
}

export function clientEnvironment(host: string, port: number, apiKey: string): ClientEnvironment {
  const reachable = host === '0.0.0.0' || host === '::' ? '127.0.0.1' : host;
  const url = `http://${reachable.includes(':') ? `[${reachable}]` : reachable}:${port}`;
  return { E2B_API_URL: url, E2B_SANDBOX_URL: url, E2B_API_KEY: apiKey };
}

/** How a verb that talks to the running service finds it: the caller's E2B_* first, then this host's own. */
export function runningService(): ClientEnvironment {
  const settings = readSettings();
  const apiKey = process.env.E2B_API_KEY ?? readLocalKey(settings.homeFolder);
  if (!apiKey)
    throw new CoppiceError('unauthorized', `no API key: E2B_API_KEY is not set and ${settings.homeFolder} holds none`);
  const own = clientEnvironment(settings.host, settings.port, apiKey);
  return {
    E2B_API_URL: process.env.E2B_API_URL ?? own.E2B_API_URL,
    E2B_SANDBOX_URL: process.env.E2B_SANDBOX_URL ?? own.E2B_SANDBOX_URL,
    E2B_API_KEY: apiKey,
  };
}
