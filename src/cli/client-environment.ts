/** What points an E2B SDK at a service: variables for its user, the same as options for our own use of it. */
import { CoppiceError } from '../contract/errors.ts';
import { readLocalKey } from '../control/local-key.ts';
import { openHome } from '../store/home.ts';
import { type Certificates, openCertificates } from './certificates.ts';
import { leadHere } from './lead-here.ts';
import { reachable, readSettings, type Settings, urlHost } from './settings.ts';

/** By two URLs. Names of sandboxes are not used. */
export interface PlainEnvironment {
  readonly E2B_API_URL: string;
  readonly E2B_SANDBOX_URL: string;
  readonly E2B_API_KEY: string;
}

/** By names under a domain, over HTTPS: as E2B itself is reached. */
export interface DomainEnvironment {
  readonly E2B_DOMAIN: string;
  readonly E2B_API_KEY: string;
  /** Node adds the CA in this file to those that it trusts. */
  readonly NODE_EXTRA_CA_CERTS?: string;
  /** Python and curl trust what is in this file alone. */
  readonly SSL_CERT_FILE?: string;
}

export type ClientEnvironment = PlainEnvironment | DomainEnvironment;

/** @param port that control listens on */
export function clientEnvironment(
  { host, domains, tls }: Pick<Settings, 'host' | 'domains' | 'tls'>,
  port: number,
  apiKey: string,
  certificates?: Pick<Certificates, 'authority' | 'bundle'>,
): ClientEnvironment {
  if (tls && domains[0])
    return {
      E2B_DOMAIN: publicDomain(domains[0], port),
      E2B_API_KEY: apiKey,
      ...(certificates?.authority ? { NODE_EXTRA_CA_CERTS: certificates.authority } : {}),
      ...(certificates?.bundle ? { SSL_CERT_FILE: certificates.bundle } : {}),
    };
  const url = `http://${urlHost(reachable(host))}:${port}`;
  return { E2B_API_URL: url, E2B_SANDBOX_URL: url, E2B_API_KEY: apiKey };
}

/** How clients write a domain that is reached over HTTPS. With a port of its own, its owner knows what stands before us. */
export function publicDomain(domain: string, port: number): string {
  if (domain.includes(':')) return domain.replace(/:443$/, '');
  return port === 443 ? domain : `${domain}:${port}`;
}

export const apiUrl = (client: ClientEnvironment): string =>
  'E2B_DOMAIN' in client ? `https://api.${client.E2B_DOMAIN}` : client.E2B_API_URL;

/** Options of the SDK. In domain mode it is left to find the sandboxes by name, as it does for E2B's own. */
export const sdkConnection = (client: ClientEnvironment) => ({
  apiUrl: apiUrl(client),
  ...('E2B_DOMAIN' in client ? { domain: client.E2B_DOMAIN } : { sandboxUrl: client.E2B_SANDBOX_URL }),
  apiKey: client.E2B_API_KEY,
  validateApiKey: false,
});

/**
 * How a verb that talks to the running service finds it: the caller's E2B_* first, then this host's own. The latter's
 * names lead here from now on, for this process.
 */
export function runningService(): ClientEnvironment {
  const settings = readSettings();
  const { E2B_API_URL, E2B_SANDBOX_URL, E2B_DOMAIN, E2B_API_KEY } = process.env;
  const apiKey = E2B_API_KEY ?? readLocalKey(settings.homeFolder);
  if (!apiKey)
    throw new CoppiceError('unauthorized', `no API key: E2B_API_KEY is not set and ${settings.homeFolder} holds none`);
  if (E2B_API_URL === undefined && E2B_SANDBOX_URL === undefined) {
    if (E2B_DOMAIN) return { E2B_DOMAIN, E2B_API_KEY: apiKey };
    if (settings.tls) {
      const certificates = openCertificates(openHome(settings.homeFolder), settings);
      leadHere(settings, certificates?.authority);
      return clientEnvironment(settings, settings.port, apiKey, certificates);
    }
  }
  const own = clientEnvironment({ ...settings, tls: undefined }, settings.port, apiKey) as PlainEnvironment;
  return {
    E2B_API_URL: E2B_API_URL ?? own.E2B_API_URL,
    E2B_SANDBOX_URL: E2B_SANDBOX_URL ?? own.E2B_SANDBOX_URL,
    E2B_API_KEY: apiKey,
  };
}
