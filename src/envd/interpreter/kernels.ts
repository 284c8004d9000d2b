/**
 * The languages: how the program of each is started. All speak the protocol of guest/interpreter on stdin and stdout, Python
 * by itself, the others through the bridge, which runs what follows it.
 */

export interface KernelSpec {
  readonly cmd: string;
  readonly args: readonly string[];
  /** Added to `args` where the process is started ahead of a checkpoint. */
  readonly warmArgs?: readonly string[];
  /** The process is started by its first use, never ahead of it: a sandbox that does not use the language pays nothing. */
  readonly onDemand?: boolean;
  /** The default context is listed from the first moment on, whether its process has been started or not. */
  readonly listed?: boolean;
}

/** By the full names of the languages. */
export type KernelSpecs = Readonly<Record<string, KernelSpec>>;

/** Where the injected drive is mounted in every sandbox. */
const DRIVE = '/run/coppice/drive';

/** Where a kernel finds its files: in a sandbox, or on the host of a test. */
export interface KernelFiles {
  readonly python: string;
  /** guest/interpreter. */
  readonly programs: string;
  /** Ending of the programs in JavaScript. */
  readonly scripts: 'js' | 'ts';
  /** Node and its arguments. */
  readonly node: readonly string[];
  /** What user code has as process.execPath. */
  readonly nodeForChildren?: string;
}

const IN_SANDBOX: KernelFiles = {
  python: '/usr/bin/python3',
  programs: `${DRIVE}/app/guest/interpreter`,
  scripts: 'js',
  // The drive's own Node, with its own loader and libraries: it needs no packages, and takes TypeScript.
  node: [`${DRIVE}/lib/ld.so`, '--library-path', `${DRIVE}/lib`, `${DRIVE}/bin/node`],
  nodeForChildren: `${DRIVE}/bin/sandbox-node`,
};

export function kernelSpecs(files: KernelFiles): KernelSpecs {
  const { python, programs, scripts, node, nodeForChildren } = files;
  const bridged = (...runtime: readonly string[]): KernelSpec => ({
    cmd: python,
    // Isolated: what user code leaves in its home is not for the bridge.
    args: ['-I', '-S', `${programs}/bridge.py`, ...runtime],
    onDemand: true,
  });
  const javascript = (...options: readonly string[]): KernelSpec =>
    bridged(
      ...node,
      '--disable-warning=ExperimentalWarning',
      `${programs}/javascript/main.${scripts}`,
      ...(nodeForChildren === undefined ? [] : [`--node=${nodeForChildren}`]),
      ...options,
    );
  return {
    python: { cmd: python, args: [`${programs}/main.py`], warmArgs: ['--warm'], listed: true },
    javascript: { ...javascript(), listed: true },
    typescript: javascript('--typescript'),
    bash: bridged('/bin/bash', '--noprofile', '--rcfile', `${programs}/bash/kernel.bash`, '--noediting', '-i'),
    r: bridged('/usr/bin/R', '--no-echo', '--no-save', '--no-restore', `--file=${programs}/r/kernel.R`),
    java: bridged('/usr/bin/java', ...JAVA, `${programs}/java/Kernel.java`),
  };
}

const JAVA = [
  // One compiler and a plain collector: it compiles little, runs briefly, and what others cost is never earned.
  '-XX:TieredStopAtLevel=1',
  '-XX:+UseSerialGC',
  '-Dfile.encoding=UTF-8',
  // For what only the runtime itself holds: the environment, and the states of generators.
  '--add-opens=java.base/java.lang=ALL-UNNAMED',
  '--add-opens=java.base/java.util=ALL-UNNAMED',
  '--add-opens=java.base/java.util.concurrent=ALL-UNNAMED',
] as const;

export const DEFAULT_KERNELS: KernelSpecs = kernelSpecs(IN_SANDBOX);
