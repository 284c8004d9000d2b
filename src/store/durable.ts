/** What lasts on disk. */
import { open } from 'node:fs/promises';

/** Makes what was written to a file or folder last through a crash of the host. */
export async function syncPath(path: string): Promise<void> {
  const handle = await open(path, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}
