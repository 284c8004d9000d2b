/** The guest kernel: Debian's cloud kernel, unpacked into a private folder and never installed. */
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { CoppiceError } from '../contract/errors.ts';
import { type DebOptions, unpackDeb } from './debs.ts';

export interface Kernel {
  /** e.g. `6.1.0-56-cloud-amd64` */
  readonly release: string;
  /** File name of the Debian package. */
  readonly packageFile: string;
  /** The compressed kernel that a VMM loads. */
  readonly image: string;
  /** lib/modules/<release> */
  readonly moduleTree: string;
}

/** Debian's name of this machine's architecture. */
export function debianArchitecture(): 'amd64' | 'arm64' {
  if (process.arch === 'x64') return 'amd64';
  if (process.arch === 'arm64') return 'arm64';
  throw new CoppiceError('host_unfit', `no guest kernel for the architecture ${process.arch}`);
}

export function kernelPackage(): string {
  return `linux-image-cloud-${debianArchitecture()}`;
}

/** Resolves the metapackage to the kernel of the day, downloads and unpacks it under `options.work`. */
export async function fetchKernel(options: DebOptions): Promise<Kernel> {
  const { file, folder } = await unpackDeb(kernelPackage(), options, /^linux-image-\d/);
  const boot = join(folder, 'boot');
  const image = (await readdir(boot)).find((name) => name.startsWith('vmlinuz-'));
  if (image === undefined) throw new CoppiceError('host_unfit', `${file} holds no kernel`);
  const release = image.slice('vmlinuz-'.length);
  const modules = await findModules(folder, release);
  return { release, packageFile: file, image: join(boot, image), moduleTree: modules };
}

/** Releases before the merge of / and /usr have lib/modules, later ones usr/lib/modules. */
async function findModules(folder: string, release: string): Promise<string> {
  for (const base of ['lib', 'usr/lib']) {
    const tree = join(folder, base, 'modules', release);
    if ((await readdir(tree).catch(() => [])).length > 0) return tree;
  }
  throw new CoppiceError('host_unfit', `the kernel package has no modules for ${release}`);
}
