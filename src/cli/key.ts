/** `coppice key …`: works on the store, with or without a running service. */
import { CoppiceError } from '../contract/errors.ts';
import { ensureAdminToken } from '../control/admin-token.ts';
import { withStore } from './local-service.ts';
import { type OutputOptions, print, table } from './report.ts';

/** `team`: name or id; default the default team, and of a list every team. */
interface KeyOptions extends OutputOptions {
  readonly team?: string;
}

export function create(name: string | undefined, options: KeyOptions): void {
  const made = withStore(({ keys, teams }) => {
    const { teamID } = options.team === undefined ? teams.default : teams.find(options.team);
    return keys.create({ teamID, name: name ?? 'unnamed' });
  });
  print(options, { key: made.key, ...made.view }, () => `${made.key}\n(shown once; id ${made.view.keyID})`);
}

export function list(options: KeyOptions): void {
  const { keys, names } = withStore((store) => ({
    keys: store.keys.list(options.team === undefined ? undefined : store.teams.find(options.team).teamID),
    names: new Map(store.teams.list().map((team) => [team.teamID, team.name])),
  }));
  print(options, keys, () =>
    table(
      ['ID', 'NAME', 'TEAM', 'KEY', 'CREATED', 'LAST USED', 'REVOKED'],
      keys.map((key) => [
        key.keyID,
        key.name,
        names.get(key.teamID) ?? key.teamID,
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

/** The operator's token, which the service keeps in its home. */
export function admin(options: OutputOptions & { readonly renew?: boolean }): void {
  const token = withStore((store, home) =>
    ensureAdminToken(store.admin, home.folder, { renew: options.renew === true }),
  );
  print(options, { adminToken: token }, () => token);
}
