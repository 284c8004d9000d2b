/**
 * The key of the person who owns this machine: made at the first start, kept in `<home>/api-key` so that any later
 * start, and `coppice` itself, can use and print it. The file is readable by its owner only.
 */
import { join } from 'node:path';
import type { ControlStore } from './control-store.ts';
import { readPrivately, writePrivately } from './private-file.ts';

const LOCAL_KEY_FILE = 'api-key';

/** Returns the local key; makes a new one if the file is missing or its key is not valid in this store. */
export function ensureLocalKey(store: Pick<ControlStore, 'keys' | 'teams'>, home: string): string {
  const kept = readLocalKey(home);
  if (kept !== undefined && store.keys.authenticate(kept) !== undefined) return kept;
  const { key } = store.keys.create({ teamID: store.teams.default.teamID, name: 'local' });
  writePrivately(join(home, LOCAL_KEY_FILE), key);
  return key;
}

/** The kept key as it is, without asking whether it is still valid. */
export function readLocalKey(home: string): string | undefined {
  return readPrivately(join(home, LOCAL_KEY_FILE));
}
