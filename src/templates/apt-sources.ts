/**
 * Which of the host's apt sources are Debian's own, so that guests are built from the mirror that the host is set up with
 * and from nothing else. Formats: sources.list(5), both the one-line and the deb822 style.
 *
 * An entry is Debian's when it is an enabled `deb` entry, its suite is a Debian codename (with -updates or -security, or
 * none), one of its components is `main`, and it is signed by Debian's keyring; or, where it names no keyring, a segment
 * of its URI's path is `debian` or `debian-security`. Vendors that publish a `bookworm main` of their own sign with a key
 * of their own, and those that rely on the global keyring do not live under such a path.
 */
import { readdir, readFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { run } from './run.ts';

export interface AptSource {
  readonly uri: string;
  readonly suite: string;
  readonly components: readonly string[];
  /** Absolute path of a keyring; absent: apt's global keyring. */
  readonly signedBy?: string;
}

const CODENAMES = 'bullseye|bookworm|trixie|forky|sid';
const SUITE = new RegExp(`^(${CODENAMES}|stable|oldstable|testing)(-updates|-security)?$`);
/** Settings of the host's apt that a build on this host needs as well. */
const APT_OPTIONS = [
  'Acquire::http::Proxy',
  'Acquire::https::Proxy',
  'Acquire::Check-Valid-Until',
  'Acquire::Check-Date',
];

/** Debian's entries among the host's sources, for `suite` (the codename of the guest); empty when there are none. */
export async function debianSources(suite: string, etc = '/etc/apt'): Promise<AptSource[]> {
  const entries: AptSource[] = [];
  const list = await readFile(join(etc, 'sources.list'), 'utf8').catch(() => '');
  entries.push(...parseOneLine(list));
  const parts = await readdir(join(etc, 'sources.list.d')).catch(() => [] as string[]);
  for (const name of parts.toSorted()) {
    if (!/^[A-Za-z0-9_.-]+\.(list|sources)$/.test(name)) continue;
    const text = await readFile(join(etc, 'sources.list.d', name), 'utf8').catch(() => '');
    entries.push(...(name.endsWith('.list') ? parseOneLine(text) : parseDeb822(text)));
  }
  return forSuite(entries.filter(isDebian), suite);
}

/** sources.list text for mmdebstrap and for the guest; credentials in a URI are kept only when asked for. */
export function formatSources(sources: readonly AptSource[], options: { readonly credentials: boolean }): string {
  return sources
    .map(({ uri, suite, components, signedBy }) => {
      const key = signedBy === undefined ? '' : `[signed-by=${signedBy}] `;
      const address = options.credentials ? uri : uri.replace(/^([a-z+]+:\/\/)[^/@]*@/, '$1');
      return `deb ${key}${address} ${suite} ${components.join(' ')}\n`;
    })
    .join('');
}

/** The host's proxy and date-check settings as `Name "value";` lines for another apt. */
export async function hostAptOptions(signal?: AbortSignal): Promise<string[]> {
  const { stdout } = await run('apt-config', ['dump', '--format', '%f "%v";%n', ...APT_OPTIONS], { signal });
  return stdout.split('\n').filter((line) => /^Acquire::[A-Za-z:-]+ "[^"\\]+";$/.test(line));
}

export function parseOneLine(text: string): AptSource[] {
  const entries: AptSource[] = [];
  for (const line of text.split('\n')) {
    const match = /^\s*deb\s+(?:\[([^\]]*)\]\s+)?(\S+)\s+(\S+)\s*([^#]*)/.exec(line);
    if (match === null) continue;
    const [, options = '', uri = '', suite = '', components = ''] = match;
    const signedBy = /(?:^|\s)signed-by=(\S+)/i.exec(options)?.[1];
    entries.push({ uri, suite, components: words(components), ...(signedBy ? { signedBy } : {}) });
  }
  return entries;
}

export function parseDeb822(text: string): AptSource[] {
  const entries: AptSource[] = [];
  for (const stanza of text.split(/\n\s*\n/)) {
    const fields = new Map<string, string>();
    let last = '';
    for (const line of stanza.split('\n')) {
      if (line.startsWith('#')) continue;
      const field = /^([A-Za-z0-9-]+):\s*(.*)$/.exec(line);
      if (field !== null) {
        last = field[1]!.toLowerCase();
        fields.set(last, field[2]!);
      } else if (/^\s/.test(line) && last !== '') fields.set(last, `${fields.get(last)} ${line.trim()}`);
    }
    if (/^(no|false|off|0)$/i.test(fields.get('enabled') ?? 'yes')) continue;
    if (!words(fields.get('types') ?? '').includes('deb')) continue;
    const signer = (fields.get('signed-by') ?? '').trim();
    const signedBy = signer.startsWith('/') ? words(signer)[0] : undefined;
    for (const uri of words(fields.get('uris') ?? '')) {
      for (const suite of words(fields.get('suites') ?? '')) {
        const components = words(fields.get('components') ?? '');
        entries.push({ uri, suite, components, ...(signedBy ? { signedBy } : {}) });
      }
    }
  }
  return entries;
}

export function isDebian(entry: AptSource): boolean {
  if (!SUITE.test(entry.suite) || !entry.components.includes('main')) return false;
  if (entry.signedBy !== undefined) return basename(entry.signedBy).startsWith('debian-archive-');
  const path = entry.uri.replace(/^[a-z+]+:\/*[^/]*/, '');
  return path.split('/').some((segment) => /^debian(-security)?$/.test(segment));
}

/** Only `main`, each suite mapped to the guest's codename (the host may run another release), without repeats. */
function forSuite(entries: readonly AptSource[], codename: string): AptSource[] {
  const result = new Map<string, AptSource>();
  for (const { uri, suite, signedBy } of entries) {
    const mapped = `${codename}${/-(updates|security)$/.exec(suite)?.[0] ?? ''}`;
    const key = `${uri.replace(/\/+$/, '')} ${mapped}`;
    if (!result.has(key)) {
      result.set(key, { uri, suite: mapped, components: ['main'], ...(signedBy ? { signedBy } : {}) });
    }
  }
  return [...result.values()];
}

function words(text: string): string[] {
  return text.split(/\s+/).filter(Boolean);
}
