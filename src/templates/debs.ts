/** Debian packages fetched with apt and unpacked into a private folder, without installing them. Works without root. */
import { mkdir, readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { CoppiceError } from '../contract/errors.ts';
import { debianSources, formatSources } from './apt-sources.ts';
import { run } from './run.ts';

export interface DebOptions {
  /** A folder that this call may fill; the caller removes it. */
  readonly work: string;
  /** Debian codename, used when apt on the host knows no such package. */
  readonly suite: string;
  readonly signal?: AbortSignal;
}

export interface UnpackedDeb {
  /** File name of the package: name, version and architecture. */
  readonly file: string;
  readonly folder: string;
}

/**
 * Downloads `name` (for a metapackage: `follow` picks the package of its Depends that is wanted) and unpacks it into
 * `<work>/<name>`. apt's lists of the host are read; where they do not offer the package, private lists are fetched.
 * A package that cannot be had: host_unfit.
 */
export async function unpackDeb(name: string, options: DebOptions, follow?: RegExp): Promise<UnpackedDeb> {
  const { work, signal } = options;
  const download = join(work, `${name}.download`);
  const folder = join(work, name);
  await mkdir(download, { recursive: true });
  await mkdir(folder, { recursive: true });
  // As root, apt would drop to its own user, who cannot write here.
  const common = process.getuid?.() === 0 ? ['-o', 'APT::Sandbox::User=root'] : [];
  const attempt = async (aptOptions: readonly string[]) => {
    const target = follow === undefined ? name : await followMetapackage(name, follow, aptOptions, signal);
    await run('apt-get', [...aptOptions, 'download', '-q', target], { cwd: download, signal });
  };
  try {
    await attempt(common).catch(async (error: unknown) => {
      if (isAborted(error)) throw error;
      await attempt([...common, ...(await privateLists(options, common))]);
    });
  } catch (error) {
    if (isAborted(error)) throw error;
    throw new CoppiceError('host_unfit', `could not download the Debian package ${name}: ${(error as Error).message}`, {
      cause: error,
    });
  }
  const file = (await readdir(download)).find((entry) => entry.endsWith('.deb'));
  if (file === undefined) throw new CoppiceError('internal', `apt-get download left no package for ${name}`);
  await run('dpkg-deb', ['-x', join(download, file), folder], { signal });
  return { file: decodeURIComponent(file), folder };
}

/** First package of Depends that matches, e.g. linux-image-6.1.0-56-cloud-amd64 of linux-image-cloud-amd64. */
export function dependencyOf(control: string, follow: RegExp): string | undefined {
  const depends = /^Depends: (.*)$/m.exec(control)?.[1] ?? '';
  return depends
    .split(/[,|]/)
    .map((part) => part.trim().split(/[\s(:]/)[0] ?? '')
    .find((name) => follow.test(name));
}

async function followMetapackage(
  name: string,
  follow: RegExp,
  aptOptions: readonly string[],
  signal: AbortSignal | undefined,
): Promise<string> {
  const { stdout } = await run('apt-cache', [...aptOptions, 'show', '--no-all-versions', name], { signal });
  const found = dependencyOf(stdout, follow);
  if (found === undefined) throw new CoppiceError('host_unfit', `${name} depends on nothing like ${follow.source}`);
  return found;
}

/** Options for an apt with lists of its own, fetched now from Debian's entries among the host's sources. */
async function privateLists(options: DebOptions, common: readonly string[]): Promise<string[]> {
  const state = join(options.work, 'apt');
  await mkdir(join(state, 'lists', 'partial'), { recursive: true });
  await mkdir(join(state, 'cache', 'archives', 'partial'), { recursive: true });
  const sources = await debianSources(options.suite);
  if (sources.length === 0) throw new CoppiceError('host_unfit', 'this host has no Debian source in /etc/apt');
  await writeFile(join(state, 'sources.list'), formatSources(sources, { credentials: true }), { mode: 0o600 });
  const settings = [
    `Dir::State::lists=${join(state, 'lists')}`,
    `Dir::Cache=${join(state, 'cache')}`,
    `Dir::Etc::sourcelist=${join(state, 'sources.list')}`,
    'Dir::Etc::sourceparts=-',
  ].flatMap((setting) => ['-o', setting]);
  await run('apt-get', [...common, ...settings, 'update', '-q'], { signal: options.signal });
  return settings;
}

function isAborted(error: unknown): boolean {
  return error instanceof CoppiceError && error.code === 'aborted';
}
