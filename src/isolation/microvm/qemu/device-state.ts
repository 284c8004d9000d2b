/** The state of a machine's devices, on its way between a VMM, the machine's folder and a checkpoint. */
import { copyFile, readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { CoppiceError } from '../../../contract/errors.ts';
import { CAPTURE_PATH, STATE_FILE } from './launch.ts';
import type { QmpClient } from './qmp.ts';

const SAVE_DEADLINE_MS = 30_000;
/** What it has to be is 0.3 MiB. */
const MOST_STATE_BYTES = 2 ** 24;

/**
 * Into the machine's own file. The command that Xen uses for this works with every accelerator, and has no section of
 * memory. Not `live`: a stopped machine's drives would be given up for another VMM to take.
 */
export async function saveState(qmp: QmpClient, signal: AbortSignal | undefined): Promise<void> {
  const args = { filename: CAPTURE_PATH, live: false };
  await qmp.execute('xen-save-devices-state', args, { signal, deadlineMs: SAVE_DEADLINE_MS });
}

/** Copies what a machine has saved. `internal`: its VMM has written something else there. */
export async function takeState(folder: string, to: string): Promise<void> {
  const path = join(folder, STATE_FILE);
  const { size } = await stat(path);
  if (size === 0 || size > MOST_STATE_BYTES)
    throw new CoppiceError('internal', `the VMM wrote a device state of ${size} bytes`);
  await copyFile(path, to);
}

/** Gives a machine's folder what it is to restore, in place: a VMM that waits for it has the file open, and owns it. */
export async function giveState(from: string, folder: string): Promise<void> {
  const { size } = await stat(from);
  if (size > MOST_STATE_BYTES) throw new CoppiceError('checkpoint_corrupt', `${from} has ${size} bytes`);
  await writeFile(join(folder, STATE_FILE), await readFile(from), { mode: 0o600 });
}
