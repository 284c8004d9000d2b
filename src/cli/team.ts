/** `coppice team …`: works on the store, with or without a running service. */
import { withStore } from './local-service.ts';
import { type OutputOptions, print, table } from './report.ts';

export function create(name: string, options: OutputOptions): void {
  const team = withStore(({ teams }) => teams.create(name));
  print(options, team, () => team.teamID);
}

export function list(options: OutputOptions): void {
  const teams = withStore((store) => store.teams.list());
  print(options, teams, () =>
    table(
      ['ID', 'NAME', 'DEFAULT', 'CREATED'],
      teams.map((team) => [
        team.teamID,
        team.name,
        team.isDefault ? 'yes' : '-',
        new Date(team.createdAtMs).toISOString(),
      ]),
    ),
  );
}
