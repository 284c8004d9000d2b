/**
 * Loadable modules of a kernel tree in load order. Debian's package ships no modules.dep (depmod makes it on the machine
 * where the kernel is installed), so each module's own .modinfo section says what it depends on.
 */
import { readdir, readFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { CoppiceError } from '../contract/errors.ts';
import { run } from './run.ts';

export interface KernelModule {
  /** With underscores, as in `depends=` and /proc/modules. */
  readonly name: string;
  /** The ELF file, uncompressed. */
  readonly data: Uint8Array;
}

/**
 * The wanted modules and everything they need, dependencies first. A wanted module that is built into the kernel is left
 * out; one that is neither there nor built in: host_unfit, unless it is `optional`.
 * @param tree folder lib/modules/<release>
 */
export async function collectModules(
  tree: string,
  wanted: readonly string[],
  options: { readonly optional?: readonly string[]; readonly signal?: AbortSignal } = {},
): Promise<KernelModule[]> {
  const files = new Map<string, string>();
  for (const entry of await readdir(join(tree, 'kernel'), { recursive: true })) {
    if (/\.ko(\.xz)?$/.test(entry)) files.set(moduleName(entry), join(tree, 'kernel', entry));
  }
  const builtin = new Set((await readFile(join(tree, 'modules.builtin'), 'utf8')).split('\n').map(moduleName));
  const result = new Map<string, KernelModule>();
  const visiting = new Set<string>();
  const visit = async (name: string, needed: boolean): Promise<void> => {
    if (result.has(name) || builtin.has(name)) return;
    const path = files.get(name);
    if (path === undefined) {
      if (!needed) return;
      throw new CoppiceError('host_unfit', `the guest kernel has no module ${name}`, { details: { tree } });
    }
    if (visiting.has(name)) throw new CoppiceError('internal', `kernel module ${name} depends on itself`);
    visiting.add(name);
    const data = await readModule(path, options.signal);
    const { depends, before } = moduleDependencies(data);
    for (const dependency of depends) await visit(dependency, true);
    for (const dependency of before) await visit(dependency, false);
    result.set(name, { name, data });
  };
  for (const name of wanted) await visit(moduleName(name), true);
  for (const name of options.optional ?? []) await visit(moduleName(name), false);
  return [...result.values()];
}

/** `depends=a,b` and `softdep=pre: c` of the .modinfo section: NUL-separated `key=value` strings. */
export function moduleDependencies(elf: Uint8Array): { readonly depends: string[]; readonly before: string[] } {
  const text = Buffer.from(elf.buffer, elf.byteOffset, elf.byteLength).toString('latin1');
  const depends = /\0depends=([^\0]*)\0/.exec(text)?.[1] ?? '';
  const soft = [...text.matchAll(/\0softdep=([^\0]*)\0/g)].map((match) =>
    /pre:\s*([^:]*?)(?:\s*post:|$)/.exec(match[1]!),
  );
  return {
    depends: depends.split(',').filter(Boolean).map(moduleName),
    before: soft.flatMap((match) => (match?.[1] ?? '').split(/\s+/).filter(Boolean).map(moduleName)),
  };
}

function moduleName(path: string): string {
  return basename(path)
    .replace(/\.ko(\.xz)?$/, '')
    .replaceAll('-', '_');
}

async function readModule(path: string, signal: AbortSignal | undefined): Promise<Uint8Array> {
  if (!path.endsWith('.xz')) return readFile(path);
  const plain = path.slice(0, -'.xz'.length);
  await run('xz', ['--decompress', '--keep', '--force', path], { signal });
  return readFile(plain);
}
