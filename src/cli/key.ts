/** `coppice key …`: works on the store, with or without a running service. */

import { CoppiceError } from '../contract/errors.ts';
import { openControlStore } from '../control/control-store.ts';
import { openHome } from '../store/home.ts';
import { type OutputOptions, print, table } from './report.ts';
import { readSettings } from './settings.ts';

function withStore<T>(use: (store: ReturnType<typeof openControlStore>) => T): T {
  const store = openControlStore(openHome(readSettings().homeFolder).controlDatabase);
  try {
    return use(store);
  } finally {
    store.close();
  }
}

export function create(name: string | undefined, options: OutputOptions): void {
  const made = withStore((store) => store.keys.create({ teamID: store.teams.default.teamID, name: name ?? 'unnamed' }));
  print(options, { key: made.key, ...made.view }, () => `${made.key}\n(shown once; id ${made.view.keyID})`);
}

export function list(options: OutputOptions): void {
  const keys = withStore((store) => store.keys.list());
  print(options, keys, () =>
    table(
      ['ID', 'NAME', 'KEY', 'CREATED', 'LAST USED', 'REVOKED'],
      keys.map((key) => [
        key.keyID,
        key.name,
        `${key.mask.prefix}${key.mask.maskedValuePrefix}…${key.mask.maskedValueSuffix}`,
        new Date(key.createdAtMs).toISOString(),
        key.lastUsedAtMs ? new Date(key.lastUsedAtMs).toISOString() : '-',
        key.revokedAtMs ? new Date(key.revokedAtMs).toISOString() : '-',
      ]),
    ),
  );
}

export function revoke(id: string, options: OutputOptions): void {
  if (!withStore((store) => store.keys.revoke(id)))
    throw new CoppiceError('bad_request', `no key ${id} that is in use`);
  print(options, { keyID: id, revoked: true }, () => `revoked ${id}`);
}
