/**
 * Inside this process, the names of the domain lead to this host and its CA is trusted: so Coppice's own use of the SDK
 * speaks to the service that runs here, by its names and through its TLS, whatever DNS says or does not say yet.
 */
import dns from 'node:dns';
import { existsSync, readFileSync } from 'node:fs';
import { getCACertificates, setDefaultCACertificates } from 'node:tls';
import { reachable, type Settings, withoutPort } from './settings.ts';

const { lookup } = dns;

/** @param authority PEM file of the CA; without one, what Node trusts anyway */
export function leadHere({ host, domains }: Pick<Settings, 'host' | 'domains'>, authority?: string): void {
  const here = reachable(host);
  const suffixes = domains.map((domain) => `.${withoutPort(domain)}`);
  const redirect = (name: string, ...rest: readonly unknown[]): unknown =>
    Reflect.apply(lookup, dns, [suffixes.some((suffix) => name.toLowerCase().endsWith(suffix)) ? here : name, ...rest]);
  // The SDK brings its own HTTP client, which takes no resolver; under it all, Node's sockets ask this function.
  Object.assign(dns, { lookup: redirect });
  if (authority !== undefined && existsSync(authority))
    setDefaultCACertificates([...getCACertificates('default'), readFileSync(authority, 'utf8')]);
}
