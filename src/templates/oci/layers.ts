/** Reads the layers of an image, lowest first, into one tree; the bytes of their files go to files with names of ours. */
import { createHash } from 'node:crypto';
import { closeSync, createReadStream, openSync, rmSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { CoppiceError } from '../../contract/errors.ts';
import { throwIfAborted } from '../run.ts';
import { decompressed } from './decompress.ts';
import { type Attributes, ImageTree } from './image-tree.ts';
import { readTar, type TarEntry } from './tar-reader.ts';
import { isKeptAttribute } from './xattrs.ts';

export interface LayerFile {
  /** The blob, packed as it is. */
  readonly path: string;
  /** Digest of what it unpacks to; undefined: nobody has told. */
  readonly diffID?: string;
}

export interface LayerLimits {
  /** Bytes that all layers unpack to. */
  readonly bytes: number;
  readonly entries: number;
}

/** Bytes of all names and the targets of links. */
const NAME_BYTES = 256 * 2 ** 20;
/** Bytes of a file's attributes: with their names they are to fit one block of the file system. */
const ATTRIBUTE_BYTES = 3_072;

export const LAYER_LIMITS: LayerLimits = { bytes: 32 * 2 ** 30, entries: 600_000 };

export interface LayersRead {
  readonly tree: ImageTree;
  /** Devices and pipes, which no image of ours holds: a sandbox has a /dev of its own. */
  readonly leftOut: number;
}

/**
 * `folder`: empty, and nobody's but ours. Errors: bad_request (a layer is damaged, hostile, too large, or not what the
 * image's configuration says), aborted.
 */
export async function readLayers(
  layers: readonly LayerFile[],
  folder: string,
  options: {
    readonly limits?: LayerLimits;
    readonly signal?: AbortSignal;
    /** Before each layer: its place from 1 on. */
    readonly onLayer?: (place: number) => void;
  } = {},
): Promise<LayersRead> {
  const { limits = LAYER_LIMITS, signal, onLayer } = options;
  const tree = new ImageTree((content) => {
    if ('file' in content) rmSync(content.file, { force: true });
  });
  const budget = { bytes: limits.bytes, entries: limits.entries, names: NAME_BYTES };
  let files = 0;
  let leftOut = 0;
  for (const [at, layer] of layers.entries()) {
    onLayer?.(at + 1);
    tree.beginLayer();
    for await (const entry of readTar(hashed(decompressed(createReadStream(layer.path)), layer.diffID, budget))) {
      throwIfAborted(signal);
      if (--budget.entries < 0) throw bad(`has more than ${limits.entries} files`);
      budget.names -= entry.path.length + entry.target.length;
      if (budget.names < 0) throw bad('has names that take too much memory');
      if (tree.hide(entry.path)) continue;
      const change = { path: entry.path, attributes: attributesOf(entry) };
      if (entry.type === 'folder') tree.addFolder(change);
      else if (entry.type === 'symlink') tree.addSymlink(change, entry.target);
      else if (entry.type === 'hardlink') tree.addHardlink(entry.path, entry.target);
      else if (entry.type === 'file') {
        const file = join(folder, String(files++));
        await writeBody(file, entry, signal);
        tree.addFile(change, { file, size: entry.size });
      } else leftOut += 1;
    }
  }
  return { tree, leftOut };
}

function attributesOf({ mode, uid, gid, mtimeMs, xattrs }: TarEntry): Attributes {
  const kept = new Map([...xattrs].filter(([name]) => isKeptAttribute(name)));
  let bytes = 0;
  for (const [name, value] of kept) bytes += name.length + value.length;
  if (bytes > ATTRIBUTE_BYTES) throw bad('has a file with more extended attributes than a file system takes');
  return { mode, uid, gid, mtimeMs, xattrs: kept };
}

async function writeBody(file: string, { body }: TarEntry, signal: AbortSignal | undefined): Promise<void> {
  const fd = openSync(file, 'wx', 0o600);
  try {
    for await (const chunk of body) {
      throwIfAborted(signal);
      for (let at = 0; at < chunk.length; ) at += writeSync(fd, chunk, at);
    }
  } finally {
    closeSync(fd);
  }
}

/** Counts what is unpacked against what is left of the budget, and checks at the end that it is what was promised. */
async function* hashed(
  source: AsyncIterable<Uint8Array>,
  diffID: string | undefined,
  budget: { bytes: number },
): AsyncGenerator<Uint8Array> {
  const hash = createHash('sha256');
  for await (const chunk of source) {
    budget.bytes -= chunk.length;
    if (budget.bytes < 0) throw bad('unpacks to more than a sandbox could hold');
    hash.update(chunk);
    yield chunk;
  }
  const got = `sha256:${hash.digest('hex')}`;
  if (diffID !== undefined && got !== diffID)
    throw bad(`has a layer that unpacks to ${got}, and its configuration says ${diffID}`);
}

function bad(what: string): CoppiceError {
  return new CoppiceError('bad_request', `the image ${what}`);
}
