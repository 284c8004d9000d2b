/** The templates that come with Coppice, as data. */
import { createHash } from 'node:crypto';
import type { Isolation, MachineShape } from '../isolation/backend.ts';

export interface TemplateDefinition {
  /** [a-z0-9-_]+, also its first alias. */
  readonly name: string;
  readonly aliases: readonly string[];
  readonly isolation: Isolation;
  /** Templates of one family are made of the same root filesystem: a wish for the other isolation finds its sibling. */
  readonly family: string;
  /** Codename of the Debian release. */
  readonly suite: string;
  /** Debian packages on top of the minimal system. */
  readonly packages: readonly string[];
  /**
   * Commands run once in the finished root filesystem, as `user`, on the host's processor: caches that a sandbox would
   * otherwise fill itself.
   */
  readonly prepare: readonly string[];
  /** Languages of the code interpreter that its sandboxes can run; envd/interpreter/kernels.ts knows which start ahead. */
  readonly languages: readonly string[];
  readonly shape: MachineShape;
}

const SHAPE: MachineShape = { cpuCount: 1, memoryMB: 512, diskSizeMB: 4096 };

const BASE_PACKAGES = [
  'bash-completion',
  'ca-certificates',
  'curl',
  'git',
  'iproute2',
  'iputils-ping',
  'less',
  // Resolves the machine's own name without /etc/hosts, so that sudo never asks DNS for it.
  'libnss-myhostname',
  'nano',
  'netbase',
  'procps',
  'python3',
  'sudo',
  'unzip',
  'wget',
  'xz-utils',
] as const;

export const BASE: TemplateDefinition = {
  name: 'base',
  aliases: [],
  isolation: 'microvm',
  family: 'base',
  suite: 'bookworm',
  packages: BASE_PACKAGES,
  prepare: [],
  languages: [],
  shape: SHAPE,
};

export const CODE_INTERPRETER: TemplateDefinition = {
  name: 'code-interpreter-v1',
  aliases: ['code-interpreter'],
  isolation: 'microvm',
  family: 'code-interpreter-v1',
  suite: 'bookworm',
  packages: [
    ...BASE_PACKAGES,
    // Java, with JShell.
    'default-jdk-headless',
    'nodejs',
    'python3-ipython',
    'python3-matplotlib',
    'python3-numpy',
    'python3-pandas',
    'python3-pil',
    'python3-pip',
    'python3-requests',
    'r-base-core',
  ],
  // The font list takes a guest many seconds to make.
  prepare: ['MPLBACKEND=Agg python3 -c "import matplotlib.font_manager, matplotlib.pyplot, IPython, pandas"'],
  languages: ['python', 'javascript', 'typescript', 'bash', 'r', 'java'],
  shape: SHAPE,
};

/** The same root filesystem, run on the host's kernel. */
function jailOf(definition: TemplateDefinition): TemplateDefinition {
  return {
    ...definition,
    name: `${definition.name}-jail`,
    aliases: definition.aliases.map((alias) => `${alias}-jail`),
    isolation: 'jail',
  };
}

export const BUILT_IN_TEMPLATES: readonly TemplateDefinition[] = [
  BASE,
  CODE_INTERPRETER,
  jailOf(BASE),
  jailOf(CODE_INTERPRETER),
];

/** The id of a built-in template: 20 characters of [a-z0-9] that depend on the name alone. */
export function templateIDOf(name: string): string {
  const digest = createHash('sha256').update(`coppice template ${name}`).digest();
  return Array.from(digest.subarray(0, 20), (byte) => 'abcdefghijklmnopqrstuvwxyz0123456789'[byte % 36]).join('');
}
