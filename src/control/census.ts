/** Every team's sandboxes: a node is asked for those of one team at a time. */
import { isCoppiceError } from '../contract/errors.ts';
import type { NodeApi, SandboxView } from '../contract/node-api.ts';
import type { Teams } from './teams.ts';

const KILLS_AT_ONCE = 10;

/** How many of each team run; teams of which none does are in it too. */
export async function countRunning(node: NodeApi, teams: Pick<Teams, 'list'>): Promise<ReadonlyMap<string, number>> {
  const counts = new Map<string, number>();
  for (const { teamID } of teams.list()) {
    const { totalRunning } = await node.listSandboxes({ teamID, states: ['running'], order: 'desc', limit: 1 });
    counts.set(teamID, totalRunning);
  }
  return counts;
}

export async function listRunning(
  node: NodeApi,
  teamID: string,
  filter: { readonly metadata?: Readonly<Record<string, string>> } = {},
): Promise<readonly SandboxView[]> {
  const sandboxes: SandboxView[] = [];
  for (let after: { startedAtMs: number; sandboxID: string } | undefined; ; ) {
    const page = await node.listSandboxes({
      teamID,
      states: ['running'],
      ...filter,
      order: 'desc',
      limit: 100,
      ...(after === undefined ? {} : { after }),
    });
    sandboxes.push(...page.sandboxes);
    if (page.next === undefined || page.sandboxes.length === 0) return sandboxes;
    after = page.next;
  }
}

/** What is paused runs nothing and stays, as E2B has it. One that has ended by itself meanwhile counts as neither. */
export async function killRunning(
  node: NodeApi,
  teamID: string,
): Promise<{ readonly killed: number; readonly failed: number }> {
  const waiting = (await listRunning(node, teamID)).values();
  let killed = 0;
  let failed = 0;
  const work = async (): Promise<void> => {
    for (const { sandboxID } of waiting) {
      try {
        await node.killSandbox(teamID, sandboxID);
        killed++;
      } catch (error) {
        if (!isCoppiceError(error, 'sandbox_not_found')) failed++;
      }
    }
  };
  await Promise.all(Array.from({ length: KILLS_AT_ONCE }, work));
  return { killed, failed };
}
