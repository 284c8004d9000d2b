/**
 * Root filesystems: Debian, built by mmdebstrap from the mirror that the host's apt is set up with, as a read-only ext4
 * image. As root the build runs in PID and mount namespaces of its own, so that it ends as a whole, mounts included, even
 * when this process is killed. Without root mmdebstrap maps user ids (newuidmap, /etc/subuid).
 */

import { chmod, mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { type AptSource, debianSources, formatSources, hostAptOptions } from './apt-sources.ts';
import type { TemplateDefinition } from './definitions.ts';
import { makeExt4 } from './ext4.ts';
import { installPackages, missingPackages } from './packages.ts';
import { run } from './run.ts';

/** Changes when the same definition would give another filesystem. */
const ROOTFS_FORMAT = 2;
const LABEL = 'coppice-root';
const CUSTOMIZE = fileURLToPath(new URL('customize.sh', import.meta.url));

const DPKG_OPTIONS = [
  'path-exclude=/usr/share/man/*',
  'path-exclude=/usr/share/locale/*',
  'path-exclude=/usr/share/doc/*',
  'path-include=/usr/share/doc/*/copyright',
];

export interface RootfsOptions {
  /** Scratch folder; the caller removes it. */
  readonly work: string;
  readonly signal?: AbortSignal;
  /** What mmdebstrap is doing, for a display. */
  readonly onStage?: (stage: string) => void;
}

/** All that decides what is built, for the cache key. */
export async function rootfsInputs(definition: TemplateDefinition): Promise<unknown> {
  const { suite, packages, prepare } = definition;
  const customize = await readFile(CUSTOMIZE, 'utf8');
  return { format: ROOTFS_FORMAT, suite, packages: packages.toSorted(), prepare, customize, DPKG_OPTIONS };
}

/** Writes the image; returns what went in: number of packages and mirror. */
export async function writeRootfs(
  image: string,
  definition: TemplateDefinition,
  options: RootfsOptions,
): Promise<Record<string, string>> {
  const { work, signal } = options;
  const sources = await debianSources(definition.suite);
  const customize = await customizeHook(definition, sources);
  const onLine = (line: string) => {
    const stage = /^I: (.*?)\.*$/.exec(line)?.[1];
    if (stage !== undefined) options.onStage?.(stage.includes('--customize-hook') ? 'customizing' : stage);
  };
  const args = [
    '--variant=minbase',
    `--include=${definition.packages.join(',')}`,
    '--skip=cleanup/reproducible/machine-id',
    ...DPKG_OPTIONS.map((option) => `--dpkgopt=${option}`),
    ...(await hostAptOptions(signal)).map((option) => `--aptopt=${option}`),
    '--aptopt=Acquire::Languages "none";',
    '--aptopt=Acquire::Retries "3";',
    // Java's packages fail without it.
    '--essential-hook=mkdir -p "$1/usr/share/man/man1"',
    `--customize-hook=${customize}`,
  ];
  // `-`: the sources come on stdin. Without any, mmdebstrap takes Debian's own mirror.
  const input = sources.length > 0 ? formatSources(sources, { credentials: true }) : undefined;
  const from = input === undefined ? [] : ['-'];
  if (process.getuid?.() === 0) {
    const root = join(work, 'root');
    const [command, ...prefix] = CONFINED;
    const build = ['mmdebstrap', '--mode=root', '--format=directory', ...args, definition.suite, root, ...from];
    await run(command, [...prefix, ...build], { signal, input, onLine });
    options.onStage?.('writing the image');
    await makeExt4(root, image, { label: LABEL, signal });
    return { packages: String(await countPackages(root)), mirror: mirrorOf(sources) };
  }
  // Throws with the command that installs what is missing.
  await installPackages(signal, undefined, await missingPackages({ rootlessBuild: true }));
  await buildUnprivileged(image, definition.suite, { args, from, input, onLine, ...options });
  return { mirror: mirrorOf(sources) };
}

/**
 * Ends with this process (--pdeathsig), and takes with it everything it started (--kill-child ends the PID namespace) and
 * everything it mounted (--mount-proc makes a mount namespace).
 */
const CONFINED = [
  ...['setpriv', '--pdeathsig', 'KILL', '--'],
  ...['unshare', '--pid', '--fork', '--kill-child=KILL', '--mount-proc', '--'],
] as const;

interface UnprivilegedBuild extends RootfsOptions {
  readonly args: readonly string[];
  readonly from: readonly string[];
  readonly input: string | undefined;
  readonly onLine: (line: string) => void;
}

/**
 * mmdebstrap makes a tar in its user namespace; a second one of the same mapping unpacks it and writes the image, so that
 * owners are those of the tar. The scratch folder must be reachable by the mapped users.
 */
async function buildUnprivileged(image: string, suite: string, build: UnprivilegedBuild): Promise<void> {
  const { work, signal } = build;
  const tar = join(work, 'root.tar');
  const root = join(work, 'root');
  const mapped = ['mmdebstrap', '--unshare-helper'];
  const helper = (args: readonly string[]) => run('mmdebstrap', ['--unshare-helper', ...args], { signal });
  const args = ['--mode=unshare', '--format=tar', ...build.args, suite, tar, ...build.from];
  await run('mmdebstrap', args, { signal, input: build.input, onLine: build.onLine });
  build.onStage?.('writing the image');
  await mkdir(root);
  await chmod(root, 0o777);
  await chmod(tar, 0o644);
  const inner = join(root, 'fs');
  try {
    await helper(['mkdir', inner]);
    await helper(['tar', '--xattrs', '--xattrs-include=*', '--numeric-owner', '-C', inner, '-xpf', tar]);
    await writeFile(image, '');
    await chmod(image, 0o666);
    await makeExt4(inner, image, { label: LABEL, signal, through: mapped });
    await chmod(image, 0o644);
  } finally {
    await run('mmdebstrap', ['--unshare-helper', 'rm', '-rf', inner]).catch(() => {});
  }
}

async function customizeHook(definition: TemplateDefinition, sources: readonly AptSource[]): Promise<string> {
  const guestSources = formatSources(sources, { credentials: false });
  const lines = [
    `guest_sources=${shellQuote(guestSources)}`,
    `prepare=${shellQuote(definition.prepare.join(' && '))}`,
    await readFile(CUSTOMIZE, 'utf8'),
  ];
  return lines.join('\n');
}

export function shellQuote(text: string): string {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

async function countPackages(root: string): Promise<number> {
  const status = await readFile(join(root, 'var/lib/dpkg/status'), 'utf8');
  return status.match(/^Status: install ok installed$/gm)?.length ?? 0;
}

function mirrorOf(sources: readonly AptSource[]): string {
  return [...new Set(sources.map(({ uri }) => uri.replace(/\/\/[^/@]*@/, '//')))].join(' ') || 'default';
}
