/** What a verb on this host may read of the service's own store. */
import { openControlStore } from '../control/control-store.ts';
import { ensureLocalKey } from '../control/local-key.ts';
import type { Home } from '../store/home.ts';

/** The key of this host's default team, made at the first start. */
export function localKey(home: Home): string {
  const store = openControlStore(home.controlDatabase);
  try {
    return ensureLocalKey(store, home.folder);
  } finally {
    store.close();
  }
}
