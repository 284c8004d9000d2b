/** What the host must have installed, found by the presence of each tool, and how to get it on Debian. */
import { constants } from 'node:fs';
import { access } from 'node:fs/promises';
import { join } from 'node:path';
import { CoppiceError } from '../contract/errors.ts';
import { run, toolEnvironment } from './run.ts';

export interface HostPackage {
  readonly name: string;
  /** The package is installed when each of these is an executable on the PATH. */
  readonly tools: readonly string[];
  readonly why: string;
  /** Needed only to build root filesystems where the node does not run as root; looked for when one is built. */
  readonly rootlessBuild?: boolean;
  /** Needed only where the node runs as root. */
  readonly rootOnly?: boolean;
  /** Needed only where Coppice makes its own certificate. */
  readonly ownCertificate?: boolean;
}

export const HOST_PACKAGES: readonly HostPackage[] = [
  {
    name: process.arch === 'arm64' ? 'qemu-system-arm' : 'qemu-system-x86',
    tools: [process.arch === 'arm64' ? 'qemu-system-aarch64' : 'qemu-system-x86_64'],
    why: 'runs the microVMs',
  },
  { name: 'mmdebstrap', tools: ['mmdebstrap'], why: 'builds root filesystems' },
  { name: 'e2fsprogs', tools: ['mke2fs', 'debugfs'], why: 'makes the drives of the microVMs' },
  { name: 'dpkg', tools: ['dpkg-deb'], why: 'unpacks the guest kernel' },
  { name: 'xz-utils', tools: ['xz'], why: 'unpacks kernel modules' },
  { name: 'libc-bin', tools: ['ldd'], why: "finds the agent's libraries" },
  { name: 'util-linux', tools: ['unshare', 'setpriv'], why: 'confines builds' },
  { name: 'nftables', tools: ['nft'], why: 'filters what sandboxes send', rootOnly: true },
  { name: 'iproute2', tools: ['ip'], why: 'makes the sandbox network', rootOnly: true },
  { name: 'crun', tools: ['crun'], why: 'runs the jails', rootOnly: true },
  {
    name: 'uidmap',
    tools: ['newuidmap', 'newgidmap'],
    why: 'builds root filesystems without root',
    rootlessBuild: true,
  },
  { name: 'openssl', tools: ['openssl'], why: 'makes the certificate of a domain', ownCertificate: true },
];

/**
 * Names of the Debian packages whose tools are not on this host, in a stable order. Looks at the PATH only.
 * `rootlessBuild`: also what building a root filesystem without root wants; `ownCertificate`: what domain mode wants.
 */
export async function missingPackages(
  options: { readonly rootlessBuild?: boolean; readonly ownCertificate?: boolean } = {},
): Promise<string[]> {
  const isRoot = process.getuid?.() === 0;
  const folders = [...new Set((toolEnvironment().PATH ?? '').split(':').filter(Boolean))];
  const missing: string[] = [];
  for (const entry of HOST_PACKAGES) {
    if (entry.rootlessBuild ? isRoot || !options.rootlessBuild : !isRoot && entry.rootOnly) continue;
    if (entry.ownCertificate && !options.ownCertificate) continue;
    const found = await Promise.all(entry.tools.map((tool) => onPath(tool, folders)));
    if (found.includes(false)) missing.push(entry.name);
  }
  return missing;
}

/** The command that a person runs where Coppice may not. */
export function installCommand(packages: readonly string[]): string {
  return `sudo apt-get update && sudo apt-get install -y --no-install-recommends ${packages.join(' ')}`;
}

/**
 * Installs what `missingPackages` names (or the given packages). Nothing missing: does nothing. Not root, no apt, or the
 * installation failed: host_unfit with the exact command in the message and in details.command.
 */
export async function installPackages(
  signal?: AbortSignal,
  onProgress: (line: string) => void = () => {},
  packages?: readonly string[],
): Promise<void> {
  const wanted = packages ?? (await missingPackages());
  if (wanted.length === 0) return;
  const command = installCommand(wanted);
  const unfit = (why: string, cause?: unknown) =>
    new CoppiceError('host_unfit', `${why}; run: ${command}`, { cause, details: { command, packages: wanted } });
  if (process.getuid?.() !== 0) throw unfit(`missing on this host: ${wanted.join(', ')}`);
  const env = { DEBIAN_FRONTEND: 'noninteractive' };
  const options = { signal, env, onLine: onProgress };
  try {
    const update = () => run('apt-get', ['update', '-q'], options);
    const install = () =>
      run(
        'apt-get',
        ['install', '-y', '-q', '--no-install-recommends', '-o', 'DPkg::Lock::Timeout=300', ...wanted],
        options,
      );
    if (await haveCandidates(wanted, signal)) {
      // Old lists may name versions that the mirror no longer has; fresh lists are the one cure worth a second try.
      await install().catch(async (error: unknown) => {
        if (error instanceof CoppiceError && error.code === 'aborted') throw error;
        await update();
        await install();
      });
    } else {
      await update();
      await install();
    }
  } catch (error) {
    if (error instanceof CoppiceError && error.code === 'aborted') throw error;
    throw unfit(`could not install ${wanted.join(', ')} (${(error as Error).message})`, error);
  }
  const still = packages === undefined ? await missingPackages() : [];
  if (still.length > 0) throw unfit(`still missing after installation: ${still.join(', ')}`);
}

/** True when apt's lists on this host offer every package. */
async function haveCandidates(packages: readonly string[], signal?: AbortSignal): Promise<boolean> {
  const { stdout } = await run('apt-cache', ['policy', ...packages], { signal });
  const candidates = [...stdout.matchAll(/^\s+Candidate: (.*)$/gm)].filter((match) => match[1] !== '(none)');
  return candidates.length >= packages.length;
}

async function onPath(tool: string, folders: readonly string[]): Promise<boolean> {
  for (const folder of folders) {
    try {
      await access(join(folder, tool), constants.X_OK);
      return true;
    } catch {
      // Not here.
    }
  }
  return false;
}
