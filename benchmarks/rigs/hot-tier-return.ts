/** Row: how soon after a restart of the service its hot tier is back. */
import { setTimeout as sleep } from 'node:timers/promises';
import { type RigServiceOptions, withService } from './service.ts';
import { type Summary, summarize } from './statistics.ts';

export interface HotTierReturn {
  readonly clock: string;
  /** Of each template, and of all templates of this host together, jails too: they grow side by side. */
  readonly entries_each: number;
  readonly entries: number;
  readonly service_ready_ms: Summary;
  /** Of the rig's template. */
  readonly first_entry_ms: Summary;
  readonly its_entries_ms: Summary;
  readonly all_entries_ms: Summary;
  /** All of them, from the service's being ready on, by their number. */
  readonly per_entry_ms: Summary;
}

const DEADLINE_MS = 120_000;

export async function measureReturn(
  options: Omit<RigServiceOptions, 'most' | 'connections'> & { readonly template: string; readonly rounds: number },
): Promise<HotTierReturn> {
  const { template, rounds, signal, pool } = options;
  const rows: Record<'ready' | 'first' | 'its' | 'all' | 'each', number[]> = {
    ready: [],
    first: [],
    its: [],
    all: [],
    each: [],
  };
  let entries = 0;
  for (let count = 0; count < rounds; count++)
    await withService(options, async ({ node, startMs }) => {
      const begun = performance.now() - startMs;
      const at: { first?: number; its?: number; all?: number } = {};
      while (at.all === undefined) {
        signal.throwIfAborted();
        const templates = await node.listTemplates();
        const now = performance.now() - begun;
        if (now > DEADLINE_MS) throw new Error(`the hot tier did not come back within ${DEADLINE_MS / 1000} s`);
        const hot = templates.find(({ aliases }) => aliases.includes(template))?.hot ?? 0;
        if (hot > 0) at.first ??= now;
        if (hot >= pool) at.its ??= now;
        if (templates.every((one) => one.hot >= pool)) at.all = now;
        entries = templates.length * pool;
        await sleep(5);
      }
      rows.ready.push(startMs);
      rows.first.push(at.first!);
      rows.its.push(at.its!);
      rows.all.push(at.all);
      rows.each.push((at.all - startMs) / entries);
    });
  return {
    clock:
      'processes of the service started to: both serve; one entry of the template is parked and ready; all of its; all of all templates',
    entries_each: pool,
    entries,
    service_ready_ms: summarize(rows.ready),
    first_entry_ms: summarize(rows.first),
    its_entries_ms: summarize(rows.its),
    all_entries_ms: summarize(rows.all),
    per_entry_ms: summarize(rows.each),
  };
}
