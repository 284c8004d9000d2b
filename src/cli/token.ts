/** `coppice token …`: access tokens, which E2B's command line logs in with. Works on the store, as `coppice key` does. */
import { CoppiceError } from '../contract/errors.ts';
import { withStore } from './local-service.ts';
import { type OutputOptions, print, table } from './report.ts';

export function create(name: string | undefined, options: OutputOptions & { readonly team?: readonly string[] }): void {
  const made = withStore(({ tokens, teams }) => {
    const reach = options.team === undefined ? [teams.default] : options.team.map((text) => teams.find(text));
    return tokens.create({ teamIDs: reach.map((team) => team.teamID), name: name ?? 'unnamed' });
  });
  print(options, { token: made.token, ...made.view }, () => `${made.token}\n(shown once; id ${made.view.tokenID})`);
}

export function list(options: OutputOptions): void {
  const { tokens, names } = withStore((store) => ({
    tokens: store.tokens.list(),
    names: new Map(store.teams.list().map((team) => [team.teamID, team.name])),
  }));
  print(options, tokens, () =>
    table(
      ['ID', 'NAME', 'TEAMS', 'TOKEN', 'CREATED', 'REVOKED'],
      tokens.map((token) => [
        token.tokenID,
        token.name,
        token.teamIDs.map((teamID) => names.get(teamID) ?? teamID).join(' '),
        `${token.mask.prefix}${token.mask.maskedValuePrefix}…${token.mask.maskedValueSuffix}`,
        new Date(token.createdAtMs).toISOString(),
        token.revokedAtMs ? new Date(token.revokedAtMs).toISOString() : '-',
      ]),
    ),
  );
}

export function revoke(id: string, options: OutputOptions): void {
  if (!withStore((store) => store.tokens.revoke(id)))
    throw new CoppiceError('bad_request', `no access token ${id} that is in use`);
  print(options, { tokenID: id, revoked: true }, () => `revoked ${id}`);
}
