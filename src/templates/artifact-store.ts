/**
 * Built files, kept by what was asked for and named by what came out. An artifact is a folder
 * `<root>/<kind>-<key>-<content>` with its files and artifact.json: `key` hashes the inputs, `content` the files. It is
 * built in `<root>/.work/` under a lock that the kernel releases with its holder, and appears by one rename.
 */
import { createHash, randomUUID } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { mkdir, readdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { CoppiceError } from '../contract/errors.ts';
import { syncPath } from '../store/durable.ts';
import { type Lock, lock, tryLock } from './lock.ts';
import { throwIfAborted } from './run.ts';

/** artifact.json */
export interface ArtifactManifest {
  readonly format: 1;
  readonly kind: string;
  readonly key: string;
  /** SHA-256 over the files below, hex. */
  readonly content: string;
  readonly createdAtMs: number;
  readonly files: Readonly<Record<string, { readonly bytes: number; readonly sha256: string }>>;
  /** What the inputs turned out to be, e.g. package versions. */
  readonly notes: Readonly<Record<string, string>>;
}

export interface Artifact {
  readonly folder: string;
  readonly manifest: ArtifactManifest;
  /** True when it was there already. */
  readonly cached: boolean;
}

export interface ArtifactRequest {
  /** [a-z0-9-]+ */
  readonly kind: string;
  /** Everything that decides what is built; hashed as JSON. */
  readonly inputs: unknown;
  /** Build even if a matching artifact exists. */
  readonly force?: boolean;
  readonly signal?: AbortSignal;
  /** Fills `out` with the files (no folders); `work` is scratch space. Returns notes. */
  build(out: string, work: string): Promise<Readonly<Record<string, string>>>;
}

const MANIFEST = 'artifact.json';
const KEY_DIGITS = 16;
const NAME = /^([a-z0-9-]+)-([0-9a-f]{16})-([0-9a-f]{16})$/;

/** The newest artifact with these inputs, building it if there is none. One builder at a time per kind and key. */
export async function obtainArtifact(root: string, request: ArtifactRequest): Promise<Artifact> {
  const { kind, signal, force = false } = request;
  const key = artifactKey(request.inputs);
  const askedAtMs = Date.now();
  const present = await newest(root, kind, key);
  if (present !== undefined && !force) return present;
  const workRoot = join(root, '.work');
  await mkdir(workRoot, { recursive: true, mode: 0o711 });
  const held = await lock(join(workRoot, `${kind}-${key}.lock`), signal);
  try {
    const other = await newest(root, kind, key);
    // Another process may have built it while this one waited for the lock; that one is as new as was asked for.
    if (other !== undefined && (!force || other.manifest.createdAtMs >= askedAtMs)) return other;
    const work = join(workRoot, `${kind}-${key}`);
    await removeTree(work);
    const out = join(work, 'out');
    const scratch = join(work, 'scratch');
    await mkdir(out, { recursive: true, mode: 0o755 });
    await mkdir(scratch, { mode: 0o711 });
    try {
      const notes = await request.build(out, scratch);
      throwIfAborted(signal);
      return await publish(root, kind, key, out, notes);
    } finally {
      await removeTree(work);
    }
  } finally {
    held.release();
  }
}

/** Hex digits that name these inputs. */
export function artifactKey(inputs: unknown): string {
  return createHash('sha256').update(JSON.stringify(inputs)).digest('hex').slice(0, KEY_DIGITS);
}

/** Hex SHA-256 of a file. */
export async function hashFile(path: string): Promise<string> {
  const hash = createHash('sha256');
  await pipeline(createReadStream(path, { highWaterMark: 1024 * 1024 }), hash);
  return hash.digest('hex');
}

/** Reads an artifact and checks that its files are there at full length. undefined: it is not whole. */
export async function openArtifact(folder: string): Promise<Artifact | undefined> {
  try {
    const manifest = JSON.parse(await readFile(join(folder, MANIFEST), 'utf8')) as ArtifactManifest;
    if (manifest.format !== 1) return undefined;
    for (const [name, { bytes }] of Object.entries(manifest.files)) {
      if ((await stat(join(folder, name))).size !== bytes) return undefined;
    }
    return { folder, manifest, cached: true };
  } catch {
    return undefined;
  }
}

/** Removes what dead builders left in the work folder. Builds under way, here or in another process, are untouched. */
export async function sweepWork(root: string): Promise<string[]> {
  const workRoot = join(root, '.work');
  const names = await readdir(workRoot).catch(() => [] as string[]);
  const swept: string[] = [];
  for (const name of names) {
    if (name.endsWith('.lock') || name.endsWith('.lock-journal')) continue;
    const held: Lock | undefined = tryLock(join(workRoot, `${name}.lock`));
    if (held === undefined) continue;
    try {
      await removeTree(join(workRoot, name));
      swept.push(name);
    } finally {
      held.release();
    }
  }
  return swept;
}

/** Removes artifacts that hold none of the `keep` files (absolute paths); returns the folders removed. */
export async function sweepArtifacts(root: string, keep: ReadonlySet<string>): Promise<string[]> {
  const removed: string[] = [];
  const folders = new Set([...keep].map((path) => path.slice(0, path.lastIndexOf('/'))));
  for (const name of await readdir(root).catch(() => [] as string[])) {
    const folder = join(root, name);
    if (!NAME.test(name) || folders.has(folder)) continue;
    await discard(root, folder);
    removed.push(folder);
  }
  return removed;
}

async function newest(root: string, kind: string, key: string): Promise<Artifact | undefined> {
  const names = await readdir(root).catch(() => [] as string[]);
  let best: Artifact | undefined;
  for (const name of names) {
    const match = NAME.exec(name);
    if (match === null || match[1] !== kind || match[2] !== key) continue;
    const artifact = await openArtifact(join(root, name));
    if (artifact === undefined) continue;
    if (best === undefined || artifact.manifest.createdAtMs > best.manifest.createdAtMs) best = artifact;
  }
  return best;
}

async function publish(
  root: string,
  kind: string,
  key: string,
  out: string,
  notes: Readonly<Record<string, string>>,
): Promise<Artifact> {
  const files: Record<string, { bytes: number; sha256: string }> = {};
  for (const name of (await readdir(out)).toSorted()) {
    const path = join(out, name);
    files[name] = { bytes: (await stat(path)).size, sha256: await hashFile(path) };
    await syncPath(path);
  }
  const content = createHash('sha256').update(JSON.stringify(files)).digest('hex');
  const manifest: ArtifactManifest = { format: 1, kind, key, content, createdAtMs: Date.now(), files, notes };
  await writeFile(join(out, MANIFEST), `${JSON.stringify(manifest, null, 2)}\n`);
  await syncPath(join(out, MANIFEST));
  const folder = join(root, `${kind}-${key}-${content.slice(0, KEY_DIGITS)}`);
  const same = await openArtifact(folder);
  if (same !== undefined) {
    // The same bytes came out again: machines may be using these files, so only their date is renewed.
    const temporary = join(root, '.work', `${randomUUID()}.json`);
    await writeFile(temporary, `${JSON.stringify(manifest, null, 2)}\n`);
    await rename(temporary, join(folder, MANIFEST));
  } else {
    await discard(root, folder);
    await rename(out, folder);
  }
  await syncPath(root);
  const published = await openArtifact(folder);
  if (published === undefined) throw new CoppiceError('internal', `${folder} is not whole after it was published`);
  return { ...published, cached: false };
}

/** Out of sight by one rename first, so that a half-removed artifact is never found. */
async function discard(root: string, folder: string): Promise<void> {
  const bin = join(root, '.work', `discarded-${randomUUID()}`);
  try {
    await mkdir(join(root, '.work'), { recursive: true, mode: 0o711 });
    await rename(folder, bin);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return;
    throw error;
  }
  await removeTree(bin);
}

async function removeTree(path: string): Promise<void> {
  await rm(path, { recursive: true, force: true, maxRetries: 3 });
}
