/**
 * A CA of Coppice's own, for domains that no public CA vouches for, and the one certificate that it signs. Made by
 * openssl, in a folder of the home; both keys are for their owner's eyes only. The CA can sign for nothing but the domains
 * it was made for, so who trusts it trusts nobody with the rest of the internet.
 */
import { createPrivateKey, randomBytes, X509Certificate } from 'node:crypto';
import {
  chmodSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { getCACertificates } from 'node:tls';
import { CoppiceError, isCoppiceError } from '../contract/errors.ts';
import { run } from '../templates/run.ts';
import { type CertificateFiles, namesUnder, readCertificate } from './certificate.ts';

export interface Authority {
  /** The CA's certificate, for clients to trust. */
  readonly authority: string;
  /** The same, after every CA that is trusted here without it: for clients whose setting replaces the list. */
  readonly bundle: string;
  readonly leaf: CertificateFiles;
}

const AUTHORITY_DAYS = 3_650;
/** What browsers accept at most. */
const LEAF_DAYS = 397;
/** A leaf with fewer days left is renewed. */
const RENEW_DAYS = 60;
const DAY_MS = 86_400_000;
const TEMPORARY = 'making-';
/** What openssl says of a name that the CA may not sign for. */
const NOT_PERMITTED = 'permitted subtree violation';

export function authorityIn(folder: string): Authority {
  return {
    authority: join(folder, 'authority.pem'),
    bundle: join(folder, 'bundle.pem'),
    leaf: { certificate: join(folder, 'certificate.pem'), key: join(folder, 'certificate-key.pem') },
  };
}

const authorityKey = (folder: string): string => join(folder, 'authority-key.pem');

/**
 * Makes what is missing, unfit or soon to expire, and keeps the rest; a CA that clients trust is kept as long as it may
 * sign for `hosts`. One process at a time.
 * @param hosts domains without ports, lower case, each of two labels or more
 */
export async function ensureAuthority(
  folder: string,
  hosts: readonly string[],
  options: { readonly signal?: AbortSignal; readonly now?: Date } = {},
): Promise<void> {
  const { signal, now = new Date() } = options;
  mkdirSync(folder, { recursive: true });
  // Whatever the umask: clients of other users read the CA's certificate.
  chmodSync(folder, 0o711);
  for (const name of readdirSync(folder))
    if (name.startsWith(TEMPORARY)) rmSync(join(folder, name), { recursive: true });
  if (leafStands(folder, hosts, now)) return;
  if (authorityStands(folder, now) && (await issueLeaf(folder, hosts, signal))) return;
  await makeAuthority(folder, hosts, signal);
  if (!(await issueLeaf(folder, hosts, signal)))
    throw new CoppiceError('host_unfit', `openssl makes no certificate for ${hosts.join(', ')} that it accepts itself`);
}

/** What this host trusts may have changed: to be written anew at each start. */
export function writeBundle(folder: string): void {
  const { authority, bundle } = authorityIn(folder);
  const known = [...getCACertificates('bundled'), ...getCACertificates('system')].map((one) => one.trim());
  const temporary = `${bundle}.${process.pid}`;
  const text = [...new Set(known), readFileSync(authority, 'utf8').trim(), ''].join('\n');
  writeFileSync(temporary, text);
  chmodSync(temporary, 0o644);
  renameSync(temporary, bundle);
}

function leafStands(folder: string, hosts: readonly string[], now: Date): boolean {
  const { authority, leaf } = authorityIn(folder);
  try {
    const { certificate, expiresAt } = readCertificate(leaf, hosts, now);
    const issuer = new X509Certificate(readFileSync(authority));
    return (
      expiresAt.getTime() - now.getTime() > RENEW_DAYS * DAY_MS &&
      new X509Certificate(certificate).verify(issuer.publicKey)
    );
  } catch {
    return false;
  }
}

/** True for a pair that outlives a leaf made now. */
function authorityStands(folder: string, now: Date): boolean {
  try {
    const issuer = new X509Certificate(readFileSync(authorityIn(folder).authority));
    return (
      issuer.checkPrivateKey(createPrivateKey(readFileSync(authorityKey(folder)))) &&
      issuer.validToDate.getTime() - now.getTime() > LEAF_DAYS * DAY_MS
    );
  } catch {
    return false;
  }
}

async function makeAuthority(folder: string, hosts: readonly string[], signal?: AbortSignal): Promise<void> {
  const files = { certificate: authorityIn(folder).authority, key: authorityKey(folder) };
  await makePair(folder, files, AUTHORITY_DAYS, [], authorityConfig(hosts), signal);
}

/** False when the CA may not sign for one of the hosts; nothing is then put in place. */
async function issueLeaf(folder: string, hosts: readonly string[], signal?: AbortSignal): Promise<boolean> {
  const { authority, leaf } = authorityIn(folder);
  const signer = ['-CA', authority, '-CAkey', authorityKey(folder)];
  try {
    await makePair(folder, leaf, LEAF_DAYS, signer, leafConfig(hosts), signal, async (certificate) => {
      for (const name of hosts.flatMap(namesUnder)) {
        const strictly = ['-x509_strict', '-purpose', 'sslserver', '-verify_hostname', name];
        await run('openssl', ['verify', ...strictly, '-CAfile', authority, certificate], { signal });
      }
    });
    return true;
  } catch (error) {
    if (isCoppiceError(error, 'internal') && error.message.includes(NOT_PERMITTED)) return false;
    throw error;
  }
}

/** A key and its certificate, made aside and put in place when they are whole and `check` has not thrown. */
async function makePair(
  folder: string,
  files: CertificateFiles,
  days: number,
  signer: readonly string[],
  config: string,
  signal: AbortSignal | undefined,
  check: (certificate: string) => Promise<void> = async () => {},
): Promise<void> {
  const aside = mkdtempSync(join(folder, TEMPORARY));
  try {
    const [configFile, key, certificate] = [join(aside, 'config'), join(aside, 'key'), join(aside, 'certificate')];
    writeFileSync(configFile, config);
    const curve = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-noenc', '-sha256'];
    const output = ['-config', configFile, '-days', String(days), '-keyout', key, '-out', certificate];
    await run('openssl', ['req', '-x509', ...curve, ...output, ...signer], { signal });
    await check(certificate);
    chmodSync(key, 0o600);
    chmodSync(certificate, 0o644);
    // The key first: a certificate in its place has its key beside it, or is found not to fit and made anew.
    renameSync(key, files.key);
    renameSync(certificate, files.certificate);
  } finally {
    rmSync(aside, { recursive: true, force: true });
  }
}

function authorityConfig(hosts: readonly string[]): string {
  return config(
    // Told apart by people who trust several.
    `Coppice CA ${randomBytes(4).toString('hex')}`,
    [
      'basicConstraints = critical, CA:TRUE, pathlen:0',
      'keyUsage = critical, keyCertSign, cRLSign',
      'subjectKeyIdentifier = hash',
      'nameConstraints = critical, @names',
    ],
    [
      ...hosts.map((host, index) => `permitted;DNS.${index} = ${host}`),
      'excluded;IP.0 = 0.0.0.0/0.0.0.0',
      'excluded;IP.1 = 0:0:0:0:0:0:0:0/0:0:0:0:0:0:0:0',
    ],
  );
}

function leafConfig(hosts: readonly string[]): string {
  return config(
    'Coppice sandboxes',
    [
      'basicConstraints = critical, CA:FALSE',
      'keyUsage = critical, digitalSignature',
      'extendedKeyUsage = serverAuth',
      'subjectKeyIdentifier = hash',
      'authorityKeyIdentifier = keyid',
      'subjectAltName = @names',
    ],
    hosts.flatMap((host) => [host, `*.${host}`]).map((name, index) => `DNS.${index} = ${name}`),
  );
}

const config = (commonName: string, extensions: readonly string[], names: readonly string[]): string =>
  [
    '[req]',
    'distinguished_name = subject',
    'x509_extensions = extensions',
    'prompt = no',
    '[subject]',
    'O = Coppice',
    `CN = ${commonName}`,
    '[extensions]',
    ...extensions,
    '[names]',
    ...names,
    '',
  ].join('\n');
