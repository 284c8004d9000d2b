/** `coppice snapshot …`: through the official SDK, as any user would, and for what it has no verb for through the API. */
import { Sandbox, type SnapshotInfo } from 'e2b';
import type { Template, SnapshotInfo as WholeSnapshot } from '../contract/e2b/responses.ts';
import { askAll } from './ask.ts';
import { drawTree, growTree } from './lineage.ts';
import { type OutputOptions, print, table } from './report.ts';
import { connection } from './sandbox.ts';

export async function list(options: OutputOptions & { readonly sandbox?: string }): Promise<void> {
  const found: SnapshotInfo[] = [];
  const { sandbox } = options;
  const pages = Sandbox.listSnapshots({
    ...connection(),
    limit: 100,
    ...(sandbox === undefined ? {} : { sandboxId: sandbox }),
  });
  while (pages.hasNext) found.push(...(await pages.nextItems()));
  print(options, found, () =>
    table(
      ['SNAPSHOT', 'NAMES'],
      found.map((one) => [one.snapshotId, one.names.join(' ')]),
    ),
  );
}

export async function tree(options: OutputOptions & { readonly sandbox?: string }): Promise<void> {
  const [snapshots, templates] = await Promise.all([
    askAll<WholeSnapshot>('/snapshots?limit=100'),
    askAll<Template>('/v2/templates?limit=100'),
  ]);
  const roots = growTree(snapshots, templates, options.sandbox);
  print(options, roots, () => drawTree(roots));
}

export async function create(sandboxID: string, name: string | undefined, options: OutputOptions): Promise<void> {
  const snapshot = await Sandbox.createSnapshot(sandboxID, {
    ...connection(),
    ...(name === undefined ? {} : { name }),
  });
  print(options, snapshot, () => snapshot.snapshotId);
}

export async function remove(ids: readonly string[], options: OutputOptions): Promise<void> {
  const outcomes = await Promise.all(
    ids.map(async (id) => ({ snapshotID: id, deleted: await Sandbox.deleteSnapshot(id, connection()) })),
  );
  print(options, outcomes, () =>
    outcomes.map((one) => `${one.snapshotID}: ${one.deleted ? 'deleted' : 'not found'}`).join('\n'),
  );
  if (outcomes.some((one) => !one.deleted)) process.exitCode = 1;
}
