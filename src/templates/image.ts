/**
 * From a template's definition to the four files that a machine is made of. Each is an artifact of its own, so templates
 * share kernel, initrd and agent drive, and a change of the agent rebuilds its drive alone.
 */
import { createHash } from 'node:crypto';
import { copyFile, mkdir, readFile, writeFile } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { CoppiceError } from '../contract/errors.ts';
import type { MachineImage } from '../isolation/backend.ts';
import { type AgentDriveFiles, collectAgentDrive, hashAgentDrive, writeAgentDrive } from './agent-drive.ts';
import { type Artifact, artifactKey, obtainArtifact, openArtifact, sweepWork } from './artifact-store.ts';
import { unpackDeb } from './debs.ts';
import type { TemplateDefinition } from './definitions.ts';
import { GUEST_MODULES, makeInitrd, OPTIONAL_MODULES } from './initrd.ts';
import { debianArchitecture, fetchKernel, kernelPackage } from './kernel.ts';
import { collectModules } from './kernel-modules.ts';
import { type BuildProgress, trackProgress } from './progress.ts';
import { rootfsInputs, writeRootfs } from './rootfs.ts';
import { throwIfAborted } from './run.ts';

export interface BuildImageOptions {
  /** <home>/images; made if need be. */
  readonly imagesFolder: string;
  readonly signal?: AbortSignal;
  readonly onProgress?: (event: BuildProgress) => void;
  /** Take Debian's packages of today even if artifacts are there. Images in use stay as they are. */
  readonly force?: boolean;
}

/** Debian release of the guest kernel where no template names one. */
const KERNEL_SUITE = 'bookworm';
const INIT = fileURLToPath(new URL('../../guest/init', import.meta.url));

/**
 * Builds what is missing and returns absolute paths. Safe to run at the same time in any number of processes and to kill
 * at any point. Errors: host_unfit (a tool or package is missing; the message says which), aborted, internal.
 */
export async function buildImage(definition: TemplateDefinition, options: BuildImageOptions): Promise<MachineImage> {
  const root = resolve(options.imagesFolder);
  await mkdir(root, { recursive: true, mode: 0o755 });
  await sweepWork(root);
  // One failure ends the other track: nobody waits for a build that cannot be used.
  const failure = new AbortController();
  const signal = AbortSignal.any([failure.signal, ...(options.signal === undefined ? [] : [options.signal])]);
  const rootfsKey = `rootfs:${definition.name}`;
  const tracks = [
    [{ step: 'rootfs', key: rootfsKey }],
    [
      { step: 'kernel', key: 'kernel' },
      { step: 'initrd', key: 'initrd' },
      { step: 'agent-drive', key: 'agent-drive' },
    ],
  ] as const;
  const progress = await trackProgress(root, tracks, options.onProgress);
  const { force } = options;
  const { suite } = definition;

  const buildRootfs = () =>
    progress.step('rootfs', rootfsKey, `root filesystem of ${definition.name}`, async (setStage) =>
      obtainArtifact(root, {
        kind: 'rootfs',
        inputs: await rootfsInputs(definition),
        force,
        signal,
        build: (out, work) => writeRootfs(join(out, 'rootfs.ext4'), definition, { work, signal, onStage: setStage }),
      }),
    );
  const buildMachine = async () => {
    const kernel = await progress.step('kernel', 'kernel', 'guest kernel', () =>
      obtainKernel(root, { suite, force, signal }),
    );
    const initrd = await progress.step('initrd', 'initrd', 'initial ramdisk', () => obtainInitrd(root, kernel, signal));
    const drive = await progress.step('agent-drive', 'agent-drive', 'agent drive', () =>
      obtainAgentDrive(root, kernel, signal),
    );
    return { kernel, initrd, drive };
  };

  const guarded = async <T>(work: () => Promise<T>): Promise<T> => {
    try {
      return await work();
    } catch (error) {
      failure.abort(error);
      throw error;
    }
  };
  const [rootfs, machine] = await settle(guarded(buildRootfs), guarded(buildMachine));
  throwIfAborted(options.signal);
  const { kernel, initrd, drive } = machine;
  return {
    hash: hashOf([kernel, initrd, rootfs, drive]),
    kernel: join(kernel.folder, 'vmlinuz'),
    initrd: join(initrd.folder, 'initrd.img'),
    rootfs: join(rootfs.folder, 'rootfs.ext4'),
    agentDrive: join(drive.folder, 'agent.ext4'),
  };
}

/** The image of the same kernel, initrd and agent drive with another root filesystem, whose artifact is in a folder. */
export async function imageWith(
  rootfsFolder: string,
  { kernel, initrd, agentDrive }: MachineImage,
): Promise<MachineImage> {
  const folders = [dirname(kernel), dirname(initrd), rootfsFolder, dirname(agentDrive)];
  const parts = await Promise.all(
    folders.map(async (folder) => {
      const artifact = await openArtifact(folder);
      if (artifact === undefined) throw new CoppiceError('host_unfit', `${folder} is not whole`);
      return artifact;
    }),
  );
  return { hash: hashOf(parts), kernel, initrd, rootfs: join(rootfsFolder, 'rootfs.ext4'), agentDrive };
}

/** In the order of kernel, initrd, root filesystem, agent drive. */
function hashOf(parts: readonly Artifact[]): string {
  return createHash('sha256')
    .update(parts.map(({ manifest }) => manifest.content).join('\n'))
    .digest('hex');
}

/** Waits for both whatever happens, so that no work goes on behind a failure; throws the failure that came first. */
async function settle<A, B>(first: Promise<A>, second: Promise<B>): Promise<[A, B]> {
  const both = Promise.all([first, second]);
  // It may reject before the other has ended, when nobody listens to it yet.
  both.catch(() => {});
  await Promise.allSettled([first, second]);
  return both;
}

interface Common {
  readonly suite: string;
  readonly force: boolean | undefined;
  readonly signal: AbortSignal;
}

/** Path of the guest kernel, fetched if it is not there: for whoever needs one before any template is built. */
export async function guestKernel(
  imagesFolder: string,
  signal: AbortSignal = new AbortController().signal,
): Promise<string> {
  const root = resolve(imagesFolder);
  await mkdir(root, { recursive: true, mode: 0o755 });
  const kernel = await obtainKernel(root, { suite: KERNEL_SUITE, force: false, signal });
  return join(kernel.folder, 'vmlinuz');
}

/** What comes from Debian packages: the kernel, the modules a microVM needs (numbered in load order), a static busybox. */
function obtainKernel(root: string, { suite, force, signal }: Common): Promise<Artifact> {
  return obtainArtifact(root, {
    kind: 'kernel',
    inputs: { format: 1, package: kernelPackage(), suite, GUEST_MODULES, OPTIONAL_MODULES },
    force,
    signal,
    build: async (out, work) => {
      const kernel = await fetchKernel({ work, suite, signal });
      const modules = await collectModules(kernel.moduleTree, GUEST_MODULES, { optional: OPTIONAL_MODULES, signal });
      const busybox = await unpackDeb('busybox-static', { work, suite, signal });
      await copyFile(kernel.image, join(out, 'vmlinuz'));
      for (const [index, { name, data }] of modules.entries())
        await writeFile(join(out, `${String(index).padStart(2, '0')}-${name}.ko`), data);
      // Releases before the merge of / and /usr have it in bin, later ones in usr/bin.
      await copyFile(join(busybox.folder, 'bin/busybox'), join(out, 'busybox')).catch(() =>
        copyFile(join(busybox.folder, 'usr/bin/busybox'), join(out, 'busybox')),
      );
      return { kernel: kernel.packageFile, release: kernel.release, busybox: busybox.file };
    },
  });
}

async function obtainInitrd(root: string, kernel: Artifact, signal: AbortSignal): Promise<Artifact> {
  const init = await readFile(INIT);
  return obtainArtifact(root, {
    kind: 'initrd',
    inputs: { format: 1, kernel: kernel.manifest.content, init: init.toString('utf8') },
    signal,
    build: async (out) => {
      const files = Object.keys(kernel.manifest.files).filter((name) => name.endsWith('.ko'));
      const modules = await Promise.all(
        files.toSorted().map(async (name) => ({
          name: name.slice('00-'.length, -'.ko'.length),
          data: await readFile(join(kernel.folder, name)),
        })),
      );
      const busybox = await readFile(join(kernel.folder, 'busybox'));
      await writeFile(join(out, 'initrd.img'), makeInitrd({ busybox, init, modules }));
      return { modules: modules.map(({ name }) => name).join(' ') };
    },
  });
}

let collected: Promise<{ readonly files: AgentDriveFiles; readonly hash: string }> | undefined;

/** Collected and hashed once in a process: the same for every template, and more than 100 MB to read. */
function agentDriveFiles(signal: AbortSignal): NonNullable<typeof collected> {
  collected ??= collectAgentDrive({ signal })
    .then(async (files) => ({ files, hash: await hashAgentDrive(files) }))
    .catch((error) => {
      collected = undefined;
      throw error;
    });
  return collected;
}

async function obtainAgentDrive(root: string, kernel: Artifact, signal: AbortSignal): Promise<Artifact> {
  const { files, hash } = await agentDriveFiles(signal);
  const busybox = join(kernel.folder, 'busybox');
  const inputs = {
    format: 1,
    files: hash,
    busybox: kernel.manifest.files.busybox?.sha256,
    architecture: debianArchitecture(),
  };
  return obtainArtifact(root, {
    kind: 'agent-drive',
    inputs,
    signal,
    build: async (out, work) => {
      await writeAgentDrive(join(out, 'agent.ext4'), work, files, busybox, signal);
      return { key: artifactKey(inputs), node: process.version };
    },
  });
}
