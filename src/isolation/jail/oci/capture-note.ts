/**
 * What a capture under way has to say to whoever finds its jail later, in the jail's own folder: a node that is killed in
 * the middle leaves a jail that stands still and a folder half filled.
 */
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { z } from 'zod';
import { CAPTURE_NOTE } from './names.ts';

const WORK = /^\.partial-[0-9a-f]{12}$/;
const note = z.object({
  /** The folder that was to become the checkpoint. */
  work: z.string().refine((path) => WORK.test(basename(path))),
  /** Whether the jail ran before. */
  thaw: z.boolean(),
});

export type CaptureNote = z.infer<typeof note>;

export function writeNote(folder: string, content: CaptureNote): void {
  writeFileSync(join(folder, CAPTURE_NOTE), JSON.stringify(content), { mode: 0o600 });
}

export function removeNote(folder: string): void {
  rmSync(join(folder, CAPTURE_NOTE), { force: true });
}

/** Removes what an unfinished capture has left on the disk; true: its jail is to be thawed, by the caller. Idempotent. */
export function clearCapture(folder: string): boolean {
  let found: CaptureNote;
  try {
    found = note.parse(JSON.parse(readFileSync(join(folder, CAPTURE_NOTE), 'utf8')));
  } catch (error) {
    // None, or a node that was killed while it wrote it, and so before it froze anything.
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') removeNote(folder);
    return false;
  }
  rmSync(found.work, { recursive: true, force: true });
  removeNote(folder);
  return found.thaw;
}
