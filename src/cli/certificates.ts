/** The certificate of domain mode as the supervisor keeps it: made or found before control starts, looked after since. */
import { authorityIn, ensureAuthority, writeBundle } from '../edge/authority.ts';
import { type Certificate, type CertificateFiles, readCertificate } from '../edge/certificate.ts';
import type { Home } from '../store/home.ts';
import { type Settings, withoutPort } from './settings.ts';

export interface Certificates {
  readonly files: CertificateFiles;
  /** What clients have to trust, where it is a CA of Coppice's own: PEM files. */
  readonly authority?: string;
  readonly bundle?: string;
  /** Makes what is Coppice's own, or renews it when it is time. Throws host_unfit for files that no client would accept. */
  current(signal?: AbortSignal): Promise<Certificate>;
  /** At each start, after `current`. */
  publish(): void;
}

/** undefined where the port speaks no TLS. */
export function openCertificates(
  home: Home,
  { tls, domains }: Pick<Settings, 'tls' | 'domains'>,
): Certificates | undefined {
  const hosts = domains.map(withoutPort);
  if (tls === undefined) return undefined;
  if (tls !== 'own') {
    return { files: tls, current: async () => readCertificate(tls, hosts), publish: () => {} };
  }
  const { authority, bundle, leaf } = authorityIn(home.tls);
  return {
    files: leaf,
    authority,
    bundle,
    current: async (signal) => {
      await ensureAuthority(home.tls, hosts, { ...(signal ? { signal } : {}) });
      return readCertificate(leaf, hosts);
    },
    publish: () => writeBundle(home.tls),
  };
}
