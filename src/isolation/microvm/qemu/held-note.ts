/**
 * Says in a machine's own folder that a node has stopped it through its monitor, to whoever finds it later: a node that is
 * killed in the middle of a capture leaves a machine that no signal wakes.
 */
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { z } from 'zod';

const NOTE_FILE = 'held.json';
const note = z.object({
  /** Whether it was parked before. */
  parked: z.boolean(),
});

export type HeldNote = z.infer<typeof note>;

export function writeNote(folder: string, content: HeldNote): void {
  writeFileSync(join(folder, NOTE_FILE), JSON.stringify(content), { mode: 0o600 });
}

export function removeNote(folder: string): void {
  rmSync(join(folder, NOTE_FILE), { force: true });
}

/** undefined: nobody has stopped it. */
export function readNote(folder: string): HeldNote | undefined {
  try {
    return note.parse(JSON.parse(readFileSync(join(folder, NOTE_FILE), 'utf8')));
  } catch (error) {
    // One that is not whole is of a node that was killed while it wrote it, and so before it stopped anything.
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') removeNote(folder);
    return undefined;
  }
}
