/**
 * Images that the operator has brought to this host as files, kept as `<images>/imported/<hash of the name>/`: the archive as
 * it came, and a note with its name. Builds name them `localhost/<name>[:<tag>]`, as podman names images of its own host.
 */
import { createHash, randomUUID } from 'node:crypto';
import { createReadStream, createWriteStream } from 'node:fs';
import { mkdir, readdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { z } from 'zod';
import { CoppiceError } from '../../contract/errors.ts';
import { syncPath } from '../../store/durable.ts';
import { archiveSource } from './archive.ts';
import { openBlobStore } from './blob-store.ts';
import { type ImageSource, LOCAL_SCOPE } from './image-source.ts';
import { resolveImage } from './pull.ts';
import { formatImageReference, type ImageReference, parseImageReference } from './reference.ts';

/** The registry that no image is fetched from. */
export const LOCAL_REGISTRY = 'localhost';

const ARCHIVE = 'image.tar';
const NOTE = 'imported.json';
const PARTIAL = '.partial-';
const note = z.object({
  name: z.string(),
  member: z.string().optional(),
  digest: z.string(),
  importedAtMs: z.number(),
});

export interface ImportedImage {
  /** As builds name it: `localhost/<name>:<tag>`. */
  readonly name: string;
  /** Of its manifest, or of the index it was chosen from. */
  readonly digest: string;
  readonly importedAtMs: number;
  /** Of the archive. */
  readonly bytes: number;
}

export interface ImportRequest {
  /** Path of the archive: OCI's layout in a tar, or what `docker save` writes, packed or not. */
  readonly file: string;
  /** `<name>[:<tag>]`, with or without `localhost/`. */
  readonly name: string;
  /** Which image, where the archive holds several: a name as the archive has it. */
  readonly member?: string;
  readonly signal?: AbortSignal;
}

/**
 * Takes the place of an image of this name. `images`: <home>/images. What a killed import leaves, the next one removes.
 * Errors: bad_request (the archive holds no image for this host, the name is none), aborted.
 */
export async function importImage(images: string, request: ImportRequest): Promise<ImportedImage> {
  const { file, member, signal } = request;
  const name = nameOf(localReference(request.name));
  const root = join(images, 'imported');
  await mkdir(root, { recursive: true, mode: 0o700 });
  for (const left of await readdir(root)) if (left.startsWith(PARTIAL)) await removeStale(join(root, left));
  const work = join(root, `${PARTIAL}${randomUUID()}`);
  await mkdir(work, { mode: 0o700 });
  try {
    const archive = join(work, ARCHIVE);
    await pipeline(createReadStream(file), createWriteStream(archive, { flags: 'wx', mode: 0o600 }), { signal }).catch(
      (cause) => {
        if (signal?.aborted) throw new CoppiceError('aborted', 'given up by the caller', { cause });
        throw new CoppiceError('bad_request', `${file} cannot be imported: ${(cause as Error).message}`, { cause });
      },
    );
    const source = await sourceOf(images, archive, name, member, signal);
    const { digest } = await resolveImage(source, { signal });
    const importedAtMs = Date.now();
    await writeFile(join(work, NOTE), JSON.stringify({ name, member, digest, importedAtMs }));
    for (const path of [archive, join(work, NOTE), work]) await syncPath(path);
    const folder = folderOf(root, name);
    await rm(folder, { recursive: true, force: true });
    await rename(work, folder);
    await syncPath(root);
    return { name, digest, importedAtMs, bytes: (await stat(join(folder, ARCHIVE))).size };
  } finally {
    await rm(work, { recursive: true, force: true });
  }
}

export async function listImported(images: string): Promise<ImportedImage[]> {
  const root = join(images, 'imported');
  const found: ImportedImage[] = [];
  for (const entry of await readdir(root).catch(() => [] as string[])) {
    if (entry.startsWith(PARTIAL)) continue;
    const known = await readNote(join(root, entry));
    if (!known) continue;
    const { name, digest, importedAtMs } = known;
    found.push({ name, digest, importedAtMs, bytes: (await stat(join(root, entry, ARCHIVE))).size });
  }
  return found.sort((a, b) => (a.name < b.name ? -1 : 1));
}

/** Templates that were built from it are as they were. Returns false where there is none of this name. */
export async function removeImported(images: string, name: string): Promise<boolean> {
  const folder = folderOf(join(images, 'imported'), nameOf(localReference(name)));
  const known = await readNote(folder);
  await rm(folder, { recursive: true, force: true });
  return known !== undefined;
}

/** For a reference whose registry is LOCAL_REGISTRY. No such image: bad_request, which names those that there are. */
export async function importedSource(
  images: string,
  reference: ImageReference,
  signal?: AbortSignal,
): Promise<ImageSource> {
  const name = nameOf(reference);
  const folder = folderOf(join(images, 'imported'), name);
  const known = await readNote(folder);
  if (!known) {
    const names = (await listImported(images)).map((one) => one.name).slice(0, 20);
    throw new CoppiceError(
      'bad_request',
      `no image ${name} was imported; the operator's \`coppice image import\` brings one. There are: ${names.join(', ') || 'none'}`,
    );
  }
  return sourceOf(images, join(folder, ARCHIVE), name, known.member, signal);
}

async function sourceOf(
  images: string,
  archive: string,
  name: string,
  member: string | undefined,
  signal: AbortSignal | undefined,
): Promise<ImageSource> {
  const options = { ...(member === undefined ? {} : { tag: member }), ...(signal ? { signal } : {}) };
  return { ...(await archiveSource(archive, await openBlobStore(images, LOCAL_SCOPE), options)), name };
}

function localReference(text: string): ImageReference {
  const whole = text.startsWith(`${LOCAL_REGISTRY}/`) ? text : `${LOCAL_REGISTRY}/${text}`;
  return parseImageReference(whole);
}

/** A name and a tag; an archive has no other digests to choose from. */
function nameOf(reference: ImageReference): string {
  if (reference.digest !== undefined || reference.registry !== LOCAL_REGISTRY)
    throw new CoppiceError('bad_request', `'${formatImageReference(reference)}' is no name of an imported image`);
  return formatImageReference(reference);
}

function folderOf(root: string, name: string): string {
  return join(root, createHash('sha256').update(name).digest('hex').slice(0, 32));
}

async function readNote(folder: string): Promise<z.infer<typeof note> | undefined> {
  try {
    return note.parse(JSON.parse(await readFile(join(folder, NOTE), 'utf8')));
  } catch {
    return undefined;
  }
}

/** A day is longer than any import. */
async function removeStale(work: string): Promise<void> {
  const { mtimeMs } = await stat(work).catch(() => ({ mtimeMs: Date.now() }));
  if (mtimeMs < Date.now() - 86_400_000) await rm(work, { recursive: true, force: true });
}
