/** What the environment says, read in one place and checked. Options of the command line win over it. */

import { isIP } from 'node:net';
import { resolve } from 'node:path';
import { CoppiceError } from '../contract/errors.ts';
import type { CertificateFiles } from '../edge/certificate.ts';
import { defaultHomeFolder } from '../store/home.ts';

export interface Settings {
  readonly homeFolder: string;
  readonly host: string;
  readonly port: number;
  /** Hot entries per template at rest and at most. */
  readonly pool: { readonly least: number; readonly most: number };
  /** Domains answered beside localhost, e.g. for `<port>-<id>.<domain>`; a port is how clients reach it, when not ours. */
  readonly domains: readonly string[];
  /** The port speaks TLS, with a certificate of Coppice's own CA (`own`) or with the owner's. */
  readonly tls: 'own' | CertificateFiles | undefined;
  /** MiB of a volume that is made from now on. */
  readonly volumeMB: number;
  /** MiB that sandboxes may claim together; undefined: a share of the host's memory. */
  readonly memoryBudgetMB: number | undefined;
  /** `host` or `host:port` of registries of images that have no TLS; these alone may be on this host. */
  readonly insecureRegistries: readonly string[];
  /** Addresses and networks that webhooks may lead to beside what is public. */
  readonly webhookAllow: readonly string[];
}

/** What the command line says of them. */
export interface SettingsOptions {
  readonly port?: number;
  readonly host?: string;
  /** Several with commas between. */
  readonly domain?: string;
  readonly tls?: boolean;
  readonly tlsCert?: string;
  readonly tlsKey?: string;
}

export function readSettings(options: SettingsOptions = {}): Settings {
  const { env } = process;
  const domains = domainsIn(options.domain ?? env.COPPICE_DOMAIN ?? '');
  return {
    homeFolder: defaultHomeFolder(),
    host: options.host ?? env.COPPICE_HOST ?? '127.0.0.1',
    port: options.port ?? whole('COPPICE_PORT', 3000, 0, 65_535),
    pool: { least: whole('COPPICE_POOL', 2, 0, 1_000), most: whole('COPPICE_POOL_MOST', 12, 0, 1_000) },
    domains,
    tls: tlsOf(options, domains),
    memoryBudgetMB: env.COPPICE_MEMORY_MB === undefined ? undefined : whole('COPPICE_MEMORY_MB', 0, 64, 2 ** 30),
    volumeMB: whole('COPPICE_VOLUME_MB', 4_096, 16, 2 ** 24),
    webhookAllow: (env.COPPICE_WEBHOOK_ALLOW ?? '').split(/[\s,]+/).filter(Boolean),
    insecureRegistries: (env.COPPICE_INSECURE_REGISTRIES ?? '').split(/[\s,]+/).filter(Boolean),
  };
}

const LABEL = '[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?';
const DOMAIN = new RegExp(`^(?=.{1,200}$)${LABEL}(?:\\.${LABEL})*(?::\\d{1,5})?$`);

function domainsIn(text: string): string[] {
  const domains = text.split(',').map((domain) => domain.trim().toLowerCase());
  for (const domain of domains) {
    if (domain !== '' && !DOMAIN.test(domain))
      throw new CoppiceError('bad_request', `COPPICE_DOMAIN or --domain has what is no domain: ${domain}`);
  }
  return domains.filter(Boolean);
}

/** Where a server that is bound to `host` is reached from this host. */
export const reachable = (host: string): string => (host === '0.0.0.0' ? '127.0.0.1' : host === '::' ? '::1' : host);

export const urlHost = (address: string): string => (address.includes(':') ? `[${address}]` : address);

/** The domain as certificates and DNS know it. */
export const withoutPort = (domain: string): string => domain.replace(/:\d+$/, '');

function tlsOf(options: SettingsOptions, domains: readonly string[]): Settings['tls'] {
  const certificate = options.tlsCert ?? (process.env.COPPICE_TLS_CERT || undefined);
  const key = options.tlsKey ?? (process.env.COPPICE_TLS_KEY || undefined);
  if ((certificate === undefined) !== (key === undefined))
    throw new CoppiceError('bad_request', 'a certificate and its key go together: --tls-cert and --tls-key');
  const files = certificate && key ? { certificate: resolve(certificate), key: resolve(key) } : undefined;
  if (!files && !(options.tls ?? yes('COPPICE_TLS'))) return undefined;
  if (domains.length === 0) throw new CoppiceError('bad_request', 'TLS needs a domain: --domain or COPPICE_DOMAIN');
  for (const domain of domains.map(withoutPort)) {
    if (!domain.includes('.') || isIP(domain))
      throw new CoppiceError(
        'bad_request',
        `no client accepts a certificate for *.${domain}; take a domain of two labels or more, such as coppice.localhost`,
      );
  }
  return files ?? 'own';
}

function yes(name: string): boolean {
  const text = process.env[name] ?? '';
  if (/^(1|true|yes|on)$/i.test(text)) return true;
  if (/^(|0|false|no|off)$/i.test(text)) return false;
  throw new CoppiceError('bad_request', `${name} must be 1 or 0, not ${text}`);
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
