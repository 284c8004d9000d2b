/** How a checkpoint that is written whole comes to its place: one rename, that lasts. */
import { rename } from 'node:fs/promises';
import { dirname } from 'node:path';
import { CoppiceError } from '../contract/errors.ts';
import { syncPath } from '../store/durable.ts';

/** Publishes the folder `work`, whose files are on disk already, as `out`. `conflict`: there is one. */
export async function publishFolder(work: string, out: string): Promise<void> {
  await syncPath(work);
  await rename(work, out).catch((cause: NodeJS.ErrnoException) => {
    if (!['ENOTEMPTY', 'EEXIST', 'ENOTDIR'].includes(cause.code ?? '')) throw cause;
    throw new CoppiceError('conflict', `there is a checkpoint already at ${out}`, { cause });
  });
  await syncPath(dirname(out));
}
