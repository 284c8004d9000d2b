/** The certificate that clients see: read from two PEM files and found fit for the domains, before anything serves with it. */
import { createPrivateKey, X509Certificate } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { CoppiceError } from '../contract/errors.ts';

export interface CertificateFiles {
  /** Path of PEM: the certificate, then those between it and its CA. */
  readonly certificate: string;
  /** Path of PEM, without a passphrase. */
  readonly key: string;
}

/** What is in the files, still as PEM. The key goes to no log. */
export interface KeyPair {
  readonly certificate: string;
  readonly key: string;
}

export interface Certificate extends KeyPair {
  readonly expiresAt: Date;
}

/** Names that a client of `domain` asks for, one of each kind. */
export const namesUnder = (domain: string): readonly string[] => [
  `api.${domain}`,
  `49983-i${'0'.repeat(20)}.${domain}`,
];

/**
 * Throws host_unfit, with the file and the reason, for what no client would accept.
 * @param hosts domains without ports
 */
export function readCertificate(files: CertificateFiles, hosts: readonly string[], now = new Date()): Certificate {
  const certificate = readText(files.certificate);
  const key = readText(files.key);
  const leaf = parsed(files.certificate, () => new X509Certificate(certificate));
  const ownKey = parsed(files.key, () => createPrivateKey(key));
  const unfit = (why: string): CoppiceError => new CoppiceError('host_unfit', `${files.certificate} ${why}`);
  if (!leaf.checkPrivateKey(ownKey)) throw unfit(`is not the certificate of the key in ${files.key}`);
  if (leaf.validToDate <= now) throw unfit(`expired at ${leaf.validToDate.toISOString()}`);
  for (const name of hosts.flatMap(namesUnder)) {
    if (leaf.checkHost(name) === undefined)
      throw unfit(`is not for ${name}; it must name *.${name.slice(name.indexOf('.') + 1)}`);
  }
  return Object.freeze({ certificate, key, expiresAt: leaf.validToDate });
}

function readText(file: string): string {
  try {
    return readFileSync(file, 'utf8');
  } catch (error) {
    throw new CoppiceError('host_unfit', `cannot read ${file}: ${(error as Error).message}`, { cause: error });
  }
}

function parsed<T>(file: string, parse: () => T): T {
  try {
    return parse();
  } catch (error) {
    // OpenSSL's own text names no content of the file.
    throw new CoppiceError('host_unfit', `${file} is not what it should be in PEM: ${(error as Error).message}`);
  }
}
