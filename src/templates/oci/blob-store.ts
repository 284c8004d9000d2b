/**
 * Parts of images, kept by their digest as `<images>/blobs/<scope>/<hex>`: layers that images share are fetched once. A blob
 * is written in the artifact store's work folder under a lock that ends with its holder, and appears by one rename, after
 * its bytes have proved to be the ones that its name says. What a killed process leaves is swept with the other builds'.
 */
import { createHash, randomUUID } from 'node:crypto';
import { mkdir, open, readdir, rename, rm, stat, utimes } from 'node:fs/promises';
import { join } from 'node:path';
import { CoppiceError } from '../../contract/errors.ts';
import { syncPath } from '../../store/durable.ts';
import { lock } from '../lock.ts';
import { throwIfAborted } from '../run.ts';
import { type Descriptor, hexOf, verified } from './digest.ts';

export interface ObtainOptions {
  readonly signal?: AbortSignal;
  /** Bytes that have come so far; not called for a blob that is there already. */
  readonly onBytes?: (bytes: number) => void;
}

export interface BlobStore {
  /**
   * Path of the blob, which stays for at least an hour. `fetch` is asked for its bytes when it is not there. Errors:
   * bad_request (they are other bytes, fewer or more), aborted, and whatever `fetch` throws.
   */
  obtain(
    blob: Pick<Descriptor, 'digest' | 'size'>,
    fetch: () => Promise<AsyncIterable<Uint8Array>>,
    options?: ObtainOptions,
  ): Promise<string>;
  /** Keeps bytes whose digest nobody has told. More than `limit` of them: bad_request. */
  adopt(
    source: AsyncIterable<Uint8Array>,
    limit: number,
    signal?: AbortSignal,
  ): Promise<{ readonly digest: string; readonly size: number; readonly path: string }>;
}

/** Scope and digest. */
const NAME = /^[0-9a-f]{16}\/[0-9a-f]{64}$/;
/** What has been asked for within this time may be in use. Milliseconds. */
const IN_USE_MS = 3_600_000;

/** `images`: <home>/images. `scope`: of the image's source; one sees nothing of another's. */
export async function openBlobStore(images: string, scope: string): Promise<BlobStore> {
  const folder = join(images, 'blobs', scope);
  await mkdir(folder, { recursive: true, mode: 0o700 });
  const workRoot = join(images, '.work');
  await mkdir(workRoot, { recursive: true, mode: 0o711 });

  /** Writes into a work folder that no other process has, and gives the file to `publish`. */
  const writing = async <T>(
    name: string,
    source: () => Promise<AsyncIterable<Uint8Array>>,
    publish: (file: string) => Promise<T>,
    signal: AbortSignal | undefined,
  ): Promise<T> => {
    const work = join(workRoot, name);
    await rm(work, { recursive: true, force: true });
    await mkdir(work, { mode: 0o700 });
    try {
      const file = join(work, 'blob');
      const handle = await open(file, 'wx', 0o600);
      try {
        for await (const chunk of await source()) {
          throwIfAborted(signal);
          await handle.writeFile(chunk);
        }
        throwIfAborted(signal);
        await handle.sync();
      } finally {
        await handle.close();
      }
      return await publish(file);
    } finally {
      await rm(work, { recursive: true, force: true });
    }
  };

  return {
    async obtain(blob, fetch, { signal, onBytes } = {}) {
      const path = join(folder, hexOf(blob.digest));
      if (await touch(path, blob.size)) return path;
      const name = `blob-${scope}-${hexOf(blob.digest)}`;
      const held = await lock(join(workRoot, `${name}.lock`), signal);
      try {
        // Another process may have fetched it while this one waited for the lock.
        if (await touch(path, blob.size)) return path;
        const bytes = async () => counted(verified(await fetch(), blob), onBytes);
        await writing(name, bytes, (file) => settle(file, path, folder), signal);
        return path;
      } finally {
        held.release();
      }
    },

    async adopt(source, limit, signal) {
      const name = `blob-${randomUUID()}`;
      const held = await lock(join(workRoot, `${name}.lock`), signal);
      try {
        const hash = createHash('sha256');
        let size = 0;
        const measured = async function* (): AsyncGenerator<Uint8Array> {
          for await (const chunk of source) {
            size += chunk.length;
            if (size > limit)
              throw new CoppiceError('bad_request', `a part of the image is longer than ${limit} bytes`);
            hash.update(chunk);
            yield chunk;
          }
        };
        const place = async (file: string) => {
          const digest = `sha256:${hash.digest('hex')}`;
          const path = join(folder, hexOf(digest));
          if (!(await touch(path, size))) await settle(file, path, folder);
          return { digest, size, path };
        };
        return await writing(name, async () => measured(), place, signal);
      } finally {
        held.release();
        await rm(join(workRoot, `${name}.lock`), { force: true });
      }
    },
  };
}

/** Removes blobs that nobody has asked for since `beforeMs` (time of day), and none of the last hour; returns which. */
export async function sweepBlobs(images: string, beforeMs: number): Promise<string[]> {
  const root = join(images, 'blobs');
  const oldest = Math.min(beforeMs, Date.now() - IN_USE_MS);
  const swept: string[] = [];
  for (const path of await readdir(root, { recursive: true }).catch(() => [] as string[])) {
    const stats = NAME.test(path) ? await stat(join(root, path)).catch(() => undefined) : undefined;
    if (stats === undefined || stats.mtimeMs >= oldest) continue;
    await rm(join(root, path), { force: true });
    swept.push(path);
  }
  return swept;
}

/** True when it is there at full length: then it counts as asked for now. */
async function touch(path: string, size: number): Promise<boolean> {
  const stats = await stat(path).catch(() => undefined);
  if (stats?.size !== size) return false;
  const now = new Date();
  await utimes(path, now, now);
  return true;
}

/** Out of the work folder, to stay. */
async function settle(file: string, path: string, folder: string): Promise<void> {
  await rename(file, path);
  await syncPath(folder);
}

async function* counted(
  source: AsyncIterable<Uint8Array>,
  onBytes: ((bytes: number) => void) | undefined,
): AsyncGenerator<Uint8Array> {
  let bytes = 0;
  for await (const chunk of source) {
    yield chunk;
    bytes += chunk.length;
    onBytes?.(bytes);
  }
}
