/**
 * The read-only drive that every sandbox gets: Node with its own loader and libraries, the agent with its types stripped,
 * the interpreter's programs, koffi, and a static busybox. The root filesystem of a sandbox needs none of these.
 *
 *     bin/node bin/busybox bin/pid1 bin/sandbox-node
 *     lib/ld.so lib/*.so*                 loader and libraries of Node and koffi
 *     app/package.json                    {"type":"module"}
 *     app/guest/agent/*.js app/guest/interpreter/** app/src/channel/protocol.js
 *     app/node_modules/koffi, app/node_modules/@koromix/koffi-linux-<arch>
 */
import { createHash } from 'node:crypto';
import { chmod, copyFile, cp, lutimes, mkdir, readdir, readFile, realpath, writeFile } from 'node:fs/promises';
import { createRequire, stripTypeScriptTypes } from 'node:module';
import { basename, dirname, join, posix, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { CoppiceError } from '../contract/errors.ts';
import { hashFile } from './artifact-store.ts';
import { IMAGE_TIME, makeExt4 } from './ext4.ts';
import { run } from './run.ts';

/** The checkout that this file belongs to. */
const PROJECT = join(dirname(fileURLToPath(import.meta.url)), '..', '..');
const LABEL = 'coppice-agent';
/** Scripts of guest/ that are started by their path. */
const COMMANDS = ['pid1', 'sandbox-node'] as const;

export interface AgentDriveFiles {
  /** Path on the drive -> bytes. */
  readonly texts: ReadonlyMap<string, Buffer>;
  /** Path on the drive -> file on the host. */
  readonly binaries: ReadonlyMap<string, string>;
  /** Path on the drive -> folder on the host, copied as it is. */
  readonly trees: ReadonlyMap<string, string>;
}

/** Everything on the drive but busybox. `project` is the checkout to take the guest's sources from. */
export async function collectAgentDrive(
  options: { readonly project?: string; readonly node?: string; readonly signal?: AbortSignal } = {},
): Promise<AgentDriveFiles> {
  const { project = PROJECT, signal } = options;
  const node = await realpath(options.node ?? process.execPath);
  const texts = new Map<string, Buffer>();
  texts.set('app/package.json', Buffer.from('{"type":"module"}\n'));
  for (const name of COMMANDS) texts.set(`bin/${name}`, await readFile(join(project, 'guest', name)));
  await collectSources(project, 'guest/agent', texts);
  await collectSources(project, 'guest/interpreter', texts);
  texts.set('app/src/channel/protocol.js', await stripFile(join(project, 'src', 'channel', 'protocol.ts')));

  checkImports(texts);
  const trees = new Map<string, string>();
  const addon = koffiFolders(trees);
  const binaries = new Map([['bin/node', node]]);
  for (const [name, path] of await sharedLibraries([node, addon], signal)) binaries.set(`lib/${name}`, path);
  return { texts, binaries, trees };
}

/** Hex SHA-256 of all that goes onto the drive, by path and content. */
export async function hashAgentDrive(files: AgentDriveFiles): Promise<string> {
  const lines: string[] = [];
  for (const [path, bytes] of files.texts) lines.push(`${path} ${createHash('sha256').update(bytes).digest('hex')}`);
  for (const [path, source] of files.binaries) lines.push(`${path} ${await hashFile(source)}`);
  for (const [path, source] of files.trees) {
    for (const entry of await readdir(source, { recursive: true, withFileTypes: true })) {
      const file = join(entry.parentPath, entry.name);
      if (entry.isFile() && wantedOfTree(source, file))
        lines.push(`${path}/${relative(source, file)} ${await hashFile(file)}`);
    }
  }
  return createHash('sha256').update(lines.toSorted().join('\n')).digest('hex');
}

/** Lays the files out under `scratch` and writes the ext4 image. */
export async function writeAgentDrive(
  image: string,
  scratch: string,
  files: AgentDriveFiles,
  busybox: string,
  signal?: AbortSignal,
): Promise<void> {
  const root = join(scratch, 'drive');
  await mkdir(root, { recursive: true });
  const place = async (path: string) => {
    const target = join(root, path);
    await mkdir(dirname(target), { recursive: true });
    return target;
  };
  for (const [path, bytes] of files.texts) await writeFile(await place(path), bytes, { mode: 0o644 });
  for (const [path, source] of [...files.binaries, ['bin/busybox', busybox] as const]) {
    const target = await place(path);
    await copyFile(source, target);
    await chmod(target, 0o755);
  }
  for (const [path, source] of files.trees) {
    await cp(source, await place(path), {
      recursive: true,
      dereference: true,
      filter: (from) => wantedOfTree(source, from),
    });
  }
  for (const name of COMMANDS) await chmod(join(root, 'bin', name), 0o755);
  await settle(root);
  await makeExt4(root, image, { label: LABEL, signal, reproducible: true });
}

const ENTRY = 'app/guest/agent/main.js';

/** Every program text on the drive finds what it imports there; else the agent would only fail in the guest. */
export function checkImports(texts: ReadonlyMap<string, Buffer>): void {
  if (!texts.has(ENTRY)) throw new CoppiceError('internal', `the agent has no ${ENTRY}`);
  for (const [path, bytes] of texts) {
    if (!path.endsWith('.js')) continue;
    for (const match of bytes.toString('utf8').matchAll(IMPORT)) {
      const target = match[3]!;
      if (target.startsWith('node:') || target === 'koffi') continue;
      if (target.startsWith('.') && texts.has(posix.join(posix.dirname(path), target))) continue;
      throw new CoppiceError('internal', `${path} imports ${target}, which is not on the agent drive`);
    }
  }
}

/** Imports and re-exports of a literal, on one line or after the closing brace of several; and dynamic imports. */
const IMPORT =
  /((?:^|;)\s*(?:import|export)\b[^'"\n;=(]*?\bfrom\s*|(?:^|;)\s*import\s*|^\s*\}\s*from\s*|\bimport\s*\(\s*)(['"])([^'"\n]+)\2/gm;

/** Type-stripped JavaScript whose relative imports name `.js` files. */
export function stripSource(source: string): string {
  return stripTypeScriptTypes(source, { mode: 'strip' }).replace(IMPORT, (whole, before, quote, target) =>
    target.startsWith('.') && target.endsWith('.ts')
      ? `${before}${quote}${target.slice(0, -'.ts'.length)}.js${quote}`
      : whole,
  );
}

/** Names and paths that `ldd` printed, the loader as `ld.so`. A library that was not found: host_unfit. */
export function parseLdd(text: string): Map<string, string> {
  const found = new Map<string, string>();
  for (const line of text.split('\n')) {
    const library = /^\s+(\S+) => (\/\S+) \(0x/.exec(line);
    const loader = /^\s+(\/\S+) \(0x/.exec(line);
    const missing = /^\s+(\S+) => not found/.exec(line);
    if (missing !== null) throw new CoppiceError('host_unfit', `the shared library ${missing[1]} is not installed`);
    if (library !== null && !/^ld-|^ld64|\/ld-/.test(library[1]!)) found.set(library[1]!, library[2]!);
    else if (library !== null) found.set('ld.so', library[2]!);
    else if (loader !== null) found.set('ld.so', loader[1]!);
  }
  return found;
}

async function sharedLibraries(
  binaries: readonly string[],
  signal: AbortSignal | undefined,
): Promise<Map<string, string>> {
  const all = new Map<string, string>();
  for (const binary of binaries) {
    const { stdout } = await run('ldd', [binary], { signal });
    for (const [name, path] of parseLdd(stdout)) all.set(name, await realpath(path));
  }
  if (!all.has('ld.so')) throw new CoppiceError('host_unfit', `${binaries[0]} is not a dynamic glibc program`);
  return all;
}

async function collectSources(project: string, folder: string, texts: Map<string, Buffer>): Promise<void> {
  const names = await readdir(join(project, folder), { recursive: true }).catch(() => [] as string[]);
  for (const name of names.toSorted()) {
    const path = join(project, folder, name);
    if (name.endsWith('.ts') && !name.endsWith('.d.ts'))
      texts.set(`app/${folder}/${name.slice(0, -'.ts'.length)}.js`, await stripFile(path));
    else if (/\.(py|js|json|bash|R|java)$/.test(name)) texts.set(`app/${folder}/${name}`, await readFile(path));
  }
}

async function stripFile(path: string): Promise<Buffer> {
  return Buffer.from(stripSource(await readFile(path, 'utf8')));
}

/** Adds koffi's JavaScript and its addon for this machine; returns the addon's path. */
function koffiFolders(trees: Map<string, string>): string {
  const require = createRequire(import.meta.url);
  const koffi = dirname(require.resolve('koffi'));
  const name = `koffi-linux-${process.arch}`;
  const addons = dirname(createRequire(join(koffi, 'package.json')).resolve(`@koromix/${name}`));
  trees.set('app/node_modules/koffi', koffi);
  trees.set(`app/node_modules/@koromix/${name}`, addons);
  return join(addons, `linux_${process.arch}`, 'koffi.node');
}

/** Left out of koffi's folders: documents, C sources, type declarations, the addon for musl. */
function wantedOfTree(tree: string, path: string): boolean {
  const inside = relative(tree, path);
  const [first = ''] = inside.split('/');
  if (['doc', 'vendor', 'cnoke.cjs'].includes(first) || first.startsWith('musl_')) return false;
  if (basename(inside) === 'CMakeLists.txt') return false;
  return !/\.(md|d\.ts|cc|hh|inc|def|S|asm)$/.test(basename(inside));
}

/** One time for every file and folder, so that equal content gives an equal image. */
async function settle(folder: string): Promise<void> {
  for (const entry of await readdir(folder, { withFileTypes: true })) {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) await settle(path);
    else await lutimes(path, IMAGE_TIME, IMAGE_TIME);
  }
  await chmod(folder, 0o755);
  await lutimes(folder, IMAGE_TIME, IMAGE_TIME);
}
