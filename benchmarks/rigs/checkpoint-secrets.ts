/** Looks for byte strings in the files of a checkpoint. */
import { open, readdir } from 'node:fs/promises';
import { join } from 'node:path';

const PIECE_BYTES = 4 * 2 ** 20;

export interface Search {
  readonly files: number;
  /** Names of those that are there. */
  readonly found: ReadonlySet<string>;
}

export async function searchFolder(folder: string, wanted: ReadonlyMap<string, Buffer>): Promise<Search> {
  const names = await readdir(folder);
  const found = new Set<string>();
  const overlap = Math.max(...Array.from(wanted.values(), ({ length }) => length)) - 1;
  const buffer = Buffer.alloc(PIECE_BYTES + overlap);
  for (const name of names) {
    const file = await open(join(folder, name));
    try {
      for (let at = 0; ; at += PIECE_BYTES) {
        const { bytesRead } = await file.read(buffer, 0, buffer.length, at);
        if (bytesRead === 0) break;
        const piece = buffer.subarray(0, bytesRead);
        for (const [what, bytes] of wanted) if (piece.includes(bytes)) found.add(what);
        if (bytesRead < buffer.length) break;
      }
    } finally {
      await file.close();
    }
  }
  return { files: names.length, found };
}
