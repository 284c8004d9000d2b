/** What the doctor says of domain mode: the certificate, and whether the names lead here. Nothing where there is no TLS. */
import { existsSync } from 'node:fs';
import { type CertificateFiles, readCertificate } from '../edge/certificate.ts';
import type { Home } from '../store/home.ts';
import { openCertificates } from './certificates.ts';
import type { Finding } from './finding.ts';
import { oneHostHint, type Resolve, whereNamesLead } from './names.ts';
import { type Settings, withoutPort } from './settings.ts';

/** One with fewer days left is worth a word, whoever renews it. */
const SOON_DAYS = 14;
const DAY_MS = 86_400_000;

export async function domainFindings(
  home: Home,
  settings: Pick<Settings, 'tls' | 'domains'>,
  resolve?: Resolve,
): Promise<Finding[]> {
  const certificates = openCertificates(home, settings);
  if (!certificates) return [];
  const hosts = settings.domains.map(withoutPort);
  const names = hosts.map(async (host): Promise<Finding> => {
    const { here, detail } = await whereNamesLead(host, resolve);
    if (here) return { check: 'names', state: 'ok', detail };
    return {
      check: 'names',
      state: 'off',
      detail,
      fix: `let DNS lead *.${host} here; for this host alone: ${oneHostHint(host)}`,
    };
  });
  return [certificateFinding(certificates.files, hosts, settings.tls === 'own'), ...(await Promise.all(names))];
}

function certificateFinding(files: CertificateFiles, hosts: readonly string[], own: boolean): Finding {
  const check = 'certificate';
  if (own && !existsSync(files.certificate)) return { check, state: 'ok', detail: 'made at the next start' };
  const fix = own ? 'the next start makes it anew' : 'renew it; a running service takes it up within the hour';
  try {
    const { expiresAt } = readCertificate(files, hosts);
    const days = Math.floor((expiresAt.getTime() - Date.now()) / DAY_MS);
    const detail = `${files.certificate} expires in ${days} days`;
    return days < SOON_DAYS ? { check, state: 'off', detail, fix } : { check, state: 'ok', detail };
  } catch (error) {
    return { check, state: own ? 'off' : 'bad', detail: (error as Error).message, fix };
  }
}
