/** What a verb on this host may read and write of the service's own store. */
import { type ControlStore, openControlStore } from '../control/control-store.ts';
import { ensureLocalKey } from '../control/local-key.ts';
import { type Home, openHome } from '../store/home.ts';
import { readSettings } from './settings.ts';

/** The key of this host's default team, made at the first start. */
export function localKey(home: Home): string {
  return withStore((store) => ensureLocalKey(store, home.folder), home);
}

/** With or without a running service. */
export function withStore<T>(
  use: (store: ControlStore, home: Home) => T,
  home: Home = openHome(readSettings().homeFolder),
): T {
  const store = openControlStore(home.controlDatabase);
  try {
    return use(store, home);
  } finally {
    store.close();
  }
}
